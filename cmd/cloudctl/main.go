package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"

	"dormouse/client"
)

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		s := <-signals
		// A second signal ends the process at once.
		signal.Stop(signals)
		cancel(interrupted{s})
	}()
	a := &app{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		stdinTTY:  term.IsTerminal(int(os.Stdin.Fd())),
		stdoutTTY: term.IsTerminal(int(os.Stdout.Fd())),
		stderrTTY: term.IsTerminal(int(os.Stderr.Fd())),
		getenv:    os.Getenv,
		now:       time.Now,
		width:     terminalWidth,
		openURL:   openURL,
		readHidden: func() ([]byte, error) {
			return term.ReadPassword(int(os.Stdin.Fd()))
		},
	}
	os.Exit(a.main(ctx, os.Args[1:]))
}

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ signal os.Signal }

func (i interrupted) Error() string { return "interrupted by " + i.signal.String() }

// app is one run of the command line, with everything it has of the outside.
type app struct {
	stdin                          io.Reader
	stdout, stderr                 io.Writer
	stdinTTY, stdoutTTY, stderrTTY bool
	getenv                         func(string) string
	now                            func() time.Time
	// width is that of the terminal in characters.
	width func() int
	// readHidden reads a line from the terminal without showing it.
	readHidden func() ([]byte, error)
	// openURL shows a URL to the person in front of it.
	openURL func(ctx context.Context, url string) error
	// client is changed by tests; the zero value is the client's own standard.
	client client.Options

	// lookEvery is how often a rollout, or what top shows, is looked at; the standard if 0.
	lookEvery time.Duration

	server  string
	output  format
	started bool
	// live is what shows work under way; nil for none.
	live display
}

// display shows work under way on standard error.
type display interface {
	// retrying shows that the server does not answer.
	retrying(client.Retry)
	// clear takes away what stands on a terminal.
	clear()
}

// main runs the command and returns the exit code.
func (a *app) main(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if a.live != nil {
		a.live.clear()
	}
	if err == nil {
		return exitDone
	}
	// What cobra refuses before a command begins is a wrong command line.
	var usage *usageError
	if !a.started && !errors.As(err, &usage) {
		err = &usageError{err: err}
	}
	return a.fail(ctx, err)
}

// connect returns the client of the chosen server.
func (a *app) connect() (*client.Client, error) {
	options := a.client
	options.UserAgent = "cloudctl/" + version().Version
	options.OnRetry = func(r client.Retry) {
		if a.live != nil {
			a.live.retrying(r)
		}
	}
	c, err := client.New(a.server, options)
	if err != nil {
		return nil, &usageError{err: err, advice: "give it with --server, or in DORMOUSE_SERVER"}
	}
	return c, nil
}

// quiet tells whether standard error is kept for one problem document: a
// program reads it.
func (a *app) quiet() bool { return a.output != formatTable && !a.stderrTTY }

// note tells the person in front of it something, on standard error.
func (a *app) note(text string, args ...any) {
	if !a.quiet() {
		_, _ = fmt.Fprintln(a.stderr, clean(fmt.Sprintf(text, args...)))
	}
}

func terminalWidth() int {
	if width, _, err := term.GetSize(int(os.Stderr.Fd())); err == nil && width > 0 {
		return width
	}
	return 80
}
