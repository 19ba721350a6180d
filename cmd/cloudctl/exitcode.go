package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"sigs.k8s.io/yaml"

	"dormouse/client"
)

// The exit codes. Scripts rely on them: none may change its meaning.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitConflict    = 4
	exitTimeout     = 5
	exitUnreachable = 6
	exitCapacity    = 7
	exitInterrupted = 130
	exitTerminated  = 143
)

const exitCodesHelp = `The exit codes of cloudctl, which scripts can rely on:

  0    done. Without --wait: the server has accepted the change and works on it.
       With --wait: the operation has succeeded, the rollout is as was asked for.
  1    failed: the operation failed or was cancelled, the rollout was halted or
       ended otherwise than asked for, or the server has a fault.
  2    usage: the command line, a file that it names, or a value in it is wrong.
       Sent again as it is, it will fail again.
  3    not found: there is no such installation, group, rollout, cluster, package
       or operation.
  4    conflict: it exists already, its state does not accept the request now,
       or it has changed since (--if-version).
  5    timed out waiting (--timeout). The work itself goes on.
  6    unreachable: no answer from the server after several tries, or an answer
       that it can't work now. A change may have been accepted; it is safe to look.
  7    no room: refused, or failed, for want of capacity.
  130  interrupted by Ctrl-C, 143 ended by SIGTERM. What the server has accepted
       goes on.

Errors are written to standard error: one line says what happened, one what to
do. With -o json or yaml they are one problem document (RFC 9457), with the
members kind, detail, advice, exit_code and, where there is one, operation or
rollout.
`

