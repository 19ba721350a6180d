package steps

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
	"dormouse/internal/supervisor/rollout"
)

// Store is what the workflow needs of the database.
type Store interface {
	// LookAtRollout returns all members unless the rollout is as known or has
	// ended, else those in work and those that known asks for.
	LookAtRollout(ctx context.Context, id fleet.RolloutID, known fleet.RolloutKnown) (fleet.RolloutLook, error)
}

// Options configure the workflow.
type Options struct {
	Store Store
	// Health says what is known of the health of a cluster's instances; it should
	// not take long (see Observer).
	Health func(ctx context.Context, cluster fleet.ClusterID) (Health, error)
	// Query asks for the value of a metric; an error is no answer.
	Query func(ctx context.Context, gate fleet.MetricGate) (float64, error)
	Log   logrus.FieldLogger
}

const (
	// lookEvery is how soon a rollout looks again while members are in work: a
	// slot is empty for half of it on average.
	lookEvery = 100 * time.Millisecond
	// wholeEvery is how often all members are read, whatever has been written meanwhile.
	wholeEvery = 30 * time.Second
	// wholeEveryBack is how often while everything is rolled back: who was in
	// somebody else's hands must not wait for long.
	wholeEveryBack = 5 * time.Second
	// healthEvery is how often the providers are asked for everybody's health.
	healthEvery = 10 * time.Second
	metricEvery = 15 * time.Second
	// restAtMost bounds a wait in which nothing is expected.
	restAtMost = time.Minute
	// breakAfter: who has not looked for longer than that was not there.
	breakAfter = 2 * restAtMost
)

// Workflow carries rollouts out: one step that looks, decides and begins work,
// again and again until the rollout has come to an end. What it decides is
// written only if nobody else has changed the rollout meanwhile.
func Workflow(o Options) *engine.Workflow {
	w := &workflow{Options: o, fleets: map[fleet.RolloutID]*members{}}
	return &engine.Workflow{Kind: fleet.OperationRollout, Endless: true, Steps: []engine.Step{
		{Name: "advance", Run: w.advance, Timeout: 5 * time.Minute,
			Deadline: func(*fleet.Snapshot) time.Duration { return 100 * 365 * 24 * time.Hour }}, // it has deadlines of its own
	}}
}

type workflow struct {
	Options
	mu     sync.Mutex
	fleets map[fleet.RolloutID]*members
}

// members is what this process remembers of a rollout between two looks.
type members struct {
	// turn is held by the one run that uses the rest. A verb, or a lease that ran out,
	// lets the same process begin the next run while the last one is still on its way.
	turn chan struct{}
	// seen is the rollout as it is if the last decision was written.
	seen fleet.RolloutSeen
	at   map[fleet.InstallationID]int
	all  []fleet.RolloutMember
	// lookedAt is the last look, and watchedSince the first one without a break after it.
	lookedAt     time.Time
	watchedSince time.Time
	wholeAt      time.Time
	// busyAt is when those who were in somebody else's hands were last looked at.
	busyAt   time.Time
	healthAt time.Time
	metricAt time.Time
	metric   *rollout.MetricReading
	// index makes decisions about all cheap.
	index *rollout.Index
	// moves are sleepers that can't be verified and are to be moved all the same.
	moves []fleet.InstallationID
	// recalled are those whose operation was told to give up.
	recalled map[fleet.InstallationID]bool
	// back: everything is rolled back.
	back bool
}

func (w *workflow) remembered(id fleet.RolloutID) *members {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fleets[id] == nil {
		w.fleets[id] = &members{turn: make(chan struct{}, 1)}
	}
	return w.fleets[id]
}

func (w *workflow) forget(id fleet.RolloutID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.fleets, id)
}

