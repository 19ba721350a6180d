package exam

import (
	"container/heap"
	"fmt"
	"io"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/rollout"
)

// Result is what became of one release.
type Result struct {
	Release *Release
	// State is the rollout's last; running where it came to no end within the limit.
	State  fleet.RolloutState
	Reason fleet.Reason
	Detail string
	// Took is the simulated time from the beginning to the end, and RollingBack
	// the part of it after the judge had halted it.
	Took        time.Duration
	RollingBack time.Duration
	// Back is from the halt until the old release runs on the last member that the
	// new one was on or under way to, without the time in which somebody else held it.
	Back time.Duration
	// Touched counts the installations that the new release was put on, or on
	// a clone of which it was tried, until it was halted.
	Touched int
	// Decisions counts calls of Decide, and Deciding is the real time they took.
	Decisions int
	Deciding  time.Duration
}

// Halted tells whether the release was judged bad.
func (r *Result) Halted() bool { return halted(r.State) }

func halted(s fleet.RolloutState) bool {
	return s == fleet.RolloutHalted || s == fleet.RolloutRollingBack || s == fleet.RolloutRolledBack
}

const (
	// limit is how long a rollout may take, in simulated time.
	limit = 14 * 24 * time.Hour
	// decideEvery bounds how often is decided while things happen.
	decideEvery = time.Second
)

// event is something that happens to an installation.
type event struct {
	at   time.Duration
	who  int
	what func()
}

// agenda is a heap of events.
type agenda []event

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].who < a[j].who
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(e any)   { *a = append(*a, e.(event)) }
func (a *agenda) Pop() any {
	last := len(*a) - 1
	e := (*a)[last]
	*a = (*a)[:last]
	return e
}

// player plays one release.
type player struct {
	*world
	view   rollout.View
	at     map[fleet.InstallationID]int
	agenda agenda
	begin  time.Time
	now    time.Duration
	every  time.Duration
	result Result
	// halted at haltedAt, by the judge.
	halted   bool
	haltedAt time.Duration
	trace    io.Writer
	// tenantOf gives the world's number of each member: the plan sorts them.
	tenantOf []int
	under    []under
}

// Play plays a release to its end. What is decided is written to trace, a line
// for each decision that does or says something new; nil is nowhere.
func Play(r *Release, trace io.Writer) (Result, error) {
	w, err := newWorld(r)
	if err != nil {
		return Result{}, err
	}
	spec, err := r.spec()
	if err != nil {
		return Result{}, fmt.Errorf("release %s: spec: %w", r.ID, err)
	}
	begin := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	p := &player{world: w, begin: begin, every: seconds(orElse(r.Observer.EverySeconds, 30)), trace: trace, result: Result{Release: r}, at: map[fleet.InstallationID]int{}}
	p.view.Rollout = fleet.Rollout{ID: fleet.RolloutID(r.ID), Spec: spec, State: fleet.RolloutRunning, CreatedAt: begin}
	members := make([]fleet.RolloutMember, len(w.tenants))
	for i := range members {
		t := &w.tenants[i]
		id := fleet.InstallationID(fleet.DeriveID("exam", r.ID, fmt.Sprint(r.Seed), fmt.Sprint(i)))
		p.at[id] = i
		members[i] = fleet.RolloutMember{InstallationID: id, Name: fmt.Sprintf("tenant-%d", i), ClusterID: fleet.ClusterID(t.cluster),
			MemoryMiB: t.memory, Labels: t.labels, State: fleet.MemberWaiting, Asleep: t.asleep}
	}
	for n := range members {
		p.tenantOf = append(p.tenantOf, n)
	}
	p.view.Members = members
	for _, ago := range []time.Duration{2 * p.every, p.every, 0} {
		p.now = -ago
		p.look()
	}
	for i := range members {
		// What has been bad for long was seen to be.
		if t := &w.tenants[i]; t.chronic && !members[i].BadSince.IsZero() {
			members[i].BadSince = p.time(t.chronicAt)
		}
	}
	p.under = make([]under, len(members))
	p.view.Members = rollout.Plan(spec, members)
	for n := range p.view.Members {
		i := p.at[p.view.Members[n].InstallationID]
		p.tenantOf[n] = i
	}
	for n := range p.view.Members {
		p.at[p.view.Members[n].InstallationID] = n
	}
	p.view.Index = rollout.NewIndex(p.view.Members)
	p.churn()
	p.run()
	return p.result, nil
}

