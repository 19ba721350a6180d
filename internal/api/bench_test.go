package api

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// fullView is an installation with everything that can be shown of one.
func fullView(i int) fleet.InstallationView {
	name := fmt.Sprintf("tenant-%05d", i)
	op := &fleet.Operation{
		ID: fleet.OperationID(fleet.NewID()), Kind: fleet.OperationCreate, ResourceType: fleet.ResourceInstallation,
		ResourceID: fleet.NewID(), ResourceName: name, State: fleet.OperationSucceeded, Step: "await-healthy", StepNumber: 6, StepsTotal: 6,
		StepSince: epochTime, Revision: 9, CreatedAt: epochTime, StartedAt: epochTime, FinishedAt: epochTime,
	}
	for n := range 6 {
		op.Steps = append(op.Steps, fleet.StepDone{Name: fmt.Sprintf("step-%d", n), StartedAt: epochTime, FinishedAt: epochTime, Attempts: 1})
	}
	return fleet.InstallationView{
		Installation: fleet.Installation{
			ID: fleet.InstallationID(fleet.NewID()), Owner: "owner of " + name, Name: name, State: fleet.StateStable, Generation: 1, Version: 7,
			MemoryMiB: 128, DiskMiB: 1024, VCPUs: 1, Env: map[string]string{"GREETING": "hello <world>", "MODE": "fast"},
			Secrets: map[string]string{"TOKEN": "sealed"}, Labels: map[string]string{"tier": "free"}, CreatedAt: epochTime, UpdatedAt: epochTime,
		},
		ClusterName: "local", PackageRef: "workspace@1.0", RunningRef: "workspace@1.0", VerifiedRef: "workspace@1.0", HostName: "here",
		Ports: []fleet.Port{{Number: 8080, Protocol: fleet.ProtocolHTTP, Name: "web"}}, Operation: op,
		Instance: &fleet.Instance{
			ID: fleet.InstanceID(fleet.NewID()), Power: fleet.PowerOn, CreatedAt: epochTime,
			Spec:      fleet.InstanceConfig{Image: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", MemoryMiB: 128},
			Endpoints: []fleet.Endpoint{{Port: 8080, Protocol: fleet.ProtocolHTTP, Address: "10.96.0.2:8080"}},
		},
	}
}

// BenchmarkList100 is our own time for a page of 100 installations, without the store's.
func BenchmarkList100(b *testing.B) {
	h := newHarness(b, func(o *Options) { o.Log = newLog() })
	for i := range 100 {
		v := fullView(i)
		h.store.installations[v.ID] = &v
	}
	views, err := h.store.ListInstallations(b.Context(), InstallationQuery{Page: Page{Limit: 101}})
	require.NoError(b, err)
	s, err := newServer(Options{Store: listed{h.store, views}, Packages: h.packages, Images: h.images, ImageContents: h.images, Kernels: h.images, Tracer: h.images, Consoles: h.consoles, Watch: h.watch, Seal: h.seal, Planner: fakePlanner{}, Schedules: fakeSchedules{},
		GatewayURL: func(name string) string { return "http://" + name + ".localhost:8065" }, Log: newLog()})
	require.NoError(b, err)
	handler, err := s.handler(s.routes())
	require.NoError(b, err)
	b.ReportAllocs()
	r := request("GET", "/api/v1/installations", "")
	for b.Loop() {
		w := &discard{header: http.Header{}}
		handler.ServeHTTP(w, r)
		if w.status != http.StatusOK {
			b.Fatal(w.status)
		}
		b.SetBytes(w.bytes)
	}
}

// discard is a client that counts.
type discard struct {
	header http.Header
	status int
	bytes  int64
}

func (d *discard) Header() http.Header { return d.header }

func (d *discard) WriteHeader(status int) { d.status = status }

func (d *discard) Write(b []byte) (int, error) {
	d.bytes += int64(len(b))
	return len(b), nil
}

// listed answers a list at once.
type listed struct {
	Store
	views []InstallationView
}

func (l listed) ListInstallations(context.Context, InstallationQuery) ([]InstallationView, error) {
	return l.views, nil
}