// advance is one look and one decision.
func (w *workflow) advance(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	id := fleet.RolloutID(s.Operation.ResourceID)
	m := w.remembered(id)
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return fleet.Outcome{}, ctx.Err()
	}
	known := fleet.RolloutKnown{Seen: m.seen}
	switch age := s.Now.Sub(m.wholeAt); {
	case age > wholeEvery || m.back && age > wholeEveryBack:
		known.Seen = fleet.RolloutSeen{}
	case s.Now.Sub(m.busyAt) >= rollout.BusyLook:
		known.Also = m.busy()
	}
	look, err := w.Store.LookAtRollout(ctx, id, known)
	if err != nil {
		return fleet.Outcome{}, err
	}
	if look.Rollout.State.Finished() {
		w.forget(id)
		return windUp(look), nil
	}
	if look.Now.Sub(m.lookedAt) > breakAfter {
		m.watchedSince = look.Now
	}
	m.lookedAt = look.Now
	if look.Whole || len(known.Also) > 0 {
		m.busyAt = look.Now
	}
	changed := m.take(look)
	w.observe(ctx, m, look, changed)
	d := rollout.Decide(rollout.View{Rollout: look.Rollout, Members: m.all, Index: m.index, Metric: m.metric, Unverifiable: look.To.Unverifiable,
		WatchedSince: m.watchedSince, Now: look.Now})
	if len(m.moves) > 0 && d.State == fleet.RolloutSucceeded {
		d.State, d.Reason, d.Detail = look.Rollout.State, fleet.WaitMembers, "sleepers that can't be verified are moved"
	}
	change := m.decided(look, d, changed)
	out := fleet.Wait(rest(m.all, d, change), waitsFor(d), d.Detail)
	if change != nil {
		change.Epoch = s.Operation.Epoch
		out.Changes.Rollout = change
		m.seen = fleet.RolloutSeen{Version: change.Rollout.Version + 1, Epoch: change.Epoch}
	}
	return out, nil
}

// busy are those that were last seen in somebody else's hands, or could not be begun.
func (m *members) busy() []fleet.InstallationID {
	var ids []fleet.InstallationID
	for i := range m.all {
		if m.all[i].Busy && m.all[i].State != fleet.MemberGone {
			ids = append(ids, m.all[i].InstallationID)
		}
	}
	return ids
}

// waitsFor is what an operation waits for whose rollout goes on.
func waitsFor(d rollout.Decision) fleet.Reason {
	if d.State == fleet.RolloutRunning && d.Reason != "" {
		return d.Reason
	}
	return fleet.WaitRollout
}

// rest is how long nothing needs to be looked at.
func rest(all []fleet.RolloutMember, d rollout.Decision, change *fleet.RolloutChange) time.Duration {
	if d.State.Finished() || change != nil && len(change.Begin) > 0 {
		return lookEvery
	}
	for i := range all {
		switch all[i].State {
		case fleet.MemberRolling, fleet.MemberVerifying, fleet.MemberRollingBack:
			return lookEvery
		}
	}
	if d.Next <= 0 || d.Next > restAtMost {
		return restAtMost
	}
	return max(d.Next, lookEvery)
}

// take brings what is remembered up to a look, and returns who has changed by it.
func (m *members) take(look fleet.RolloutLook) map[fleet.InstallationID]bool {
	changed := map[fleet.InstallationID]bool{}
	m.moves, m.recalled, m.back = nil, map[fleet.InstallationID]bool{}, look.Rollout.State == fleet.RolloutRollingBack
	if look.Whole {
		m.seen, m.wholeAt = look.Seen, look.Now
		before, at := m.all, m.at
		m.all, m.at = make([]fleet.RolloutMember, 0, len(look.Members)+len(look.Joined)), map[fleet.InstallationID]int{}
		for _, l := range look.Members {
			if i, ok := at[l.InstallationID]; ok {
				// Health is written only where it turns; in between it is remembered.
				remember(&l.RolloutMember, before[i])
			}
			m.add(l.RolloutMember)
		}
		for _, j := range plan(look, m.all) {
			changed[j.InstallationID] = true
			m.add(j)
		}
	}
	if look.Whole {
		m.index = rollout.NewIndex(m.all)
	}
	for _, l := range look.Members {
		i, ok := m.at[l.InstallationID]
		if !ok {
			continue // it is in work, and was unknown at the last whole look: the next one shows it
		}
		have := &m.all[i]
		was := *have
		*have = l.RolloutMember
		remember(have, was)
		if l.Recalled {
			m.recalled[l.InstallationID] = true
		}
		if settle(have, l, look) {
			changed[l.InstallationID] = true
		}
		if down(l.Installation) && have.OperationID == "" {
			observed(have, fleet.HealthUnhealthy, look.Now, changed)
		}
		if have.State == fleet.MemberUnverifiable && have.Asleep && l.Pinned != look.Rollout.To && look.To.Unverifiable == fleet.UnverifiableMove {
			m.moves = append(m.moves, l.InstallationID)
		}
	}
	return changed
}

