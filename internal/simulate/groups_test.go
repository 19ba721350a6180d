package simulate

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/store"
	"dormouse/internal/supervisor/engine"
	"dormouse/internal/supervisor/rollout"
	"dormouse/internal/supervisor/rollout/steps"
)

// groupCount is how many groups there are; clients create into them and roll out to them.
const groupCount = 2

// revisionKey is the key of the environment that every revision sets.
const revisionKey = "REVISION"

func groupName(n int) string { return fmt.Sprintf("group-%d", n) }

func createGroups(ctx context.Context, st *store.Store) error {
	for n := range groupCount {
		if _, err := st.CreateGroup(ctx, fleet.NewGroup{ID: fleet.GroupID(fleet.NewID()), Name: groupName(n), Config: fleet.GroupChange{PackageRef: &packageRefs[0]}}); err != nil {
			return err
		}
	}
	return nil
}

// groups are the store's calls that groups and rollouts make.
type groups interface {
	steps.Store
	ChangeGroup(ctx context.Context, in fleet.ChangeGroup) (fleet.GroupView, error)
	CreateRollout(ctx context.Context, in fleet.NewRollout) (fleet.RolloutView, error)
	ControlRollout(ctx context.Context, in fleet.RolloutControl) (fleet.RolloutView, error)
}

func (g gatedStore) LookAtRollout(ctx context.Context, id fleet.RolloutID, known fleet.RolloutKnown) (out fleet.RolloutLook, err error) {
	err = g.p.store(ctx, "look-at-rollout "+short(id), func(ctx context.Context, b backend) (err error) {
		out, err = b.LookAtRollout(ctx, id, known)
		return err
	})
	return out, err
}

func (g gatedStore) ChangeGroup(ctx context.Context, in fleet.ChangeGroup) (out fleet.GroupView, err error) {
	err = g.p.store(ctx, "change-group "+in.Key.Key, func(ctx context.Context, b backend) (err error) {
		out, err = b.ChangeGroup(ctx, in)
		return err
	})
	return out, err
}

func (g gatedStore) CreateRollout(ctx context.Context, in fleet.NewRollout) (out fleet.RolloutView, err error) {
	err = g.p.store(ctx, "create-rollout "+in.Key.Key, func(ctx context.Context, b backend) (err error) {
		out, err = b.CreateRollout(ctx, in)
		return err
	})
	return out, err
}

func (g gatedStore) ControlRollout(ctx context.Context, in fleet.RolloutControl) (out fleet.RolloutView, err error) {
	err = g.p.store(ctx, "control-rollout "+in.Key.Key, func(ctx context.Context, b backend) (err error) {
		out, err = b.ControlRollout(ctx, in)
		return err
	})
	return out, err
}

// rolloutWorkflow is a process' part in conducting rollouts.
func (p *process) rolloutWorkflow(log logrus.FieldLogger) *engine.Workflow {
	observer := steps.NewObserver(p.health, func(list func(context.Context)) {
		p.s.running.Go(func() { list(within(p.ctx, place{step: "observe-health"})) })
	})
	return steps.Workflow(steps.Options{Store: gatedStore{p}, Log: log, Health: observer.Health})
}

// health is what the provider says of all instances that serve.
func (p *process) health(ctx context.Context, id fleet.ClusterID) (map[fleet.InstallationID]fleet.HealthState, error) {
	health := map[fleet.InstallationID]fleet.HealthState{}
	for after := ""; ; {
		page, next, err := gatedProvider{p}.List(ctx, id, after)
		for _, st := range page {
			if st.Power == fleet.PowerOn && !st.Clone {
				health[st.InstallationID] = st.Health
			}
		}
		if err != nil || next == "" {
			return health, err
		}
		after = next
	}
}

func (c *client) group() string { return groupName(c.rng.IntN(groupCount)) }