// run lets time pass until the rollout has ended.
func (p *player) run() {
	nextLook, nextDecision := p.every, time.Duration(0)
	news := true
	for p.now < limit {
		next := nextLook
		if nextDecision < next {
			next = nextDecision
		}
		if len(p.agenda) > 0 && p.agenda[0].at < next {
			next = p.agenda[0].at
		}
		p.now = max(p.now, next)
		for len(p.agenda) > 0 && p.agenda[0].at <= p.now {
			heap.Pop(&p.agenda).(event).what()
			news = true
		}
		if p.now >= nextLook {
			news = p.look() || news
			nextLook += p.every
		}
		if news {
			nextDecision = min(nextDecision, max(p.now, p.lastDecision()+decideEvery))
		}
		if p.now < nextDecision {
			continue
		}
		nextDecision = p.decide()
		news = false
		if state := p.view.Rollout.State; state.Finished() || state == fleet.RolloutHalted {
			break
		}
	}
	r := &p.result
	r.State, r.Took = p.view.Rollout.State, p.now
	if r.Reason == "" {
		r.Reason, r.Detail = p.view.Rollout.Reason, p.view.Rollout.Detail
	}
	if p.halted {
		r.RollingBack = p.now - p.haltedAt
		if !r.State.Finished() {
			r.Back = r.RollingBack
		}
	}
}

func (p *player) lastDecision() time.Duration { return p.view.Now.Sub(p.begin) }

// decide asks once and carries the decision out; it returns when to ask again.
func (p *player) decide() time.Duration {
	v := &p.view
	v.Now = p.begin.Add(p.now)
	real := time.Now()
	d := rollout.Decide(*v)
	p.result.Deciding += time.Since(real)
	p.result.Decisions++
	r := &v.Rollout
	if r.State == fleet.RolloutRunning && halted(d.State) { // rolled back at once where all had failed
		p.halted, p.haltedAt = true, p.now
		p.result.Reason, p.result.Detail = d.Reason, d.Detail
		for i := range v.Members {
			if v.Members[i].Attempts > 0 {
				p.result.Touched++
			}
		}
	}
	if p.trace != nil {
		p.tell(&d)
	}
	r.State, r.Reason, r.Detail, r.Ring, r.Wave, r.WaveSince = d.State, d.Reason, d.Detail, d.Ring, d.Wave, d.WaveSince
	p.carryOut(&d)
	if d.Next == 0 {
		return never
	}
	return p.now + d.Next
}

// tell writes a decision down, with the truth about those that are put back.
func (p *player) tell(d *rollout.Decision) {
	r := &p.view.Rollout
	said := r.State == d.State && r.Reason == d.Reason && r.Ring == d.Ring && r.Wave == d.Wave
	if said && len(d.Update)+len(d.Verify)+len(d.Retry)+len(d.RollBack)+len(d.Cleared) == 0 {
		return
	}
	e := d.Evidence
	fmt.Fprintf(p.trace, "%-9s %s ring %d wave %d: begun %d, failed %d, odds %.3g (%s), update %d, verify %d, done %d, cleared %d; %s %s\n",
		p.now.Round(time.Second), d.State, d.Ring, d.Wave, e.Begun, e.Failures, e.Odds, e.Where, len(d.Update), len(d.Verify), len(d.Done), len(d.Cleared), d.Reason, d.Detail)
	for what, ids := range map[string][]fleet.InstallationID{"retry": d.Retry, "cleared": d.Cleared} {
		for _, id := range ids {
			fmt.Fprintf(p.trace, "          %s %s\n", what, p.truth(id))
		}
	}
	for _, b := range d.RollBack {
		fmt.Fprintf(p.trace, "          back %s: %s\n", p.truth(b.ID), b.Detail)
	}
}

// truth describes a member as it is.
func (p *player) truth(id fleet.InstallationID) string {
	m := &p.view.Members[p.at[id]]
	t := &p.tenants[p.tenantOf[p.at[id]]]
	return fmt.Sprintf("%s (%d strikes, %d attempts, last %s, affected %t, spells %d, chronic %t)",
		m.Name, m.Strikes, m.Attempts, m.Reason, t.affected, len(t.spells), t.chronic)
}