// remember keeps what was observed: only the turns of a member's health are
// written, and in between it is remembered.
func remember(m *fleet.RolloutMember, was fleet.RolloutMember) {
	m.Health, m.ObservedAt, m.BadSince, m.GoodSince = was.Health, was.ObservedAt, was.BadSince, was.GoodSince
}

func (m *members) add(x fleet.RolloutMember) {
	m.at[x.InstallationID] = len(m.all)
	m.all = append(m.all, x)
}

// plan gives those who joined a place: all at the beginning, later ones in the
// last ring, behind everybody.
func plan(look fleet.RolloutLook, have []fleet.RolloutMember) []fleet.RolloutMember {
	if len(look.Joined) == 0 {
		return nil
	}
	planned := rollout.Plan(look.Rollout.Spec, look.Joined)
	if len(have) == 0 {
		return planned
	}
	var ring, wave, order int
	for i := range have {
		ring, order = max(ring, have[i].Ring), max(order, have[i].Order)
	}
	for i := range have {
		if have[i].Ring == ring {
			wave = max(wave, have[i].Wave)
		}
	}
	for i := range planned {
		order++
		planned[i].Ring, planned[i].Wave, planned[i].Order = ring, wave, order
	}
	return planned
}

// settle moves a member on as its operation has ended or its installation has
// changed, and tells whether it did.
func settle(m *fleet.RolloutMember, l fleet.MemberLook, look fleet.RolloutLook) bool {
	before := m.State
	end := func(state fleet.MemberState, reason fleet.Reason, detail string) {
		m.State, m.Reason, m.Detail, m.FinishedAt, m.OperationID = state, reason, detail, look.Now, ""
	}
	fail := func(reason fleet.Reason, detail string) {
		end(fleet.MemberFailed, reason, detail)
		m.Strikes++
	}
	inWork := m.State == fleet.MemberRolling || m.State == fleet.MemberVerifying || m.State == fleet.MemberRollingBack
	switch {
	case m.State == fleet.MemberGone:
	case m.State == fleet.MemberWaiting && l.Malformed != "":
		m.State, m.Reason, m.Detail = fleet.MemberFailed, fleet.ReasonPanic, l.Malformed // never begun, and not to be tried again
	case l.Installation == fleet.StateDeleted || l.Installation == fleet.StateDeletionRequested || l.Installation == fleet.StateDeletionInProgress:
		end(fleet.MemberGone, "", "")
	case m.State == fleet.MemberWaiting && l.Pinned == look.Rollout.To && !l.Busy:
		end(fleet.MemberDone, "", "it was on the revision already")
	case !inWork || l.Work == fleet.OperationActive || l.Work == fleet.OperationQueued:
	case l.Work == fleet.OperationCancelled || l.Work == "":
		m.State, m.OperationID, m.StartedAt = fleet.MemberWaiting, "", time.Time{} // something of its own came first
	case l.Work == fleet.OperationFailed && l.WorkReason == fleet.ReasonRolledBack:
		end(fleet.MemberRolledBack, m.Reason, m.Detail)
	case m.State == fleet.MemberVerifying:
		settleVerified(l, look, end, fail)
	case l.Work == fleet.OperationFailed && m.State == fleet.MemberRollingBack:
		end(fleet.MemberFailed, l.WorkReason, "going back failed: "+l.WorkError)
	case l.Work == fleet.OperationFailed:
		fail(l.WorkReason, l.WorkError)
	case m.State == fleet.MemberRollingBack:
		end(fleet.MemberRolledBack, m.Reason, m.Detail)
	case l.Installation == fleet.StateHibernating && !l.Verified:
		end(fleet.MemberUnverifiable, fleet.ReasonUnverifiable, "moved without a trial: it sleeps, and its next wake is the first boot of the release")
	default:
		end(fleet.MemberDone, "", "")
	}
	return m.State != before
}

