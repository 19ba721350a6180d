package simulate

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"dormouse/internal/fleet"
)

// lockPatience is how long a call of the store may take until one looks whether
// it waits for a lock.
const lockPatience = 2 * time.Millisecond

// stage is how far a parked call has come.
type stage int

const (
	// waiting: nothing of it was done.
	waiting stage = iota
	// atStatement: a call of the store that stands before its next statement.
	atStatement
	// blocked: a statement of it waits for a lock.
	blocked
	// answered: it was done, and its caller does not know yet.
	answered
)

// parked is a call whose turn is the scheduler's to give.
type parked struct {
	by *process
	// what says which call it is; candidates are sorted by it.
	what string
	// step is the step of a workflow, or what else is at work, for the coverage.
	step string
	// job is the call of the store, run on a lane; nil for all else.
	job func(backend)
	// after is called in the bubble when the job has ended.
	after  func()
	stage  stage
	lane   *lane
	at     event
	since  time.Time
	number int
	// key is what candidates are sorted by.
	key    string
	resume chan error
}

// errDead is what a process that is gone gets in place of an answer; nobody acts on it.
var errDead = fmt.Errorf("this process is dead: %w", context.Canceled)

// park returns when the scheduler has given x its turn; an error is what the
// caller gets in place of an answer.
func (p *process) park(x *parked) error {
	s := p.s
	x.by, x.since, x.resume, x.key = p, time.Now(), make(chan error, 1), p.name+" "+x.what
	s.mu.Lock()
	if p.dead {
		s.mu.Unlock()
		return errDead
	}
	s.parks++
	x.number = s.parks
	s.parked = append(s.parked, x)
	s.mu.Unlock()
	select {
	case s.arrived <- struct{}{}:
	default:
	}
	return <-x.resume
}

// store runs a call of the store when its turn comes. ended, where there is
// one, is told when it has ended, also where nobody gets the answer.
func (p *process) store(ctx context.Context, what string, f func(context.Context, backend) error, ended ...func(error)) error {
	var err error
	x := &parked{what: what, step: stepOf(ctx), job: func(b backend) { err = f(context.Background(), b) }}
	x.after = func() {
		if err != nil {
			p.s.note("%s %s: %v", p.name, what, err)
		}
		for _, f := range ended {
			f(err)
		}
	}
	if lost := p.park(x); lost != nil {
		return lost
	}
	return err
}

// leave takes x off the list.
func (s *simulation) leave(x *parked) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parked = slices.DeleteFunc(s.parked, func(y *parked) bool { return x == y })
}

// answer lets the caller go on.
func (s *simulation) answer(x *parked, err error) {
	s.leave(x)
	x.resume <- err
}

// all returns everything that is parked, in an order that does not depend on who came first.
func (s *simulation) all() []*parked {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.parked)
	slices.SortFunc(all, func(a, b *parked) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.number, b.number))
	})
	return all
}

// candidates are those whose turn it may be.
func (s *simulation) candidates() []*parked {
	free := s.freeLane() != nil
	return slices.DeleteFunc(s.all(), func(x *parked) bool {
		return x.stage == blocked || x.by.pausedUntil.After(time.Now()) || x.stage == waiting && x.job != nil && !free
	})
}

func (s *simulation) freeLane() *lane {
	used := map[*lane]bool{}
	for _, x := range s.parked {
		used[x.lane] = true
	}
	for _, l := range s.db.lanes {
		if !used[l] {
			return l
		}
	}
	return nil
}

// mode is how a call of the store is run.
type mode int

const (
	// whole: all of it at once.
	whole mode = iota
	// stepwise: it parks at every statement.
	stepwise
)

// advance gives x its turn.
func (s *simulation) advance(x *parked, m mode) {
	s.db.now.Store(time.Now().Add(s.databaseOffset).UnixMicro())
	switch {
	case x.stage == atStatement:
		x.at.wire.verdict <- pass
		s.settle(x, lockPatience)
	case x.stage == waiting && x.job != nil:
		s.begin(x, m)
	default:
		s.answer(x, nil)
	}
}

// begin starts a call of the store.
func (s *simulation) begin(x *parked, m mode) {
	x.lane = s.freeLane()
	x.lane.step.Store(m == stepwise)
	b := s.backend(x.lane.store)
	x.lane.jobs <- func() { x.job(b) }
	s.settle(x, lockPatience)
}

// settle waits until the call of x has ended, or stands somewhere.
func (s *simulation) settle(x *parked, patience time.Duration) {
	ends := x.at.statement == "COMMIT" || x.at.statement == "ROLLBACK"
	said := s.await(x, patience)
	switch {
	case said.err != nil:
		s.fail("%v", said.err)
	case said.blocked:
		if x.stage != blocked {
			s.note("%s waits for a lock", s.label(x))
			x.since = time.Now()
		}
		x.stage, x.at = blocked, said.event
		return
	case said.wire != nil:
		x.stage, x.at = atStatement, said.event
	default:
		x.stage, x.at, x.lane = answered, event{}, nil
		x.after()
		ends = true
	}
	if ends {
		s.unblock()
	}
}

// await waits for the call of x. Where no other call is in the middle of anything
// there is no lock that it could wait for.
func (s *simulation) await(x *parked, patience time.Duration) said {
	s.mu.Lock()
	alone := !slices.ContainsFunc(s.parked, func(y *parked) bool { return y != x && y.lane != nil })
	s.mu.Unlock()
	if alone {
		return said{event: <-x.lane.events}
	}
	return x.lane.await(patience)
}

// unblock looks after the calls that waited for a lock.
func (s *simulation) unblock() {
	for _, x := range s.all() {
		if x.stage == blocked {
			s.settle(x, 0)
		}
	}
}

// cut breaks the connection of a call that stands at a statement or waits for a
// lock, until the call has ended: the driver may try again. A statement that
// is the commit may have been done.
func (s *simulation) cut(x *parked, done bool) {
	for x.stage == atStatement || x.stage == blocked {
		if x.stage == blocked {
			w := x.at.wire
			w.broken.Store(true)
			s.db.outside(func() { _, _ = s.db.admin.Exec(cancelSQL, w.session.pid) })
		} else {
			v := cutBefore
			if done && x.at.statement == "COMMIT" {
				v = cutAfter
			}
			x.at.wire.verdict <- v
		}
		s.settle(x, lockPatience)
	}
}

type stepKey struct{}

// place says which step of which claim a context belongs to.
type place struct {
	step  string
	op    fleet.OperationID
	epoch fleet.Epoch
}

func within(ctx context.Context, at place) context.Context {
	return context.WithValue(ctx, stepKey{}, at)
}

func placeOf(ctx context.Context) place {
	at, _ := ctx.Value(stepKey{}).(place)
	return at
}

func stepOf(ctx context.Context) string {
	if at := placeOf(ctx); at.step != "" {
		return at.step
	}
	return "engine"
}