// usageError is a command line that can't work.
type usageError struct {
	err    error
	advice string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

// operationError is a wait that did not end well.
type operationError struct {
	operation client.Operation
	// waiting is why waiting ended before the operation did; nil if the operation ended.
	waiting error
}

func (e *operationError) Error() string {
	op := e.operation
	what := describe(op)
	switch {
	case e.waiting != nil:
		return fmt.Sprintf("waiting for the %s: %v", what, e.waiting)
	case op.State == "cancelled":
		return fmt.Sprintf("the %s was cancelled%s", what, because(op.FailReason, op.Error))
	}
	at := ""
	if op.Step != "" {
		at = fmt.Sprintf(" at step %d of %d, %s", op.StepNumber, op.StepsTotal, op.Step)
	}
	return fmt.Sprintf("the %s failed%s%s", what, at, because(op.FailReason, op.Error))
}

func (e *operationError) Unwrap() error { return e.waiting }

func because(reason, detail string) string {
	text := ""
	if reason != "" {
		text = ": " + reason
	}
	if detail != "" {
		text += ": " + detail
	}
	return text
}

// describe names an operation for people.
func describe(op client.Operation) string {
	name := op.ResourceName
	if name == "" {
		name = op.ResourceID
	}
	return strings.TrimSuffix(op.Kind, "-cluster") + " of " + name
}

// failure is an error as it is told: the problem, the advice, the code.
type failure struct {
	client.Problem
	Advice    string `json:"advice,omitempty"`
	ExitCode  int    `json:"exit_code"`
	Operation string `json:"operation,omitempty"`
	Rollout   string `json:"rollout,omitempty"`
}

// fail tells the error and returns the exit code.
func (a *app) fail(ctx context.Context, err error) int {
	if errors.Is(err, syscall.EPIPE) {
		return exitFailed // the reader of our output has left; nobody listens
	}
	f := a.explainError(ctx, err)
	switch a.output {
	case formatJSON, formatYAML:
		document, encodeErr := json.MarshalIndent(f, "", "  ")
		if encodeErr == nil && a.output == formatYAML {
			document, encodeErr = yaml.JSONToYAML(document)
		}
		if encodeErr == nil {
			_, _ = fmt.Fprintf(a.stderr, "%s\n", strings.TrimSuffix(string(escapeControls(document)), "\n"))
			return f.ExitCode
		}
	}
	_, _ = fmt.Fprintln(a.stderr, "error: "+clean(f.Detail))
	if f.Advice != "" {
		_, _ = fmt.Fprintln(a.stderr, clean(f.Advice))
	}
	return f.ExitCode
}

func own(kind, detail, advice string, code int) failure {
	return failure{Problem: client.Problem{Type: "about:blank", Title: kind, Kind: kind, Detail: detail}, Advice: advice, ExitCode: code}
}

// explainError turns an error into what is told about it.
func (a *app) explainError(ctx context.Context, err error) failure {
	var (
		usage     *usageError
		operation *operationError
		rollout   *rolloutError
		missing   *missingError
		refused   *client.Error
		stopped   interrupted
	)
	wasStopped := errors.As(context.Cause(ctx), &stopped)
	code := exitInterrupted
	if wasStopped && stopped.signal == syscall.SIGTERM {
		code = exitTerminated
	}
	switch {
	case errors.As(err, &operation):
		f := a.explainOperation(operation, wasStopped, code)
		f.Operation = operation.operation.ID
		return f
	case errors.As(err, &rollout):
		f := a.explainRollout(rollout, wasStopped, code)
		f.Rollout = rollout.rollout.ID
		return f
	case errors.As(err, &missing):
		return own(client.KindNotFound, missing.Error(), missing.advice+": "+a.command(missing.command), exitNotFound)
	case wasStopped:
		return own("interrupted", "interrupted", "what the server has accepted goes on; look with: "+a.command("operation list"), code)
	case errors.As(err, &usage):
		advice := usage.advice
		if advice == "" {
			advice = "see the help: cloudctl COMMAND --help"
		}
		return own("usage", usage.Error(), advice, exitUsage)
	case errors.As(err, &refused):
		return a.explainProblem(refused)
	case client.IsUnreachable(err):
		var u *client.UnreachableError
		errors.As(err, &u)
		return own("unreachable", fmt.Sprintf("no answer from the server at %s: %v", a.shownServer(), u.Err),
			"is it running? start it with: provisioner server --dev · or name another with --server URL or DORMOUSE_SERVER", exitUnreachable)
	}
	return own("internal", err.Error(), "", exitFailed)
}

func (a *app) explainOperation(e *operationError, wasStopped bool, stoppedCode int) failure {
	op := e.operation
	follow := "follow it with: " + a.command("operation get "+op.ID+" --wait")
	switch {
	case wasStopped && e.waiting != nil:
		return own("interrupted", fmt.Sprintf("interrupted; the %s goes on as operation %s", describe(op), op.ID), follow, stoppedCode)
	case e.waiting != nil:
		return own("timeout", fmt.Sprintf("timed out waiting for the %s: %s; it goes on as operation %s", describe(op), position(op), op.ID), follow, exitTimeout)
	}
	code := exitFailed
	if op.FailReason == client.KindCapacity {
		code = exitCapacity
	}
	kind := "operation-" + op.State
	switch op.ResourceType {
	case "cluster":
		return own(kind, e.Error(), "see what is missing: "+a.command("cluster get "+op.ResourceName), code)
	case "host":
		return own(kind, e.Error(), "see what is left there: "+a.command("host get "+op.ResourceName), code)
	}
	name := op.ResourceName
	if op.State == "cancelled" {
		return own(kind, e.Error(), "see what it does now: "+a.command("installation explain "+name), code)
	}
	return own(kind, e.Error(), fmt.Sprintf("see why: %s · its output: %s · try again: %s",
		a.command("installation explain "+name), a.command("installation logs "+name), a.command("installation retry "+name)), code)
}

func (a *app) explainProblem(e *client.Error) failure {
	f := failure{Problem: e.Problem}
	f.Detail = e.Message()
	// /api/v1/installations/acme → installation
	resource := "installation"
	if parts := strings.Split(e.Path, "/"); len(parts) > 3 && parts[3] != "" {
		resource = strings.TrimSuffix(parts[3], "s")
		if len(parts) > 5 && parts[5] == "hosts" {
			resource = "host"
		}
	}
	switch e.Kind {
	case client.KindInvalid:
		f.ExitCode, f.Advice = exitUsage, "correct it; the command's --help has examples"
	case client.KindNotFound:
		if e.Method == "POST" && strings.Count(e.Path, "/") == 3 {
			// What is not there is something that the new thing needs.
			f.ExitCode, f.Advice = exitNotFound, "see what there is: "+a.command("package list")+" · "+a.command("cluster list")
			break
		}
		f.ExitCode, f.Advice = exitNotFound, "see what there is: "+a.command(resource+" list")
	case client.KindConflict:
		f.ExitCode, f.Advice = exitConflict, "choose another name, or see what is there: "+a.command(resource+" list")
	case client.KindNotAccepted:
		f.ExitCode, f.Advice = exitConflict, "see its state: "+a.command(resource+" list")
		switch parts := strings.Split(e.Path, "/"); {
		case len(parts) <= 4:
		case resource == "installation":
			f.Advice = "see what it does: " + a.command("installation explain "+parts[4])
		case resource == "rollout":
			f.Advice = "see where it is: " + a.command("rollout status "+parts[4])
		case resource == "group":
			f.Advice = "see its members and rollout: " + a.command("group get "+parts[4])
		}
		if len(e.Accepts) > 0 {
			f.Advice = "accepted now: " + strings.Join(e.Accepts, ", ") + " · " + f.Advice
		}
	case client.KindStale:
		f.ExitCode, f.Advice = exitConflict, "read it again, and decide with what it is now: "+a.command(resource+" get NAME")
	case client.KindCapacity:
		f.ExitCode, f.Advice = exitCapacity, "ask for less memory or disk, free some (hibernate, delete), or let it wait: --if-full wait"
	case client.KindThrottled, client.KindUnavailable:
		f.ExitCode, f.Advice = exitUnreachable, "try again in a moment; if it stays, look with: provisioner doctor"
	default:
		f.ExitCode = exitFailed
		if e.RequestID != "" {
			f.Advice = "look for request " + e.RequestID + " in the server's log"
		}
	}
	return f
}

// command is a command line that the user can paste, for the same server.
func (a *app) command(words string) string {
	if a.server != a.defaultServer() {
		return "cloudctl --server " + a.shownServer() + " " + words
	}
	return "cloudctl " + words
}

// shownServer is the server's address without a password that may be in it.
func (a *app) shownServer() string {
	c, err := client.New(a.server, client.Options{})
	if err != nil {
		return a.server
	}
	return c.BaseURL()
}