func settleVerified(l fleet.MemberLook, look fleet.RolloutLook, end func(fleet.MemberState, fleet.Reason, string), fail func(fleet.Reason, string)) {
	switch {
	case l.Work == fleet.OperationSucceeded && l.Pinned == look.Rollout.To:
		end(fleet.MemberVerified, "", "")
	case l.Work == fleet.OperationSucceeded:
		end(fleet.MemberGone, "", "it left the group meanwhile")
	case l.WorkReason == fleet.ReasonUnverifiable:
		end(fleet.MemberUnverifiable, fleet.ReasonUnverifiable, l.WorkError)
	default:
		fail(l.WorkReason, l.WorkError)
	}
}

// decided turns a decision into what is to be written; nil where nothing changes.
func (m *members) decided(look fleet.RolloutLook, d rollout.Decision, changed map[fleet.InstallationID]bool) *fleet.RolloutChange {
	r := look.Rollout
	c := &fleet.RolloutChange{Before: r.State}
	if r.State != d.State || r.Reason != d.Reason && d.State != fleet.RolloutRunning {
		r.Reason, r.Detail = d.Reason, d.Detail
		if d.State == fleet.RolloutRunning {
			r.Reason, r.Detail = "", ""
		}
	}
	r.State, r.Ring, r.Wave = d.State, d.Ring, d.Wave
	if !d.WaveSince.IsZero() {
		r.WaveSince = d.WaveSince
	}
	for _, id := range d.Done {
		m.end(id, fleet.MemberDone, "", look.Now, changed)
	}
	for _, id := range d.Unverifiable {
		m.end(id, fleet.MemberUnverifiable, fleet.ReasonUnverifiable, look.Now, changed)
	}
	for _, id := range d.Cleared {
		if i, ok := m.at[id]; ok {
			m.all[i].Strikes = 0
			changed[id] = true
		}
	}
	begin := func(id fleet.InstallationID, start fleet.MemberStart) {
		if i, ok := m.at[id]; ok {
			start.InstallationID, start.OperationID = id, fleet.OperationID(fleet.NewID())
			c.Begin = append(c.Begin, start)
			m.all[i].Busy = true // until a look shows what became of it
		}
	}
	for _, id := range slices.Concat(d.Update, d.Retry) {
		begin(id, m.forward(r, id, fleet.OperationUpdate))
	}
	for _, id := range d.Verify {
		begin(id, m.forward(r, id, fleet.OperationVerify))
	}
	for _, b := range d.RollBack {
		if i, ok := m.at[b.ID]; ok && b.Reason != "" {
			m.all[i].Reason, m.all[i].Detail = b.Reason, b.Detail
			changed[b.ID] = true
		}
		begin(b.ID, m.backward(r, b))
	}
	for _, id := range d.Recall {
		if i, ok := m.at[id]; ok && !m.recalled[id] && m.all[i].OperationID != "" {
			c.Recall = append(c.Recall, m.all[i].OperationID)
		}
	}
	if r.State == fleet.RolloutRunning {
		for _, id := range m.moves {
			begin(id, m.forward(r, id, fleet.OperationUpdate))
		}
	}
	for id := range changed {
		x := m.all[m.at[id]]
		if !x.FinishedAt.IsZero() && x.FinishedAt.Equal(look.Now) {
			r.ProgressAt = look.Now
		}
	}
	for i := range m.all {
		if changed[m.all[i].InstallationID] {
			c.Members = append(c.Members, m.all[i])
		}
	}
	c.Rollout = r
	if len(c.Members) == 0 && len(c.Begin)+len(c.Recall) == 0 && same(r, look.Rollout) {
		return nil
	}
	return c
}

func same(a, b fleet.Rollout) bool {
	return a.State == b.State && a.Reason == b.Reason && a.Detail == b.Detail && a.Ring == b.Ring && a.Wave == b.Wave &&
		a.WaveSince.Equal(b.WaveSince) && a.ProgressAt.Equal(b.ProgressAt)
}

