package simulate

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"dormouse/internal/fleet"
	"dormouse/internal/invariants"
	"dormouse/internal/provider/sim"
)

// world is what the simulation knows besides the product: what was
// acknowledged, which claim is the latest, what the provider was made to do.
type world struct {
	s       *simulation
	cluster fleet.ClusterID
	// dirty: something has changed at the provider since look looked.
	dirty atomic.Bool

	mu         sync.Mutex
	violations []invariants.Violation
	claims     map[fleet.OperationID]claim
	// served is the highest epoch, as the claims know it, that has reached an object.
	served map[string]fleet.Epoch
	// last is what the provider wrote down of the last call of a kind on an object.
	last map[callKey]sim.Entry
	// addresses are those that machines were made with.
	addresses map[fleet.InstanceID]string
	tenants   map[string]*tenant
	names     []string
	accepted  int
	replies   map[string]reply
	// revisions counts those acknowledged, rollouts are the last ones, by group.
	revisions map[string]int
	rollouts  map[string]fleet.RolloutID
}

type claim struct {
	epoch fleet.Epoch
	by    *process
}

type callKey struct {
	call   sim.Call
	object string
}

func newWorld(s *simulation) *world {
	return &world{s: s, claims: map[fleet.OperationID]claim{}, served: map[string]fleet.Epoch{}, last: map[callKey]sim.Entry{},
		addresses: map[fleet.InstanceID]string{}, tenants: map[string]*tenant{}, replies: map[string]reply{}, revisions: map[string]int{}, rollouts: map[string]fleet.RolloutID{}}
}

// maxViolations is enough to see what is wrong.
const maxViolations = 20

// broken records that an invariant does not hold.
func (w *world) broken(invariant, format string, args ...any) {
	v := invariants.Violation{Invariant: invariant, Detail: fmt.Sprintf(format, args...)}
	w.s.note("VIOLATION of %s: %s", v.Invariant, v.Detail)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.violations) < maxViolations {
		w.violations = append(w.violations, v)
	}
}

func (w *world) isBroken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.violations) > 0
}

// operations is how many operations were accepted.
func (w *world) operations() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.accepted
}

// claimed notes who works on what.
func (w *world) claimed(p *process, snaps []fleet.Snapshot) {
	for _, snap := range snaps {
		w.s.note("%s has %s epoch %d at %q", p.name, short(snap.Operation.ID), snap.Operation.Epoch, snap.Operation.Step)
	}
	w.mu.Lock()
	for _, snap := range snaps {
		op := snap.Operation
		if w.claims[op.ID].epoch <= op.Epoch {
			w.claims[op.ID] = claim{op.Epoch, p}
		}
	}
	w.mu.Unlock()
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	for _, snap := range snaps {
		w.s.steps[snap.Operation.ID] = stepName(snap.Operation.Kind, snap.Operation.Step)
	}
}

// committed judges what the store made of results.
func (w *world) committed(p *process, results []fleet.Result, out []fleet.Committed, err error) {
	if err != nil {
		return
	}
	for i, r := range results {
		w.s.note("%s %s -> %s %q %s%s stale=%v %s", p.name, short(r.OperationID), r.State, r.Step, r.To, r.WaitReason, out[i].Stale, out[i].Denied)
		if !out[i].Stale {
			w.noStaleWrite(p, r)
			w.s.mu.Lock()
			w.s.steps[r.OperationID] = stepName(r.Kind, r.Step)
			w.s.mu.Unlock()
		}
	}
}

// sent notes a call that is on its way to the provider.
func (w *world) sent(kind sim.Call, object, step string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.last, callKey{kind, object})
}

// onCall is told by the provider of each call.
func (w *world) onCall(e sim.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[callKey{e.Call, e.Object}] = e
	if e.Effect != sim.EffectNone {
		w.dirty.Store(true)
	}
}

// effected judges what a call did, when it has arrived.
func (w *world) effected(ctx context.Context, p *process, kind sim.Call, object string) {
	w.mu.Lock()
	e, ok := w.last[callKey{kind, object}]
	w.mu.Unlock()
	if !ok {
		return
	}
	if e.Fault != "" {
		w.s.hit(string(e.Fault), stepOf(ctx))
	}
	if e.Effect != sim.EffectNone || e.Kind != "" {
		w.s.note("%s %s %s epoch %d: %s %s %s", p.name, kind, short(object), e.Epoch, e.Effect, e.Fault, e.Kind)
	}
	if e.Kind == fleet.KindFenced {
		w.s.hit("fenced", stepOf(ctx))
	}
	w.noFencedEffect(placeOf(ctx), e)
}

func (w *world) addressed(spec fleet.InstanceSpec) {
	if spec.Network == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.addresses[spec.ID] = spec.Network.Address
}
