package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

// Server has a simulator and serves it.
type Server struct {
	p   *sim.Provider
	hub *hub
	mux *http.ServeMux
}

// maxRequest bounds what a call sends, in bytes.
const maxRequest = 64 << 20

// NewServer opens the simulator that the options describe, with the clusters
// that its directory has. Options.OnChange is the server's own. A cluster whose
// state can't be read is logged and left out. Errors: as sim.New's.
func NewServer(options sim.Options) (*Server, error) {
	s := &Server{hub: newHub(time.Now), mux: http.NewServeMux()}
	options.OnChange = s.hub.changed
	if options.Log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		options.Log = silent
	}
	var err error
	if s.p, err = sim.New(options); err != nil {
		return nil, err
	}
	if err := s.p.ConfigureKept(); err != nil {
		options.Log.WithError(err).Error("reading the simulator's clusters: calls about those will say that they are not known")
	}
	s.routes()
	return s, nil
}

// Provider is the simulator itself.
func (s *Server) Provider() *sim.Provider { return s.p }

// Close ends the simulator. Calls that come later answer KindUnavailable.
func (s *Server) Close() error { return s.p.Close() }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Server) routes() {
	specID := func(spec fleet.InstanceSpec) fleet.InstanceID { return spec.ID }
	refID := func(ref fleet.InstanceRef) fleet.InstanceID { return ref.ID }
	handle(s, callEnsure, s.p.Ensure, specID)
	handle(s, callClone, s.p.Clone, specID)
	handle(s, callObserve, s.p.Observe, refID)
	handle(s, callPower, func(ctx context.Context, a powerArgs) (fleet.InstanceStatus, error) {
		return s.p.Power(ctx, a.Ref, a.Target)
	}, func(a powerArgs) fleet.InstanceID { return a.Ref.ID })
	handle(s, callSuspend, func(ctx context.Context, a suspendArgs) (fleet.InstanceStatus, error) {
		return s.p.Suspend(ctx, a.Ref, a.Options)
	}, func(a suspendArgs) fleet.InstanceID { return a.Ref.ID })
	handle(s, callEndSleep, s.p.EndSleep, refID)
	handle(s, callDelete, func(ctx context.Context, ref fleet.InstanceRef) (none, error) {
		err := s.p.Delete(ctx, ref)
		if err == nil {
			s.hub.forget(ref.ID)
		}
		return none{}, err
	}, refID)
	handle(s, callList, func(ctx context.Context, a listArgs) (listResult, error) {
		page, next, err := s.p.List(ctx, a.Cluster, a.After)
		return listResult{page, next}, err
	}, nil)
	handle(s, callCheck, s.p.Check, nil)
	handle(s, callConfigure, func(_ context.Context, c fleet.Cluster) (none, error) { return none{}, s.p.Configure(c) }, nil)
	handle(s, callEnsureVolume, s.p.EnsureVolume, nil)
	handle(s, callMoveVolume, func(ctx context.Context, a moveVolumeArgs) (fleet.VolumeStatus, error) {
		return s.p.MoveVolume(ctx, a.Ref, a.To)
	}, nil)
	for name, change := range map[string]func(context.Context, fleet.VolumeRef) error{
		callBeginOverlay: s.p.BeginOverlay, callCommitOverlay: s.p.CommitOverlay, callDropOverlay: s.p.DropOverlay,
	} {
		handle(s, name, func(ctx context.Context, ref fleet.VolumeRef) (none, error) { return none{}, change(ctx, ref) }, nil)
	}
	handle(s, callDeleteVolume, func(ctx context.Context, ref fleet.VolumeRef) (none, error) {
		return none{}, s.p.DeleteVolume(ctx, ref)
	}, nil)
	handle(s, callListVolumes, s.p.ListVolumes, nil)
	handle(s, callSetExit, func(_ context.Context, a setExitArgs) (none, error) { return none{}, s.p.SetExit(a.ID, a.Exit) }, nil)
	handle(s, callSetHealth, func(_ context.Context, a setHealthArgs) (none, error) {
		return none{}, s.p.SetHealth(a.ID, a.Health, a.Detail)
	}, nil)
	s.mux.HandleFunc("POST /console", s.console)
	s.mux.HandleFunc("GET /changes", s.changes)
	s.mux.HandleFunc("GET /ledger", func(w http.ResponseWriter, _ *http.Request) { reply(w, s.p.Totals()) })
	s.mux.HandleFunc("GET /ledger/entries", s.entries)
	s.mux.HandleFunc("POST /ledger/leaks", func(w http.ResponseWriter, r *http.Request) {
		if known, ok := decode[sim.Known](w, r); ok {
			leaks, err := s.p.Leaks(known)
			reply(w, answer[sim.Leaks]{leaks, encodeError(err)})
		}
	})
}

