package api

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"dormouse/internal/fleet"
)

// maxTail bounds how many lines of a console may be asked for.
const maxTail = 100_000

// installationLogs streams the console of the installation's instance.
func (s *server) installationLogs(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	options, err := consoleOptions(query)
	if err != nil {
		return err
	}
	v, err := s.installation(r)
	if err != nil {
		return err
	}
	if v.Instance == nil {
		return fleet.Errorf(fleet.KindNotFound, "installation %s has no instance yet, it is %s: try again later", v.Name, v.State)
	}
	log, err := s.Consoles.Console(r.Context(), *v.Instance, options)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // it was only read
	infoOf(r).waited = true
	return s.stream(w, r, log)
}

func consoleOptions(query url.Values) (fleet.ConsoleOptions, error) {
	var o fleet.ConsoleOptions
	if query.Has("tail") {
		n, err := strconv.Atoi(query.Get("tail"))
		if err != nil || n < 1 || n > maxTail {
			return o, invalidQuery("tail", "it must be a number of lines from 1 to %d", maxTail)
		}
		o.TailLines = n
	}
	switch query.Get("follow") {
	case "true":
		o.Follow = true
	case "false":
	default:
		if query.Has("follow") {
			return o, invalidQuery("follow", "it must be true or false")
		}
	}
	return o, nil
}

// stream passes on what comes, as soon as it comes. An error after the first
// byte can't be answered any more: it cuts the connection, so that the client
// does not take half a log for the whole.
func (s *server) stream(w http.ResponseWriter, r *http.Request, log io.Reader) error {
	out := http.NewResponseController(w)
	// A server that bounds its answers makes an exception for this one;
	// a recorder in a test has no deadlines to lift.
	_ = out.SetWriteDeadline(time.Time{})
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	if err := out.Flush(); err != nil {
		return s.cut(r, err)
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := log.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return s.cut(r, werr)
			}
			if ferr := out.Flush(); ferr != nil {
				return s.cut(r, ferr)
			}
		}
		switch {
		case errors.Is(err, io.EOF), err != nil && r.Context().Err() != nil:
			return nil
		case err != nil:
			return s.cut(r, err)
		}
	}
}

func (s *server) cut(r *http.Request, err error) error {
	if r.Context().Err() == nil {
		s.Log.WithError(err).WithField("request", infoOf(r).id).Warn("an answer that was streamed ended early")
	}
	panic(http.ErrAbortHandler)
}