// rollOut makes a new revision of a group and brings it to the members.
func (c *client) rollOut(name string) {
	if c.rng.IntN(2) == 0 { // while one is under way it looks several times a second: a few are enough
		c.patch(name)
		return
	}
	group, key, ref := c.group(), c.key(), packageRefs[c.rng.IntN(2)]
	value := key.Key // of this request alone: one that changes nothing makes no revision
	_, err := c.ask("revise", func(ctx context.Context, g gatedStore) (fleet.Accepted, error) {
		_, err := g.ChangeGroup(ctx, fleet.ChangeGroup{Key: key, IDOrName: group, Config: fleet.GroupChange{PackageRef: &ref, Env: map[string]*string{revisionKey: &value}}})
		return fleet.Accepted{}, err
	})
	if err != nil {
		return
	}
	c.s.world.revised(group)
	spec := fleet.RolloutSpec{Slots: 1 + c.rng.IntN(8), VerifySlots: 1 + c.rng.IntN(4), HealthyFor: time.Duration(1+c.rng.IntN(3000)) * time.Millisecond,
		HealthDeadline: c.s.draw.healthDeadline, Soak: -1, AutoRollback: c.rng.IntN(2) == 0}
	if c.rng.IntN(2) == 0 {
		spec.Soak = time.Duration(1+c.rng.IntN(20)) * time.Second
	}
	if spec, err = rollout.Normalise(spec, c.s.size.installations/3); err != nil {
		c.s.fail("filling in a rollout: %v", err)
		return
	}
	in := fleet.NewRollout{Key: c.key(), ID: fleet.RolloutID(fleet.NewID()), Group: group, Spec: spec}
	_, _ = c.ask("rollout", func(ctx context.Context, g gatedStore) (fleet.Accepted, error) {
		in.OperationID = fleet.OperationID(fleet.NewID())
		view, err := g.CreateRollout(ctx, in)
		if err == nil {
			c.s.world.rollingOut(group, view.ID)
		}
		return fleet.Accepted{}, err
	})
}

// control gives a verb to the last rollout of a group.
func (c *client) control(string) {
	id, key := c.s.world.rolloutOf(c.group()), c.key()
	verbs := []fleet.RolloutVerb{fleet.RolloutPause, fleet.RolloutResume, fleet.RolloutResume, fleet.RolloutForce, fleet.RolloutRetry, fleet.RolloutCancel, fleet.RolloutRollback}
	verb := verbs[c.rng.IntN(len(verbs))]
	if id == "" {
		return
	}
	_, _ = c.ask("control", func(ctx context.Context, g gatedStore) (fleet.Accepted, error) {
		_, err := g.ControlRollout(ctx, fleet.RolloutControl{Key: key, ID: id, Verb: verb})
		return fleet.Accepted{}, err
	})
}

// revised notes that a new revision was acknowledged, rollingOut the last rollout of a group.
func (w *world) revised(group string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.revisions[group]++
}

func (w *world) rollingOut(group string, id fleet.RolloutID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rollouts[group] = id
}

func (w *world) rolloutOf(group string) fleet.RolloutID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rollouts[group]
}

// noRevisionLost: a group has the revisions that were acknowledged, each once.
func (w *world) noRevisionLost() {
	for n := range groupCount {
		have := w.s.strings(`SELECT count(*) FROM group_revision r JOIN installation_group g ON g.id = r.group_id WHERE g.name = $1`, groupName(n))
		if want := 1 + w.revisions[groupName(n)]; len(have) != 1 || have[0] != strconv.Itoa(want) {
			w.broken("NoChangeLost", "%s has %v revisions; %d were acknowledged", groupName(n), have, want)
		}
	}
}

// cancelRollouts ends those that wait for somebody to decide.
func (s *simulation) cancelRollouts() {
	waiting := s.strings(`SELECT id FROM rollout WHERE state IN ('paused', 'halted') ORDER BY id`)
	for _, id := range waiting {
		key := fleet.IdempotencyKey{Key: fleet.NewID()}
		if err := s.directly(func(ctx context.Context, st *store.Store) error {
			_, err := st.ControlRollout(ctx, fleet.RolloutControl{Key: key, ID: fleet.RolloutID(id), Verb: fleet.RolloutCancel})
			return err
		}); err != nil {
			s.world.broken("NoInternalError", "cancelling rollout %s: %v", id, err)
		}
	}
	for _, p := range s.alive() {
		if len(waiting) > 0 {
			p.engine.Wake()
		}
	}
}
