package installation

import (
	"context"
	"fmt"
	"slices"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// verify tries a release on a throw-away clone of a sleeping installation. Its
// users notice nothing: any request of theirs pre-empts it, and what is left of
// the clone then goes before anything else is done (deleteClonesStep).
func (w *workflows) verify() *engine.Workflow {
	return &engine.Workflow{Kind: fleet.OperationVerify, Steps: slices.Concat(recallable(append(w.cloneSteps(24*time.Hour), // it may wait for capacity
		w.endSleepStep(givesWay))...), []engine.Step{{Name: "delete-clone", Run: w.deleteClone, Executor: w.host}}), Rollback: []engine.Step{w.dropCloneStep()}}
}

// cloneSteps make a clone, for which room is waited for so long, and wait until it is healthy.
func (w *workflows) cloneSteps(patience time.Duration) []engine.Step {
	noClone := func(s *fleet.Snapshot) bool { return firstClone(s) == nil }
	return []engine.Step{
		{Name: "prepare-clone", Run: w.prepareClone, Timeout: 10 * time.Minute, Deadline: func(*fleet.Snapshot) time.Duration { return patience }},
		{Name: "start-clone", Run: w.startClone, Executor: w.host, Skip: noClone},
		{Name: "await-clone", Run: w.awaitClone, Executor: w.host, Skip: noClone, Overdue: fleet.ReasonNotHealthy, Deadline: w.steadyDeadline},
	}
}

func (w *workflows) dropCloneStep() engine.Step {
	return engine.Step{Name: "drop-clone", Run: w.dropClone, Executor: w.host,
		Skip: func(s *fleet.Snapshot) bool { return firstClone(s) == nil && s.Installation.HeldMemoryMiB == 0 }}
}

func firstClone(s *fleet.Snapshot) *fleet.Instance {
	for i := range s.Instances {
		if s.Instances[i].Clone {
			return &s.Instances[i]
		}
	}
	return nil
}

// deleteClonesStep removes what a verification left that was pre-empted.
func (w *workflows) deleteClonesStep() engine.Step {
	return engine.Step{Name: "delete-clone", Executor: w.host, Skip: func(s *fleet.Snapshot) bool { return firstClone(s) == nil },
		Run: func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
			c, err := w.delete(ctx, s, firstClone(s))
			if err != nil {
				return fleet.Outcome{}, err
			}
			return fleet.Advance(c), nil
		}}
}

// prepareClone builds the release's image, asks for memory where the data lies,
// and plans the clone.
func (w *workflows) prepareClone(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	place, err := w.place(s)
	if err != nil {
		return fleet.Outcome{}, err
	}
	if left := firstClone(s); left != nil { // of a verification that could not tidy up
		c, err := w.delete(ctx, s, left)
		return fleet.Repeat(c), err
	}
	if _, ok := place.Provider.(Cloner); !ok {
		return fleet.Fail(fleet.ReasonUnverifiable, fmt.Sprintf("provider %s can't make clones", s.Cluster.Provider)), nil
	}
	inst, pkg := *s.Installation, *s.Package
	if s.Operation.Kind == fleet.OperationVerify {
		if s.Target == nil {
			return fleet.Fail(fleet.ReasonUnverifiable, "the revision to try is gone"), nil
		}
		s.Target.Config.Settle(&inst)
		if inst.Own.PackageID == "" { // else it sets its own
			pkg = s.Target.Package
		}
	}
	image, err := place.Images.Ensure(ctx, pkg)
	if err != nil {
		return fleet.Outcome{}, err
	}
	hold := fleet.Hold{HostID: inst.HeldHostID, MemoryMiB: int64(inst.MemoryMiB), DiskMiB: inst.HeldDiskMiB}
	host := choose(s, hold)
	if host == nil {
		return fleet.Wait(5*time.Second, fleet.WaitCapacity, fmt.Sprintf("no host has %d MiB of memory free for a clone", inst.MemoryMiB)), nil
	}
	hold.HostID = host.ID
	return fleet.Advance(fleet.Changes{Hold: &hold, Instances: []fleet.Instance{{
		ID: fleet.InstanceID(fleet.DeriveID(string(s.Operation.ID), "clone")), InstallationID: inst.ID, Role: fleet.RoleApplication,
		ClusterID: inst.ClusterID, HostID: host.ID, Clone: true, Power: fleet.PowerPlanned,
		Spec: fleet.InstanceConfig{
			Generation: inst.Generation, PackageID: pkg.ID, Image: image, Kernel: pkg.Kernel, MemoryMiB: inst.MemoryMiB, VCPUs: inst.VCPUs,
			Manifest: pkg.Manifest, Env: inst.Env, Secrets: inst.Secrets,
		},
	}}}), nil
}

func (w *workflows) startClone(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	place, err := w.place(s)
	if err != nil {
		return fleet.Outcome{}, err
	}
	clone := *firstClone(s)
	spec, err := w.spec(s, &clone)
	if err != nil {
		return fleet.Outcome{}, err
	}
	spec.Network = nil // the address is the sleeper's own
	cloner, ok := place.Provider.(Cloner)
	if !ok {
		return fleet.Fail(fleet.ReasonUnverifiable, fmt.Sprintf("provider %s can't make clones", s.Cluster.Provider)), nil
	}
	st, err := cloner.Clone(ctx, spec)
	if err != nil {
		return fleet.Outcome{}, err
	}
	clone.Power, clone.ProviderRef = fleet.PowerPending, st.ProviderRef
	return fleet.Advance(fleet.Changes{Instances: []fleet.Instance{clone}}), nil
}

