package integration

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/stretchr/testify/assert"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

// opener opens what is sealed with "sealed:".
type opener struct{}

func (opener) Open(sealed, _ string) (string, error) {
	if value, ok := strings.CutPrefix(sealed, "sealed:"); ok {
		return value, nil
	}
	return "", errors.New("it was sealed with another key")
}

// images pretends to build. A newer builder makes another image of the same package.
type images struct {
	builder atomic.Int32
	broken  atomic.Bool
}

func (i *images) Ensure(_ context.Context, p fleet.Package) (fleet.ImageID, error) {
	if i.broken.Load() {
		return "", fleet.Failure(fleet.ReasonImageBuild, "the builder is broken")
	}
	return fleet.ImageID(fleet.DeriveID("image", string(p.ID), string(i.builder.Load()+'0'))), nil
}

// gate stops the n-th changing call of an engine on its way to the provider.
type gate struct {
	mu      sync.Mutex
	n, seen int
	arrived chan struct{}
	leave   chan struct{}
	result  chan error
}

func newGate(n int) *gate {
	return &gate{n: n, arrived: make(chan struct{}), leave: make(chan struct{}), result: make(chan error, 1)}
}

// pass returns the function that is told the call's result.
func (g *gate) pass() func(error) {
	if g == nil {
		return func(error) {}
	}
	g.mu.Lock()
	g.seen++
	held := g.seen == g.n
	g.mu.Unlock()
	if !held {
		return func(error) {}
	}
	close(g.arrived)
	<-g.leave // not the context: the packet is on its way already
	return func(err error) { g.result <- err }
}

// provider is the simulator with addresses, sick instances, and a gate. After
// each change it sees to it that at most one instance of an installation is on.
type provider struct {
	*sim.Provider
	w    *world
	gate *gate
}

func (p *provider) Check(ctx context.Context, c fleet.Cluster) (fleet.CheckReport, error) {
	r, err := p.Provider.Check(ctx, c)
	for i := range r.Hosts {
		r.Hosts[i].AddressPool = "10.77.0.0/22"
	}
	return r, err
}

func (p *provider) Ensure(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	told := p.gate.pass()
	switch {
	case spec.Env["SICK"] != "":
		p.w.sick.Store(spec.ID, fleet.Exit{Reason: fleet.ReasonCrashLoop, Code: 1, LastLines: []string{"I am sick"}})
	case spec.Env["JOB"] != "":
		p.w.sick.Store(spec.ID, fleet.Exit{Reason: fleet.ReasonProgramExited})
	}
	st, err := p.Provider.Ensure(context.WithoutCancel(ctx), spec)
	told(err)
	p.oneOn(spec.ClusterID)
	p.held(spec.ID, err)
	p.ail(spec.ID, err)
	return p.boot(st), err
}

func (p *provider) Suspend(ctx context.Context, ref fleet.InstanceRef, o fleet.SuspendOptions) (fleet.InstanceStatus, error) {
	told := p.gate.pass()
	st, err := p.Provider.Suspend(context.WithoutCancel(ctx), ref, o)
	told(err)
	return p.boot(st), err
}

func (p *provider) EndSleep(ctx context.Context, ref fleet.InstanceRef) (fleet.InstanceStatus, error) {
	told := p.gate.pass()
	st, err := p.Provider.EndSleep(context.WithoutCancel(ctx), ref)
	told(err)
	return st, err
}

func (p *provider) Clone(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	told := p.gate.pass()
	if spec.Env["SICK"] != "" {
		p.w.sick.Store(spec.ID, fleet.Exit{Reason: fleet.ReasonCrashLoop, Code: 1, LastLines: []string{"I am sick"}})
	}
	st, err := p.Provider.Clone(context.WithoutCancel(ctx), spec)
	told(err)
	p.held(spec.ID, err)
	p.ail(spec.ID, err)
	return p.boot(st), err
}

