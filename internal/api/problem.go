package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// statusClientGone is counted where the client left before the answer.
const statusClientGone = 499

// problemError is an error that HTTP itself has a status for.
type problemError struct {
	status  int
	message string
}

func (e *problemError) Error() string { return e.message }

func httpProblem(status int, format string, args ...any) error {
	return &problemError{status: status, message: fmt.Sprintf(format, args...)}
}

// notAccepted adds to an error what would be accepted instead.
type notAccepted struct {
	err     error
	accepts []string
}

func (e *notAccepted) Error() string { return e.err.Error() }
func (e *notAccepted) Unwrap() error { return e.err }

// fail answers a request with the problem document of err.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	info := infoOf(r)
	log := s.Log.WithFields(logrus.Fields{"request": info.id, "route": info.route})
	// The request's own context ends when the client leaves or the server
	// stops; who is still there may try again.
	if errors.Is(r.Context().Err(), context.Canceled) {
		info.gone = true
		err = httpProblem(http.StatusServiceUnavailable, "the server stops: try again later")
	}
	p, retry := problemOf(err)
	p.Instance = r.URL.EscapedPath()
	p.RequestID = info.id
	switch {
	case errors.Is(err, errPanic), info.gone: // said already, or nothing to say
	case p.Status == http.StatusInternalServerError:
		log.WithError(err).Error("a request failed unexpectedly")
	case p.Status > http.StatusInternalServerError:
		log.WithError(err).Warn("a request can't be served now")
	}
	body, err := json.Marshal(p)
	if err != nil {
		log.WithError(err).Error("encoding a problem document")
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	if retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((retry+time.Second-1)/time.Second)))
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // a client that went away is nobody to tell
}

// problemOf is the one place that maps errors to problem documents. An error
// that nobody has classified tells the caller nothing but the request's ID.
func problemOf(err error) (client.Problem, time.Duration) {
	var (
		byHTTP *problemError
		typed  *fleet.Error
		state  *notAccepted
		p      client.Problem
		retry  time.Duration
	)
	switch {
	case errors.As(err, &byHTTP):
		p = problem(httpKind(byHTTP.status), byHTTP.status)
		p.Detail = byHTTP.message
	case errors.As(err, &typed):
		p = problem(typed.Kind, kindStatus(typed.Kind))
		p.Field, retry = typed.Field, typed.RetryAfter
		if p.Status != http.StatusInternalServerError {
			p.Detail = typed.Error()
		}
	case errors.Is(err, context.DeadlineExceeded):
		p = problem(fleet.KindUnavailable, http.StatusServiceUnavailable)
		p.Detail = "the answer took too long: try again later"
	default:
		p = problem(fleet.KindInternal, http.StatusInternalServerError)
	}
	if p.Status == http.StatusInternalServerError {
		p.Detail = "the request failed for a reason of ours: look for the request ID in the server's log"
	}
	if errors.As(err, &state) {
		p.Accepts = state.accepts
	}
	if retry <= 0 && (p.Status == http.StatusServiceUnavailable || p.Status == http.StatusTooManyRequests) {
		retry = time.Second
	}
	return p, retry
}

func problem(kind fleet.ErrorKind, status int) client.Problem {
	if status == http.StatusInternalServerError {
		kind = fleet.KindInternal
	}
	title := kindTitle(kind)
	if kind == fleet.KindInvalid && status != http.StatusBadRequest {
		title = http.StatusText(status)
	}
	return client.Problem{Type: "urn:dormouse:problem:" + string(kind), Title: title, Status: status, Kind: string(kind)}
}

// kindStatus is the status of each kind of error.
func kindStatus(kind fleet.ErrorKind) int {
	switch kind {
	case fleet.KindInvalid:
		return http.StatusBadRequest
	case fleet.KindNotFound:
		return http.StatusNotFound
	case fleet.KindConflict, fleet.KindNotAccepted, fleet.KindCapacity:
		return http.StatusConflict
	case fleet.KindStale:
		return http.StatusPreconditionFailed
	case fleet.KindThrottled:
		return http.StatusTooManyRequests
	case fleet.KindUnavailable:
		return http.StatusServiceUnavailable
	case fleet.KindPermanent:
		return http.StatusUnprocessableEntity
	}
	// KindInternal, and KindFenced, which no caller of the API may see.
	return http.StatusInternalServerError
}

// httpKind is the kind of an error that HTTP itself has a status for.
func httpKind(status int) fleet.ErrorKind {
	switch status {
	case http.StatusNotFound:
		return fleet.KindNotFound
	case http.StatusPreconditionFailed:
		return fleet.KindStale
	case http.StatusServiceUnavailable:
		return fleet.KindUnavailable
	}
	return fleet.KindInvalid
}

func kindTitle(kind fleet.ErrorKind) string {
	switch kind {
	case fleet.KindInvalid:
		return "The request is wrong"
	case fleet.KindNotFound:
		return "There is no such thing"
	case fleet.KindConflict:
		return "It exists already, or was changed by another request"
	case fleet.KindNotAccepted:
		return "Its state does not accept this request now"
	case fleet.KindStale:
		return "It has changed since it was read"
	case fleet.KindCapacity:
		return "There is no room for it"
	case fleet.KindThrottled:
		return "Too many requests"
	case fleet.KindUnavailable:
		return "Something that is needed does not answer"
	case fleet.KindPermanent:
		return "Trying again with the same input can't help"
	}
	return "A fault of ours"
}
