package client

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The kinds of problem: what a caller can do about one.
const (
	KindInvalid     = "invalid"
	KindNotFound    = "not-found"
	KindConflict    = "conflict"
	KindNotAccepted = "not-accepted"
	KindStale       = "stale"
	KindCapacity    = "insufficient-capacity"
	KindThrottled   = "throttled"
	KindUnavailable = "unavailable"
	KindPermanent   = "permanent"
	KindInternal    = "internal"
)

// Error is a request that the server refused, with its problem document.
// Answers of others on the way (a proxy's 502) are made into one, with the
// kind that the status means.
type Error struct {
	Problem
	// StatusCode is the status of the answer.
	StatusCode int
	// RetryAfter is how long the server asks to wait; 0 if it does not say.
	RetryAfter time.Duration
	// Method and Path tell what was asked.
	Method, Path string
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("%s %s: %s", e.Method, e.Path, e.Message())
}

// Message is what the server says, without what was asked: the detail, or the
// title where there is none, with the field that it is about.
func (e *Error) Message() string {
	text := e.Detail
	if text == "" {
		text = e.Title
	}
	if e.Field != "" && !strings.Contains(text, e.Field) {
		text = e.Field + ": " + text
	}
	return text
}

// UnreachableError is a request that got no whole answer: no connection, one
// that broke, or none in time. Whether the server acted on it is not known;
// repeating it under the same idempotency key is safe.
type UnreachableError struct {
	Method, URL string
	Err         error
}

// Error implements error.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("%s %s: no answer: %v", e.Method, e.URL, e.Err)
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// KindOf returns the kind of the problem in err's chain; "" if there is none.
func KindOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// IsInvalid tells whether the request itself was wrong.
func IsInvalid(err error) bool { return KindOf(err) == KindInvalid }

// IsNotFound tells whether there is no such thing, or it is somebody else's.
func IsNotFound(err error) bool { return KindOf(err) == KindNotFound }

// IsConflict tells whether it exists already, or the idempotency key was used for another request.
func IsConflict(err error) bool { return KindOf(err) == KindConflict }

// IsNotAccepted tells whether the resource's state does not accept the request now.
func IsNotAccepted(err error) bool { return KindOf(err) == KindNotAccepted }

// IsStale tells whether the resource is not at the version given with IfMatch.
func IsStale(err error) bool { return KindOf(err) == KindStale }

// IsCapacity tells whether there was no room.
func IsCapacity(err error) bool { return KindOf(err) == KindCapacity }

// IsThrottled tells whether the server asks to come again later.
func IsThrottled(err error) bool { return KindOf(err) == KindThrottled }

// IsUnavailable tells whether the server answered that something it needs does not.
func IsUnavailable(err error) bool { return KindOf(err) == KindUnavailable }

// IsUnreachable tells whether no whole answer came.
func IsUnreachable(err error) bool {
	var e *UnreachableError
	return errors.As(err, &e)
}

// worthRepeating tells whether the same request may succeed a little later.
func worthRepeating(err error) bool {
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		return false
	case IsUnreachable(err):
		return true
	}
	return IsUnavailable(err) || IsThrottled(err)
}

// problemOf makes an Error of an answer that is no success.
func problemOf(method, path string, answer *http.Response) error {
	e := &Error{StatusCode: answer.StatusCode, Method: method, Path: path}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxProblemBytes))
	if err == nil && strings.Contains(answer.Header.Get("Content-Type"), "json") {
		// A document that does not parse leaves a problem made from the status.
		_ = json.Unmarshal(body, &e.Problem)
	}
	if e.Status == 0 {
		e.Status = answer.StatusCode
	}
	if e.Title == "" {
		e.Title = http.StatusText(answer.StatusCode)
	}
	if e.Kind == "" {
		e.Kind = kindOfStatus(answer.StatusCode)
		if e.Detail == "" {
			e.Detail = fmt.Sprintf("the server answered %s without saying why", strings.TrimSpace(answer.Status))
		}
	}
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	return e
}

func kindOfStatus(status int) string {
	switch status {
	case http.StatusNotFound, http.StatusGone:
		return KindNotFound
	case http.StatusConflict:
		return KindConflict
	case http.StatusPreconditionFailed:
		return KindStale
	case http.StatusTooManyRequests:
		return KindThrottled
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return KindUnavailable
	case http.StatusInsufficientStorage:
		return KindCapacity
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType:
		return KindInvalid
	}
	if status < http.StatusInternalServerError {
		return KindPermanent
	}
	return KindInternal
}