func (p *provider) Power(ctx context.Context, ref fleet.InstanceRef, want fleet.Power) (fleet.InstanceStatus, error) {
	told := p.gate.pass()
	st, err := p.Provider.Power(context.WithoutCancel(ctx), ref, want)
	told(err)
	p.oneOn(ref.ClusterID)
	if want == fleet.PowerOn {
		p.held(ref.ID, err)
		p.ail(ref.ID, err)
		st = p.boot(st)
	}
	return st, err
}

// ail ends a sick instance that was switched on, as a program that keeps ending
// does; the call's own answer does not know of it yet.
func (p *provider) ail(id fleet.InstanceID, err error) {
	if exit, sick := p.w.sick.Load(id); sick && err == nil && !p.w.cured.Load() {
		_ = p.SetExit(id, exit.(fleet.Exit)) // fails where it is off
	}
}

func (p *provider) Delete(ctx context.Context, ref fleet.InstanceRef) error {
	told := p.gate.pass()
	err := p.Provider.Delete(context.WithoutCancel(ctx), ref)
	told(err)
	return err
}

func (p *provider) EnsureVolume(ctx context.Context, spec fleet.VolumeSpec) (fleet.VolumeStatus, error) {
	told := p.gate.pass()
	st, err := p.Provider.EnsureVolume(context.WithoutCancel(ctx), spec)
	told(err)
	return st, err
}

func (p *provider) BeginOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	told := p.gate.pass()
	err := p.Provider.BeginOverlay(context.WithoutCancel(ctx), ref)
	told(err)
	return err
}

func (p *provider) CommitOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	told := p.gate.pass()
	err := p.Provider.CommitOverlay(context.WithoutCancel(ctx), ref)
	told(err)
	return err
}

func (p *provider) DropOverlay(ctx context.Context, ref fleet.VolumeRef) error {
	told := p.gate.pass()
	err := p.Provider.DropOverlay(context.WithoutCancel(ctx), ref)
	told(err)
	return err
}

func (p *provider) MoveVolume(ctx context.Context, ref fleet.VolumeRef, to fleet.HostID) (fleet.VolumeStatus, error) {
	told := p.gate.pass()
	st, err := p.Provider.MoveVolume(context.WithoutCancel(ctx), ref, to)
	told(err)
	return st, err
}

func (p *provider) DeleteVolume(ctx context.Context, ref fleet.VolumeRef) error {
	told := p.gate.pass()
	err := p.Provider.DeleteVolume(context.WithoutCancel(ctx), ref)
	told(err)
	return err
}

func (p *provider) boot(st fleet.InstanceStatus) fleet.InstanceStatus {
	if p.w.booting && st.Power == fleet.PowerOn {
		st.Power, st.Health = fleet.PowerPending, fleet.HealthUnknown
	}
	return st
}

// held sees to it that what was switched on has its memory held.
func (p *provider) held(id fleet.InstanceID, err error) {
	if err != nil {
		return
	}
	var short int
	err = p.w.db.QueryRow(`SELECT count(*) FROM instance x JOIN installation i ON i.id = x.installation_id
		WHERE x.id = $1 AND x.deleted_at IS NULL AND i.held_memory_mib < (x.spec ->> 'memory_mib')::int`, id).Scan(&short)
	assert.False(p.w.t, err == nil && short > 0, "instance %s was switched on without its memory being held", id)
}

func (p *provider) oneOn(cluster fleet.ClusterID) {
	on := map[fleet.InstallationID]int{}
	for _, st := range p.w.simInstances(cluster) {
		if st.Power != fleet.PowerOff && !st.Clone {
			on[st.InstallationID]++
			assert.LessOrEqual(p.w.t, on[st.InstallationID], 1, "installation %s has two machines on", st.InstallationID)
		}
	}
}

// simInstances are all instances that the simulator has in a cluster.
func (w *world) simInstances(cluster fleet.ClusterID) []fleet.InstanceStatus {
	var all []fleet.InstanceStatus
	for after := ""; ; {
		page, next, err := w.sim.List(w.ctx, cluster, after)
		if err != nil {
			return all
		}
		all = append(all, page...)
		if next == "" {
			return all
		}
		after = next
	}
}
