package chaos

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"time"

	"dormouse/client"
	"dormouse/internal/fleet"
	"dormouse/internal/invariants"
	"dormouse/internal/provider/sim"
)

// settleWithin is how long it may take until nothing is at work any more once
// the faults are over: a lease, the longest back-off, a deadline of a step, and some
// rounds of that.
const settleWithin = 150 * time.Second

// patienceRounds of half a second are how long a rollout may go on: before it tries
// again on what has failed, it sees for minutes how that does on the old release.
const patienceRounds = 120

// openSQL is what is open, with what its rollout says of it where it is one.
const openSQL = `SELECT o.resource_name || ' ' || o.kind || ' ' || o.state || ' at ' || o.step || ': ' || o.wait_reason || ' ' || o.error || coalesce(' ' || r.state || ', ' || r.detail, '')
FROM operation o LEFT JOIN rollout r ON r.id = o.resource_id WHERE o.state IN ('active', 'queued') ORDER BY o.id`

// settle waits until everything has come to its end. What failed is asked for
// again, as whoever runs the place would; rollouts that wait for a decision are cancelled.
func (r *run) settle(ctx context.Context) error {
	deadline := time.Now().Add(settleWithin)
	before := ""
	asker := r.tenants.newTenant(100)
	for round := 1; ; round++ {
		if err := r.decide(ctx, asker, "'paused', 'halted'", (*client.Rollouts).Cancel); err != nil {
			return err
		}
		if round%20 == 0 { // it would look by itself after a minute
			if err := r.decide(ctx, asker, "'running'", (*client.Rollouts).Resume); err != nil {
				return err
			}
		}
		if round == patienceRounds {
			if err := r.decide(ctx, asker, "'running'", (*client.Rollouts).Cancel); err != nil {
				return err
			}
		}
		open, err := r.ask(ctx)(openSQL)
		if err != nil {
			return err
		}
		if now := fmt.Sprint(open); now != before {
			r.logf("%d open: %s", len(open), now)
			before = now
		}
		var failed []string
		if len(open) == 0 {
			if failed, err = r.askAgain(ctx, asker); err != nil || len(failed) == 0 {
				return err
			}
		}
		if time.Now().After(deadline) {
			r.broken("Quiescence", "%v after the faults were over, %d operations are open and %d installations behind: %v %v", settleWithin, len(open), len(failed),
				open[:min(5, len(open))], failed[:min(5, len(failed))])
			return nil
		}
		r.killer.revive()
		pause(ctx, 500*time.Millisecond)
	}
}

// decide gives a verb to all rollouts in some states.
func (r *run) decide(ctx context.Context, asker *tenant, states string, verb rolloutVerb) error {
	ids, err := r.ask(ctx)(`SELECT id FROM rollout WHERE state IN (` + states + `)`)
	for _, id := range ids {
		asker.control(ctx, id, verb)
	}
	return err
}

// askAgain asks again for what failed or is behind, and returns what that was.
func (r *run) askAgain(ctx context.Context, asker *tenant) (all []string, err error) {
	restless, err := r.ask(ctx)(invariants.Restless)
	if err != nil {
		return nil, err
	}
	unapplied, err := r.ask(ctx)(invariants.Unapplied)
	for _, id := range restless {
		asker.ask(ctx, "retry "+id, func(ctx context.Context, c *client.Client, key client.RequestOption) error {
			_, err := c.Installations.Retry(ctx, id, key)
			return err
		})
	}
	for _, id := range unapplied {
		asker.ask(ctx, "update "+id, func(ctx context.Context, c *client.Client, key client.RequestOption) error {
			value := fmt.Sprint(asker.counter)
			_, err := c.Installations.Update(ctx, id, client.UpdateInstallation{Labels: map[string]*string{"again": &value}}, key)
			return err
		})
	}
	return append(restless, unapplied...), err
}

// judge looks at the end from outside.
func (r *run) judge(ctx context.Context) error {
	ask := r.ask(ctx)
	found, err := invariants.AtRest(ask)
	if err != nil {
		return err
	}
	for _, v := range found {
		r.broken(v.Invariant, "%s", v.Detail)
	}
	for _, check := range []func(context.Context, invariants.Ask) error{r.noChangeLost, r.noRevisionLost, r.rolloutsEnded, r.noStray} {
		if err := check(ctx, ask); err != nil {
			return err
		}
	}
	return r.noPanic()
}

type finalState struct {
	Name, State string
	Env         map[string]string
	Member      bool
	// Refused: the last request to sleep or to wake failed or was cancelled, as its operation says.
	Refused bool
}

const finalSQL = `SELECT jsonb_build_object('name', i.name, 'state', i.state, 'env', i.env, 'member', i.group_id IS NOT NULL, 'refused', coalesce((
	SELECT o.state IN ('failed', 'cancelled') FROM operation o WHERE o.resource_id = i.id AND o.kind IN ('hibernate', 'wake') ORDER BY o.generation DESC LIMIT 1), false))::text
FROM installation i ORDER BY i.created_at`

