package remote

import (
	"context"
	"errors"
	"io"
	"time"

	"dormouse/internal/fleet"
)

// clientHeader names the client that a call is from, where it wants signals.
const clientHeader = "Simulator-Client"

// The names of the calls, and the arguments of those that take more than one.
const (
	callEnsure        = "ensure"
	callClone         = "clone"
	callObserve       = "observe"
	callPower         = "power"
	callSuspend       = "suspend"
	callEndSleep      = "end-sleep"
	callBeginOverlay  = "begin-overlay"
	callCommitOverlay = "commit-overlay"
	callDropOverlay   = "drop-overlay"
	callDelete        = "delete"
	callList          = "list"
	callCheck         = "check"
	callConfigure     = "configure"
	callEnsureVolume  = "ensure-volume"
	callMoveVolume    = "move-volume"
	callDeleteVolume  = "delete-volume"
	callListVolumes   = "list-volumes"
	callSetExit       = "set-exit"
	callSetHealth     = "set-health"
)

type powerArgs struct {
	Ref    fleet.InstanceRef
	Target fleet.Power
}

type suspendArgs struct {
	Ref     fleet.InstanceRef
	Options fleet.SuspendOptions
}

type moveVolumeArgs struct {
	Ref fleet.VolumeRef
	To  fleet.HostID
}

type listArgs struct {
	Cluster fleet.ClusterID
	After   string
}

type listResult struct {
	Page []fleet.InstanceStatus
	Next string
}

type consoleArgs struct {
	Ref     fleet.InstanceRef
	Options fleet.ConsoleOptions
}

type setExitArgs struct {
	ID   fleet.InstanceID
	Exit fleet.Exit
}

type setHealthArgs struct {
	ID     fleet.InstanceID
	Health fleet.HealthState
	Detail string
}

// none is what a call returns that returns nothing but an error.
type none struct{}

// answer is what a call is answered by.
type answer[T any] struct {
	Result T          `json:"result"`
	Error  *wireError `json:"error,omitempty"`
}

// wireError is an error as it crosses the wire.
type wireError struct {
	// Kind is empty for an error that is no fleet.Error.
	Kind       fleet.ErrorKind `json:"kind,omitempty"`
	Reason     fleet.Reason    `json:"reason,omitempty"`
	Field      string          `json:"field,omitempty"`
	RetryAfter time.Duration   `json:"retry_after_ns,omitempty"`
	Message    string          `json:"message"`
	// LostAnswer: io.ErrUnexpectedEOF is among its causes.
	LostAnswer bool `json:"lost_answer,omitempty"`
}

func encodeError(err error) *wireError {
	if err == nil {
		return nil
	}
	w := &wireError{Message: err.Error(), LostAnswer: errors.Is(err, io.ErrUnexpectedEOF)}
	var e *fleet.Error
	switch {
	case errors.As(err, &e):
		w.Kind, w.Reason, w.Field, w.RetryAfter = e.Kind, e.Reason, e.Field, e.RetryAfter
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		// Not the caller's own context, or it would not read this: the server stops.
		w.Kind = fleet.KindUnavailable
	}
	return w
}

func (w *wireError) decode() error {
	if w == nil {
		return nil
	}
	var err error = toldError{w.Message, w.LostAnswer}
	if w.Kind == "" {
		return err
	}
	return &fleet.Error{Kind: w.Kind, Reason: w.Reason, Field: w.Field, RetryAfter: w.RetryAfter, Err: err}
}

// toldError is what the other side said.
type toldError struct {
	message    string
	lostAnswer bool
}

// Error implements error.
func (e toldError) Error() string { return e.message }

// Unwrap returns the cause that callers tell apart, if it is that one.
func (e toldError) Unwrap() error {
	if e.lostAnswer {
		return io.ErrUnexpectedEOF
	}
	return nil
}