func (w *workflows) awaitClone(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	clone := *firstClone(s)
	out, st, err := w.steady(ctx, s, &clone)
	if err != nil || out.Verdict != fleet.VerdictAdvance {
		return out, err
	}
	clone.Power, clone.ProviderRef = fleet.PowerOn, st.ProviderRef
	return fleet.Advance(fleet.Changes{Instances: []fleet.Instance{clone}}), nil
}

// deleteClone ends a verification that went well: the next wake starts the new release.
func (w *workflows) deleteClone(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	clone := firstClone(s)
	c, err := w.delete(ctx, s, clone)
	if err != nil {
		return fleet.Outcome{}, err
	}
	c.Hold = asleepHold(s)
	c.Pin = &s.Operation.Rollout.To
	if clone != nil {
		c.Verified = &clone.Spec.PackageID
	}
	return fleet.Advance(c), nil
}

func (w *workflows) dropClone(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	c, err := w.delete(ctx, s, firstClone(s))
	if err != nil {
		return fleet.Outcome{}, err
	}
	c.Hold = asleepHold(s)
	return fleet.Advance(c), nil
}

// asleepHold is what a sleeper holds: its disk, if it has one, on its host.
func asleepHold(s *fleet.Snapshot) *fleet.Hold {
	return &fleet.Hold{HostID: s.Installation.HeldHostID, DiskMiB: s.Installation.HeldDiskMiB}
}

const (
	// steadyKey is where an operation remembers since when an instance has been healthy.
	steadyKey = "healthy_since"
	// steadyLook is how often an instance is looked at that must stay healthy for a while.
	steadyLook = 5 * time.Second
)

// steadyFor is how long an instance must stay healthy before it counts as good.
func steadyFor(s *fleet.Snapshot) time.Duration {
	if s.Operation.Rollout == nil {
		return 0
	}
	return time.Duration(s.Operation.Rollout.HealthyForMillis) * time.Millisecond
}

// healthDeadline bounds the wait for the first healthy answer.
func (w *workflows) healthDeadline(s *fleet.Snapshot) time.Duration {
	if r := s.Operation.Rollout; r != nil && r.HealthDeadlineMillis > 0 {
		return time.Duration(r.HealthDeadlineMillis) * time.Millisecond
	}
	return w.HealthDeadline
}

func (w *workflows) steadyDeadline(s *fleet.Snapshot) time.Duration {
	return w.healthDeadline(s) + steadyFor(s)
}

// staySteadyStep watches the new release for a while before the old one goes.
func (w *workflows) staySteadyStep() engine.Step {
	return engine.Step{Name: "stay-healthy", Executor: w.host, Overdue: fleet.ReasonNotHealthy, Deadline: w.steadyDeadline,
		Skip: func(s *fleet.Snapshot) bool { return steadyFor(s) == 0 || target(s) == nil || asleep(s) },
		Run: func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
			t := target(s)
			out, st, err := w.steady(ctx, s, t)
			if err == nil && st.Exit != nil {
				return w.ended(s, *t, st), nil
			}
			return out, err
		}}
}

// steady advances once an instance has been healthy for as long as it must. An
// answer that says nothing is neither good nor bad.
func (w *workflows) steady(ctx context.Context, s *fleet.Snapshot, i *fleet.Instance) (fleet.Outcome, fleet.InstanceStatus, error) {
	place, err := w.place(s)
	if err != nil {
		return fleet.Outcome{}, fleet.InstanceStatus{}, err
	}
	st, err := place.Provider.Observe(ctx, ref(s, i))
	if fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.Wait(lookAgain, fleet.WaitInstance, "the provider does not show the instance yet"), st, nil
	}
	if err != nil {
		return fleet.Outcome{}, st, err
	}
	if st.Exit != nil {
		reason := st.Exit.Reason
		if reason == "" {
			reason = fleet.ReasonProgramExited
		}
		return fleet.Fail(reason, st.Exit.String()), st, nil
	}
	since, _ := time.Parse(time.RFC3339Nano, s.Operation.Observed[steadyKey]) // zero where it has not been healthy
	need := steadyFor(s)
	healthy := st.Power == fleet.PowerOn && st.Health == fleet.HealthHealthy
	switch {
	case healthy && need == 0, healthy && !since.IsZero() && s.Now.Sub(since) >= need:
		return fleet.Advance(fleet.Changes{}), st, nil
	case healthy && since.IsZero():
		out := fleet.Wait(min(steadyLook, need), fleet.WaitSteady, "healthy, and watched for "+need.String())
		out.Changes.Observed = map[string]string{steadyKey: s.Now.Format(time.RFC3339Nano)}
		return out, st, nil
	case healthy, st.Health == fleet.HealthUnknown && !since.IsZero():
		left := max(need-s.Now.Sub(since), 0)
		return fleet.Wait(min(steadyLook, left+time.Millisecond), fleet.WaitSteady, "healthy, and watched for "+need.String()), st, nil
	}
	out := fleet.Wait(min(again(st), steadyLook), fleet.WaitHealthy, st.HealthDetail)
	if !since.IsZero() {
		out.Changes.Observed = map[string]string{steadyKey: ""}
	}
	return out, st, nil
}
