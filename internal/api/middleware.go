package api

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
)

// requestInfo is what the log line and the metrics of one request say.
type requestInfo struct {
	id    string
	route string
	start time.Time
	// waited: the client asked for the time it took, which says nothing of us.
	waited bool
	// gone: the client left before its answer.
	gone bool
}

type requestInfoKey struct{}

// infoOf returns the request's own record; surround has put it there.
func infoOf(r *http.Request) *requestInfo {
	if info, ok := r.Context().Value(requestInfoKey{}).(*requestInfo); ok {
		return info
	}
	return &requestInfo{}
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
}

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController flush.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// surround gives every request its ID, its log line and its metrics, and
// refuses those that must not come in at all.
func (s *server) surround(next http.Handler) http.Handler {
	guard := newGuard()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info := &requestInfo{id: requestID(r, s.NewID), route: "(refused)", start: s.Clock()}
		rec := &recorder{ResponseWriter: w}
		r = r.WithContext(context.WithValue(r.Context(), requestInfoKey{}, info))
		h := w.Header()
		h.Set("X-Request-ID", info.id)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		s.metrics.inFlight.Inc()
		defer func() {
			s.metrics.inFlight.Dec()
			s.finish(r, rec, info)
		}()
		if err := guard.check(r); err != nil {
			s.fail(rec, r, err)
			return
		}
		next.ServeHTTP(rec, r)
	})
}

// requestID takes over the caller's ID where it is harmless, and makes one else.
func requestID(r *http.Request, newID func() string) string {
	id := r.Header.Get("X-Request-ID")
	if id == "" || len(id) > 64 {
		return newID()
	}
	for _, c := range []byte(id) {
		if !isAlnum(c) && c != '-' && c != '_' && c != '.' {
			return newID()
		}
	}
	return id
}

func (s *server) finish(r *http.Request, rec *recorder, info *requestInfo) {
	took := s.Clock().Sub(info.start)
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	if info.gone {
		rec.status = statusClientGone
	}
	method := methodLabel(r.Method)
	s.metrics.requests.WithLabelValues(method, info.route, strconv.Itoa(rec.status)).Inc()
	if !info.waited {
		s.metrics.latency.WithLabelValues(method, info.route).Observe(took.Seconds())
	}
	log := s.Log.WithFields(logrus.Fields{
		"request": info.id, "method": method, "route": info.route, "status": rec.status, "duration": took,
	})
	switch {
	case rec.status >= 500:
		log.Error("request answered")
	case info.route == "/healthz" || info.route == "/readyz" || info.route == "/metrics":
		log.Debug("request answered")
	default:
		log.Info("request answered")
	}
}

// wrap makes a route's handler an http one: it knows its deadline and its
// query, and answers errors and panics with problem documents.
func (s *server) wrap(rt route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		infoOf(r).route = rt.path
		defer s.recoverPanic(w, r)
		if !rt.unbounded {
			ctx, cancel := context.WithTimeout(r.Context(), s.Timeout)
			defer cancel()
			r = r.WithContext(ctx)
			if r.Method != http.MethodGet {
				// A body that trickles in must not outlive the request; a
				// recorder in a test has no deadlines to set.
				_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.Timeout))
			}
		}
		err := error(nil)
		if rt.method != "" {
			err = rt.knowsQuery(r)
		}
		if err == nil {
			err = rt.handle(w, r)
		}
		if err != nil {
			s.fail(w, r, err)
		}
	}
}

// recoverPanic contains a panic to its request. What was panicked with goes to
// the log, never to the caller.
func (s *server) recoverPanic(w http.ResponseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p) // the server's own way to cut a connection
	}
	s.Log.WithFields(logrus.Fields{"request": infoOf(r).id, "panic": p, "stack": string(debug.Stack())}).
		Error("a handler panicked: this is a fault of ours")
	if rec, ok := w.(*recorder); ok && rec.status != 0 {
		panic(http.ErrAbortHandler) // too late for an answer: cut it off visibly
	}
	s.fail(w, r, errPanic)
}

var errPanic = errors.New("a handler panicked")
