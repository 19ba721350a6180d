package providertest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// Run checks a provider. It makes its subtests sequential among themselves;
// the caller may be parallel.
func Run(t *testing.T, h Harness) {
	s := &suite{h: h, signals: newSignals()}
	s.p = h.New(t, s.signals.onChange)
	require.NotNil(t, s.p)
	s.volumes, _ = s.p.(Volumes)
	if s.volumes == nil {
		t.Log("providertest: this provider keeps no volumes; nothing is checked about them")
	}
	if _, ok := s.p.(Consoles); !ok {
		t.Log("providertest: this provider has no consoles; nothing is checked about them")
	}
	if _, ok := s.p.(Cloner); !ok {
		t.Log("providertest: this provider makes no clones; nothing is checked about them")
	}
	if _, ok := s.p.(Suspender); !ok {
		t.Log("providertest: this provider lets no machine sleep; nothing is checked about that")
	}
	if _, ok := s.p.(VolumeMover); !ok {
		t.Log("providertest: this provider moves no volumes; nothing is checked about that")
	}
	t.Run("Check", s.check)
	t.Run("Unknown", s.unknown)
	t.Run("CancelledContext", s.cancelledContext)
	t.Run("Volumes", s.volumeLife)
	t.Run("Life", s.life)
	t.Run("Suspend", s.suspend)
	t.Run("Clone", s.clone)
	t.Run("Move", s.move)
	t.Run("Concurrent", s.concurrent)
	t.Run("NothingLeft", s.nothingLeft)
}

// suite is one run.
type suite struct {
	h       Harness
	signals *signals
	p       Provider
	// volumes is p's power over volumes; nil if it has none.
	volumes Volumes
}

// chain runs subtests that build on one another: the first failure ends it.
func chain(t *testing.T, steps ...step) {
	for _, st := range steps {
		if st.run != nil && !t.Run(st.name, st.run) {
			t.Fatalf("%s failed: the steps that build on it are left out", st.name)
		}
	}
}

type step struct {
	name string
	run  func(*testing.T)
}

// refOf names an instance as a caller does who never got an answer.
func refOf(spec fleet.InstanceSpec) fleet.InstanceRef {
	return fleet.InstanceRef{ID: spec.ID, ClusterID: spec.ClusterID, HostID: spec.HostID, Epoch: spec.Epoch}
}

// at returns ref with another epoch.
func at(ref fleet.InstanceRef, epoch fleet.Epoch) fleet.InstanceRef {
	ref.Epoch = epoch
	return ref
}

// specAt returns spec with another epoch.
func specAt(spec fleet.InstanceSpec, epoch fleet.Epoch) fleet.InstanceSpec {
	spec.Epoch = epoch
	return spec
}

func running(st fleet.InstanceStatus) bool {
	return st.Power == fleet.PowerOn && st.Health == fleet.HealthHealthy
}

func off(st fleet.InstanceStatus) bool { return st.Power == fleet.PowerOff }

// await observes until ok holds, looking again only when a signal comes or at
// the time that the status named.
func (s *suite) await(t *testing.T, ref fleet.InstanceRef, what string, ok func(fleet.InstanceStatus) bool) fleet.InstanceStatus {
	t.Helper()
	deadline := time.NewTimer(s.h.timeout())
	defer deadline.Stop()
	for {
		seen, next := s.signals.seen(ref.ID)
		st, err := s.p.Observe(t.Context(), ref)
		require.NoError(t, err)
		if ok(st) {
			return st
		}
		var again <-chan time.Time
		if st.Again > 0 {
			again = time.After(st.Again)
		}
		for waiting := true; waiting; {
			select {
			case <-next:
				var now int
				now, next = s.signals.seen(ref.ID)
				waiting = now == seen
			case <-again:
				waiting = false
			case <-deadline.C:
				last, err := s.p.Observe(t.Context(), ref)
				require.Failf(t, "timeout", "%s did not become %s within %v, or no signal told of it; last waited on %+v, now %+v (%v)",
					ref.ID, what, s.h.timeout(), st, last, err)
			}
		}
	}
}