func (m *members) end(id fleet.InstallationID, state fleet.MemberState, reason fleet.Reason, now time.Time, changed map[fleet.InstallationID]bool) {
	if i, ok := m.at[id]; ok {
		m.all[i].State, m.all[i].Reason, m.all[i].FinishedAt = state, reason, now
		changed[id] = true
	}
}

// from returns the revision that a member pinned before; 0 where there is no such member.
func (m *members) from(id fleet.InstallationID) fleet.RevisionNumber {
	if i, ok := m.at[id]; ok {
		return m.all[i].From
	}
	return 0
}

func (m *members) forward(r fleet.Rollout, id fleet.InstallationID, kind fleet.OperationKind) fleet.MemberStart {
	return fleet.MemberStart{Kind: kind, Work: fleet.RolloutWork{ID: r.ID, From: m.from(id), To: r.To,
		HealthyForMillis: r.Spec.HealthyFor.Milliseconds(), HealthDeadlineMillis: r.Spec.HealthDeadline.Milliseconds()}}
}

func (m *members) backward(r fleet.Rollout, b rollout.PutBack) fleet.MemberStart {
	from := m.from(b.ID)
	return fleet.MemberStart{Kind: fleet.OperationUpdate, Strike: b.Reason != "", Work: fleet.RolloutWork{ID: r.ID, From: from, To: from, Back: true,
		HealthDeadlineMillis: r.Spec.HealthDeadline.Milliseconds()}}
}

// observe asks the providers for everybody's health, and the metric, when it is
// time. What does not answer leaves things as they are.
func (w *workflow) observe(ctx context.Context, m *members, look fleet.RolloutLook, changed map[fleet.InstallationID]bool) {
	if w.Health != nil && look.Now.Sub(m.healthAt) >= healthEvery {
		m.healthAt = look.Now
		seen := map[fleet.ClusterID]bool{}
		for i := range m.all {
			c := m.all[i].ClusterID
			if seen[c] {
				continue
			}
			seen[c] = true
			health, err := w.Health(ctx, c)
			if err != nil {
				w.Log.WithError(err).WithField("cluster", c).Warn("asking for the health of a rollout's members")
			}
			m.health(c, health, look.Now, changed)
		}
	}
	gate := look.Rollout.Spec.Metric
	if gate == nil || w.Query == nil || look.Now.Sub(m.metricAt) < metricEvery {
		return
	}
	m.metricAt = look.Now
	value, err := w.Query(ctx, *gate)
	reading := &rollout.MetricReading{At: look.Now, Answered: err == nil, Value: value}
	if err != nil {
		reading.Problem = err.Error()
	}
	if err == nil && value > gate.Max {
		reading.AboveSince = look.Now
		if m.metric != nil && !m.metric.AboveSince.IsZero() {
			reading.AboveSince = m.metric.AboveSince
		}
	}
	m.metric = reading
}

// health takes what a cluster's provider says.
func (m *members) health(cluster fleet.ClusterID, health Health, now time.Time, changed map[fleet.InstallationID]bool) {
	at := now.Add(-health.Age)
	for i := range m.all {
		x := &m.all[i]
		h, ok := health.Of[x.InstallationID]
		if x.ClusterID != cluster || !ok || !at.After(x.ObservedAt) {
			continue
		}
		observed(x, h, at, changed)
	}
}

// observed takes one answer about a member; changed is told where it turned.
func observed(x *fleet.RolloutMember, h fleet.HealthState, now time.Time, changed map[fleet.InstallationID]bool) {
	was := x.BadSince
	rollout.Observed(x, h, now)
	if was.IsZero() != x.BadSince.IsZero() {
		changed[x.InstallationID] = true
	}
}

// down tells of a state that nothing serves in it though it should: the provider
// lists no machine that is on and could answer badly.
func down(s fleet.State) bool {
	switch s {
	case fleet.StateCrashLooping, fleet.StateWakeUpFailed, fleet.StateRestartFailed:
		return true
	}
	return false
}
