package api

import (
	"context"
	"io"
	"net/http"
	"time"
)

// readyTimeout bounds how long readyz waits for the database.
const readyTimeout = 2 * time.Second

// healthz tells that the process runs.
func (s *server) healthz(w http.ResponseWriter, _ *http.Request) error {
	return writeText(w, "ok\n")
}

// readyz tells that the database accepts writes.
func (s *server) readyz(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if err := s.Store.Ping(ctx); err != nil {
		s.Log.WithError(err).WithField("request", infoOf(r).id).Warn("the database does not answer")
		return httpProblem(http.StatusServiceUnavailable, "the database does not accept writes: try again later")
	}
	return writeText(w, "ok\n")
}

func (s *server) showMetrics(w http.ResponseWriter, r *http.Request) error {
	s.metrics.show.ServeHTTP(w, r)
	return nil
}

func (s *server) getDocument(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(s.document) // a client that went away is nobody to tell
	return nil
}

func writeText(w http.ResponseWriter, text string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text) // a client that went away is nobody to tell
	return nil
}
