package main

import (
	"fmt"

	"dormouse/client"
)

// missingError is something that the server would have, if somebody had asked
// for it with the command.
type missingError struct{ text, advice, command string }

func (e *missingError) Error() string { return e.text }

// rolloutError is a rollout, or watching one, that did not end as was asked for.
type rolloutError struct {
	rollout client.Rollout
	// waiting is why watching ended before the rollout rested; nil if it rests.
	waiting error
}

func (e *rolloutError) Error() string {
	r := e.rollout
	what := fmt.Sprintf("the rollout of %s to revision %d", r.Group, r.ToRevision)
	if e.waiting != nil {
		return fmt.Sprintf("watching %s: %v", what, e.waiting)
	}
	verb := "was "
	switch r.State {
	case "succeeded":
		verb = "has "
	case "running", "paused", "rolling-back":
		verb = "is "
	}
	return what + " " + verb + r.State + because(r.Reason, r.Detail)
}

func (e *rolloutError) Unwrap() error { return e.waiting }

func (a *app) explainRollout(e *rolloutError, wasStopped bool, stoppedCode int) failure {
	r := e.rollout
	follow := "watch it with: " + a.command("rollout status "+r.ID+" --watch")
	switch {
	case wasStopped && e.waiting != nil:
		return own("interrupted", fmt.Sprintf("interrupted; the rollout of %s goes on as %s", r.Group, r.ID), follow, stoppedCode)
	case e.waiting != nil:
		return own("timeout", fmt.Sprintf("timed out watching the rollout of %s: it is %s; it goes on as %s", r.Group, r.State, r.ID), follow, exitTimeout)
	}
	advice := "see why: " + a.command("rollout status "+r.ID)
	switch {
	case r.State == "halted":
		advice = fmt.Sprintf("see who failed: %s · try those again: %s · go on all the same: %s · take it back: %s",
			a.command("rollout members "+r.ID+" --state failed"), a.command("rollout retry "+r.ID),
			a.command("rollout resume "+r.ID+" --force"), a.command("rollout rollback "+r.ID))
	case r.Counts.Failed+r.Counts.RolledBack > 0:
		advice = "see who failed: " + a.command("rollout members "+r.ID+" --state failed")
	}
	return own("rollout-"+r.State, e.Error(), advice, exitFailed)
}