// handle serves a call; about says which instance it is about, and may be nil.
func handle[In, Out any](s *Server, name string, call func(context.Context, In) (Out, error), about func(In) fleet.InstanceID) {
	s.mux.HandleFunc("POST /call/"+name, func(w http.ResponseWriter, r *http.Request) {
		in, ok := decode[In](w, r)
		if !ok {
			return
		}
		if client := r.Header.Get(clientHeader); client != "" && about != nil {
			s.hub.called(client, about(in))
		}
		out, err := call(r.Context(), in)
		reply(w, answer[Out]{out, encodeError(err)})
	})
}

// buffers for the bodies of requests.
var buffers = sync.Pool{New: func() any { return new(body) }}

type body struct{ b []byte }

// done gives the buffer back, but for one that a long list has made large.
func (b *body) done() {
	if cap(b.b) <= 1<<20 {
		buffers.Put(b)
	}
}

// read reads r to its end; the result is good until the next read.
func (b *body) read(r io.Reader, length int64) ([]byte, error) {
	if n := min(length, maxRequest) + 1; int64(cap(b.b)) < n {
		b.b = make([]byte, 0, max(n, 2048))
	}
	b.b = b.b[:0]
	for {
		if len(b.b) == cap(b.b) {
			b.b = append(b.b, 0)[:len(b.b)]
		}
		n, err := r.Read(b.b[len(b.b):cap(b.b)])
		b.b = b.b[:len(b.b)+n]
		if errors.Is(err, io.EOF) {
			return b.b, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// decode reads a request; where it can't, it has answered.
func decode[T any](w http.ResponseWriter, r *http.Request) (in T, ok bool) {
	buffer := buffers.Get().(*body)
	defer buffer.done()
	content, err := buffer.read(http.MaxBytesReader(w, r.Body, maxRequest), r.ContentLength)
	if err == nil {
		err = json.Unmarshal(content, &in)
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("reading the request: %v", err), http.StatusBadRequest)
		return in, false
	}
	return in, true
}

func reply(w http.ResponseWriter, v any) {
	content, err := json.Marshal(v)
	if err != nil {
		http.Error(w, fmt.Sprintf("writing the answer: %v", err), http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header["Content-Type"] = contentTypeJSON
	header["Content-Length"] = []string{strconv.Itoa(len(content))}
	header["Date"] = nil // the caller has a clock of its own
	_, _ = w.Write(content)
}

var contentTypeJSON = []string{"application/json"}

func (s *Server) changes(w http.ResponseWriter, r *http.Request) {
	client := r.Header.Get(clientHeader)
	if client == "" {
		http.Error(w, "say who you are in the header "+clientHeader, http.StatusBadRequest)
		return
	}
	reply(w, s.hub.poll(r.Context(), client))
}

func (s *Server) entries(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if r.URL.Query().Has("after") && err != nil {
		http.Error(w, "after: want the number of an entry", http.StatusBadRequest)
		return
	}
	entries := s.p.Ledger()
	for len(entries) > 0 && entries[0].Seq <= after {
		entries = entries[1:]
	}
	reply(w, entries)
}

// console streams a console; an error is JSON, as with calls.
func (s *Server) console(w http.ResponseWriter, r *http.Request) {
	args, ok := decode[consoleArgs](w, r)
	if !ok {
		return
	}
	log, err := s.p.Console(r.Context(), args.Ref, args.Options)
	if err != nil {
		reply(w, answer[none]{Error: encodeError(err)})
		return
	}
	defer log.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	control := http.NewResponseController(w)
	chunk := make([]byte, 4096)
	for {
		n, err := log.Read(chunk)
		if _, failed := w.Write(chunk[:n]); failed != nil || control.Flush() != nil || err != nil {
			return
		}
	}
}
