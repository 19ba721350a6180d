package api

import (
	"context"
	"net/http"
	"time"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// Tracer boots packages to see what their kernel lacks.
type Tracer interface {
	// Trace boots a package once, in a throw-away machine without network, and
	// records what that tells. KindNotAccepted where its kernel can't be traced.
	Trace(ctx context.Context, p fleet.Package, o fleet.TraceOptions) (fleet.TraceReport, error)
}

// Bounds of a trace.
const (
	standardTrace = 30 * time.Second
	maxTrace      = 300
)

// tracePackage waits until the trace is over. Its body may be left out.
func (s *server) tracePackage(w http.ResponseWriter, r *http.Request) error {
	var in client.TracePackage
	var err error
	if r.ContentLength == 0 {
		_, err = emptyBody(r)
	} else {
		var m members
		if m, _, err = decodeBody(r, &in, "application/json"); err == nil {
			err = m.noNull()
		}
		if err == nil && m.present["seconds"] {
			err = checkRange("seconds", in.Seconds, 1, maxTrace)
		}
		if err == nil && m.present["memory_mib"] {
			err = checkRange("memory_mib", in.MemoryMiB, 16, 1<<16)
		}
	}
	if err != nil {
		return err
	}
	if _, err := s.idempotencyKey(r, nil); err != nil {
		return err
	}
	ref, err := packageRef(r)
	if err != nil {
		return err
	}
	p, err := s.Store.Package(r.Context(), ref)
	if err != nil {
		return err
	}
	o := fleet.TraceOptions{AtMost: standardTrace, MemoryMiB: in.MemoryMiB}
	if in.Seconds > 0 {
		o.AtMost = time.Duration(in.Seconds) * time.Second
	}
	infoOf(r).waited = true
	report, err := s.Tracer.Trace(r.Context(), p, o)
	if err != nil {
		return err
	}
	out := client.Trace{Evidence: report.Evidence, Lines: report.Lines, Exit: wireExit(report.Exit)}
	if out.Evidence == nil {
		out.Evidence = []string{}
	}
	return writeJSON(w, http.StatusOK, out)
}
