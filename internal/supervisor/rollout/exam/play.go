package exam

import (
	"container/heap"
	"fmt"
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
	// Touched counts the installations that the new release was put on, or on
	// a clone of which it was tried, until it was halted.
	Touched int
	// Decisions counts calls of Decide, and Deciding is the real time they took.
	Decisions int
	Deciding  time.Duration
}

// Halted tells whether the release was judged bad.
func (r *Result) Halted() bool {
	return r.State == fleet.RolloutHalted || r.State == fleet.RolloutRollingBack || r.State == fleet.RolloutRolledBack
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
	// tenantOf gives the world's number of each member: the plan sorts them.
	tenantOf []int
}

// Play plays a release to its end.
func Play(r *Release) (Result, error) {
	w, err := newWorld(r)
	if err != nil {
		return Result{}, err
	}
	spec, err := r.spec()
	if err != nil {
		return Result{}, fmt.Errorf("release %s: spec: %w", r.ID, err)
	}
	begin := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	p := &player{world: w, begin: begin, every: seconds(orElse(r.Observer.EverySeconds, 30)), result: Result{Release: r}, at: map[fleet.InstallationID]int{}}
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
	p.view.Members = rollout.Plan(spec, members)
	for n := range p.view.Members {
		i := p.at[p.view.Members[n].InstallationID]
		p.tenantOf[n] = i
	}
	for n := range p.view.Members {
		p.at[p.view.Members[n].InstallationID] = n
	}
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
	if r.RollingBack > 0 {
		r.RollingBack = p.now - r.RollingBack
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
	if r.State == fleet.RolloutRunning && (d.State == fleet.RolloutHalted || d.State == fleet.RolloutRollingBack) {
		p.result.RollingBack = p.now
		p.result.Reason, p.result.Detail = d.Reason, d.Detail
		for i := range v.Members {
			if v.Members[i].Attempts > 0 {
				p.result.Touched++
			}
		}
	}
	r.State, r.Reason, r.Detail, r.Ring, r.Wave, r.WaveSince = d.State, d.Reason, d.Detail, d.Ring, d.Wave, d.WaveSince
	p.carryOut(&d)
	if d.Next == 0 {
		return never
	}
	return p.now + d.Next
}