// awaitSignal waits until more than base signals came for the instance.
func (s *suite) awaitSignal(t *testing.T, id fleet.InstanceID, base int) {
	t.Helper()
	deadline := time.NewTimer(s.h.timeout())
	defer deadline.Stop()
	for {
		now, next := s.signals.seen(id)
		if now > base {
			return
		}
		select {
		case <-next:
		case <-deadline.C:
			require.Failf(t, "no signal", "no signal came for %s within %v, although it was pending before", id, s.h.timeout())
		}
	}
}

// settle waits for the end of a change that a call has begun: answer is what it
// returned, base the count of signals before it.
func (s *suite) settle(t *testing.T, ref fleet.InstanceRef, answer fleet.InstanceStatus, base int, what string, ok func(fleet.InstanceStatus) bool) fleet.InstanceStatus {
	t.Helper()
	st := s.await(t, ref, what, ok)
	if answer.Power == fleet.PowerPending {
		s.awaitSignal(t, ref.ID, base)
	}
	return st
}

// ensure ensures an instance, checks the answer and waits until it is healthy.
func (s *suite) ensure(t *testing.T, spec fleet.InstanceSpec) fleet.InstanceStatus {
	t.Helper()
	base, _ := s.signals.seen(spec.ID)
	answer, err := s.p.Ensure(t.Context(), spec)
	require.NoError(t, err)
	require.Equal(t, spec.ID, answer.ID)
	require.Contains(t, []fleet.Power{fleet.PowerOn, fleet.PowerPending}, answer.Power)
	return s.settle(t, refOf(spec), answer, base, "healthy", running)
}

// power switches an instance and waits until it is so.
func (s *suite) power(t *testing.T, ref fleet.InstanceRef, target fleet.Power) fleet.InstanceStatus {
	t.Helper()
	base, _ := s.signals.seen(ref.ID)
	answer, err := s.p.Power(t.Context(), ref, target)
	require.NoError(t, err)
	require.Contains(t, []fleet.Power{target, fleet.PowerPending}, answer.Power)
	if target == fleet.PowerOff {
		return s.settle(t, ref, answer, base, "off", off)
	}
	return s.settle(t, ref, answer, base, "healthy", running)
}

// list pages through all instances.
func (s *suite) list(t *testing.T) map[fleet.InstanceID]fleet.InstanceStatus {
	t.Helper()
	all := map[fleet.InstanceID]fleet.InstanceStatus{}
	var cursors []string
	for after := ""; ; {
		page, next, err := s.p.List(t.Context(), s.h.Cluster.ID, after)
		require.NoError(t, err)
		for _, st := range page {
			require.NotContains(t, all, st.ID, "listed twice")
			all[st.ID] = st
		}
		if next == "" {
			return all
		}
		require.NotContains(t, cursors, next, "List goes round in circles")
		cursors, after = append(cursors, next), next
	}
}

// deleteInstance removes an instance and checks that it is gone.
func (s *suite) deleteInstance(t *testing.T, ref fleet.InstanceRef) {
	t.Helper()
	require.NoError(t, s.p.Delete(t.Context(), ref))
	s.requireGone(t, ref)
}

func (s *suite) requireGone(t *testing.T, ref fleet.InstanceRef) {
	t.Helper()
	_, err := s.p.Observe(t.Context(), ref)
	requireKind(t, err, fleet.KindNotFound)
	require.NotContains(t, s.list(t), ref.ID)
}

// cleanUp deletes an instance when t ends, also where t failed.
func (s *suite) cleanUp(t *testing.T, ref fleet.InstanceRef) {
	t.Cleanup(func() {
		ref.Epoch = cleanUpEpoch
		if err := s.p.Delete(context.WithoutCancel(t.Context()), ref); err != nil {
			t.Errorf("cleaning up %s: %v", ref.ID, err)
		}
	})
}

// cleanUpEpoch is higher than any that the suite uses.
const cleanUpEpoch fleet.Epoch = 1 << 40

func requireKind(t *testing.T, err error, kinds ...fleet.ErrorKind) {
	t.Helper()
	require.Error(t, err)
	require.Truef(t, slices.Contains(kinds, fleet.KindOf(err)), "want an error of kind %v, got kind %q: %v", kinds, fleet.KindOf(err), err)
}