// noChangeLost: whatever was acknowledged is so at the end.
func (r *run) noChangeLost(_ context.Context, ask invariants.Ask) error {
	texts, err := ask(finalSQL)
	if err != nil {
		return err
	}
	final := map[string]finalState{}
	for _, text := range texts {
		var f finalState
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			return err
		}
		final[f.Name] = f
	}
	for name, w := range r.tenants.wishes {
		f, there := final[name]
		want := "stable"
		switch {
		case w.deleted:
			want = "deleted"
		case w.asleep:
			want = "hibernating"
		}
		awake := f.State == "stable" || f.State == "hibernating"
		if !there || f.State != want && !w.unsure && !(f.Refused && awake && !w.deleted) {
			r.broken("NoChangeLost", "%s was to be %s, and is %q", name, want, f.State)
		}
		if w.deleted {
			continue
		}
		for key, value := range w.env {
			if f.Env[key] != value {
				r.broken("NoChangeLost", "%s: %s=%s was acknowledged; it is %q", name, key, value, f.Env[key])
			}
		}
		for key := range f.Env {
			if _, known := w.env[key]; !known && !w.maybe[key] && !(f.Member && key == "REVISION") {
				r.broken("NoChangeLost", "%s: %s is there, and was not acknowledged", name, key)
			}
		}
		if f.Member != w.member {
			r.broken("NoChangeLost", "%s is in a group: %v; that was acknowledged: %v", name, f.Member, w.member)
		}
	}
	return nil
}

// noRevisionLost: groups have the revisions that were acknowledged, one for each request.
func (r *run) noRevisionLost(_ context.Context, ask invariants.Ask) error {
	for name, want := range r.tenants.revisions {
		have, err := ask(`SELECT count(*) FROM group_revision r JOIN installation_group g ON g.id = r.group_id WHERE g.name = $1`, name)
		if err != nil {
			return err
		}
		if have[0] != fmt.Sprint(want) {
			r.broken("NoChangeLost", "%s has %s revisions; %d were acknowledged", name, have[0], want)
		}
	}
	return nil
}

// rolloutsEnded: each one that was acknowledged has come to an end that there is.
func (r *run) rolloutsEnded(_ context.Context, ask invariants.Ask) error {
	for _, id := range r.tenants.rollouts {
		state, err := ask(`SELECT state FROM rollout WHERE id = $1`, id)
		if err != nil {
			return err
		}
		if len(state) != 1 || !(client.Rollout{State: state[0]}).Finished() {
			r.broken("RolloutsEnd", "rollout %s is %v", id, state)
		}
	}
	return nil
}

// noStray: the simulator has what there are rows of and nothing else, and has
// never seen two machines of one installation at once.
func (r *run) noStray(ctx context.Context, ask invariants.Ask) error {
	instances, err := ask(`SELECT id FROM instance WHERE deleted_at IS NULL`)
	if err != nil {
		return err
	}
	volumes, err := ask(`SELECT id FROM volume WHERE deleted_at IS NULL`)
	if err != nil {
		return err
	}
	absent, err := ask(`SELECT id FROM instance WHERE deleted_at IS NULL AND power IN ('off', 'planned') UNION ALL SELECT id FROM volume WHERE provider_ref = ''`)
	if err != nil {
		return err
	}
	known := sim.Known{}
	for _, id := range instances {
		known.Instances = append(known.Instances, fleet.InstanceID(id))
	}
	for _, id := range volumes {
		known.Volumes = append(known.Volumes, fleet.VolumeID(id))
	}
	leaks, err := r.sim.Leaks(ctx, known)
	if err != nil {
		return err
	}
	may := map[string]bool{}
	for _, id := range absent {
		may[id] = true
	}
	for _, id := range leaks.MissingInstances {
		if !may[string(id)] {
			r.broken("NoStray", "instance %s is on by its row, and there is no such machine", id)
		}
	}
	for _, id := range leaks.MissingVolumes {
		if !may[string(id)] {
			r.broken("NoStray", "volume %s is gone", id)
		}
	}
	if n := len(leaks.Instances) + len(leaks.Clones) + len(leaks.Volumes); n > 0 {
		r.broken("NoStray", "machines %v, clones %v and volumes %v have no rows", leaks.Instances, leaks.Clones, leaks.Volumes)
	}
	if err := r.samePower(ctx, ask); err != nil {
		return err
	}
	totals, err := r.sim.Totals(ctx)
	if err == nil && totals.Duplicates() > 0 {
		r.broken("OneServingMachine", "the simulator saw %d machines beside another of their installation (%v), and %d made again (%v)",
			totals.Doubles, totals.DoubleIDs, totals.Recreated, totals.RecreatedIDs)
	}
	return err
}

// samePower: machines are on and off as their rows say.
func (r *run) samePower(ctx context.Context, ask invariants.Ask) error {
	rows, err := ask(`SELECT id || ' ' || power FROM instance WHERE deleted_at IS NULL`)
	if err != nil {
		return err
	}
	cluster, err := ask(`SELECT id FROM cluster`)
	if err != nil {
		return err
	}
	power := map[string]string{}
	for _, text := range rows {
		power[text[:fleet.IDLength]] = text[fleet.IDLength+1:]
	}
	for after := ""; ; {
		page, next, err := r.sim.List(ctx, fleet.ClusterID(cluster[0]), after)
		if err != nil {
			return err
		}
		for _, m := range page {
			if want, known := power[string(m.ID)]; known && want != string(m.Power) {
				r.broken("NoStray", "machine %s is %s, and its row says %s", m.ID, m.Power, want)
			}
		}
		if after = next; next == "" {
			return nil
		}
	}
}

// panics are how a log tells of one: the engine's own words and the runtime's.
var panics = regexp.MustCompile(`^panic: |^fatal error: |level=error msg="panic `)

func (r *run) noPanic() error {
	for _, p := range append(r.provisioners, r.simulator) {
		file, err := os.Open(p.log)
		if err != nil {
			return err
		}
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if panics.MatchString(lines.Text()) {
				r.broken("NoPanic", "%s: %s", p.name, lines.Text())
			}
		}
	}
	return nil
}
