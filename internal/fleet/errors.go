package fleet

import (
	"errors"
	"fmt"
	"time"
)

// ErrorKind says what a caller can do about an error. The API maps it to a
// problem document, the engine to a retry or a failed state.
type ErrorKind string

const (
	// KindInvalid: the request itself is wrong; the message says what to send instead.
	KindInvalid ErrorKind = "invalid"
	// KindNotFound: no such thing, or it belongs to somebody else.
	KindNotFound ErrorKind = "not-found"
	// KindConflict: it exists already, or another request changed it first.
	KindConflict ErrorKind = "conflict"
	// KindNotAccepted: the resource's state does not accept this request now.
	KindNotAccepted ErrorKind = "not-accepted"
	// KindStale: the caller's epoch, version or expected state is out of date.
	KindStale ErrorKind = "stale"
	// KindFenced: a newer worker has taken over; the caller must stop at once.
	KindFenced ErrorKind = "fenced"
	// KindCapacity: no room where it was asked for.
	KindCapacity ErrorKind = "insufficient-capacity"
	// KindThrottled: the provider asks to wait; RetryAfter says how long.
	KindThrottled ErrorKind = "throttled"
	// KindUnavailable: something that is needed does not answer; trying again may help.
	KindUnavailable ErrorKind = "unavailable"
	// KindPermanent: trying again with the same input cannot help.
	KindPermanent ErrorKind = "permanent"
	// KindInternal: a fault of ours.
	KindInternal ErrorKind = "internal"
)

// Error is an error with a kind. Its message is written for whoever must act on
// it: lower case, without a trailing stop, saying what to do.
type Error struct {
	Kind ErrorKind
	// Reason is the typed reason that a failed state records; empty where the kind says it all.
	Reason Reason
	// Field names the part of a request that is wrong, as a dotted JSON path; may be empty.
	Field string
	// RetryAfter is how long to wait at least before trying again; 0 is unknown.
	RetryAfter time.Duration
	// Err carries the message and the cause; never nil.
	Err error
}

// Error implements error.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an Error of that kind; format works as in fmt.Errorf, %w included.
func Errorf(kind ErrorKind, format string, args ...any) *Error {
	return &Error{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// Failure returns a KindPermanent error with the reason that the failed state records.
func Failure(reason Reason, format string, args ...any) *Error {
	return &Error{Kind: KindPermanent, Reason: reason, Err: fmt.Errorf(format, args...)}
}

// InvalidField returns a KindInvalid error about one field of a request.
func InvalidField(field, format string, args ...any) *Error {
	e := Errorf(KindInvalid, format, args...)
	e.Field = field
	return e
}

// KindOf returns the kind of the first Error in err's chain; KindInternal for
// any other error and "" for nil.
func KindOf(err error) ErrorKind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return KindInternal
}

// ReasonOf returns the reason of the first Error in err's chain; empty where it
// has none, for any other error, and for nil.
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}
