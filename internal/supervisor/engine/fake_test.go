package engine_test

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// fakeClock stands still until it is advanced.
type fakeClock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[int]fakeTimer
	next   int
	// onAfter is told of every new timer, on the goroutine that sets it.
	onAfter func(time.Duration)
}

type fakeTimer struct {
	at time.Time
	f  func()
}

func newClock() *fakeClock {
	return &fakeClock{now: time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC), timers: map[int]fakeTimer{}, onAfter: func(time.Duration) {}}
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) AfterFunc(d time.Duration, f func()) func() {
	c.mu.Lock()
	id := c.next
	c.next++
	c.timers[id] = fakeTimer{c.now.Add(d), f}
	hook := c.onAfter
	c.mu.Unlock()
	hook(d)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.timers, id)
	}
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	for id, t := range c.timers {
		if !t.at.After(c.now) {
			delete(c.timers, id)
			go t.f()
		}
	}
}

// fakeOp is an operation in the fake store.
type fakeOp struct {
	snap   fleet.Snapshot
	due    time.Time
	queued bool
}

// fakeStore keeps operations in memory and behaves as the real store does.
type fakeStore struct {
	clock *fakeClock

	mu      sync.Mutex
	ops     map[fleet.OperationID]*fakeOp
	order   []fleet.OperationID
	epoch   fleet.Epoch
	results []fleet.Result // committed, in order
	batches []int          // how large each transaction was
	claims  []fleet.ClaimRequest
	extends []map[fleet.OperationID]fleet.Epoch
	// Hooks; each may be nil. They are called without the lock.
	onClaim  func(fleet.ClaimRequest) error
	onCommit func([]fleet.Result) error
	deny     func(fleet.Result) fleet.Reason
}

func (s *fakeStore) Claim(ctx context.Context, in fleet.ClaimRequest) ([]fleet.Snapshot, error) {
	if s.onClaim != nil {
		if err := s.onClaim(in); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.claims = append(s.claims, in)
	now := s.clock.Now()
	room := map[fleet.Class]int{fleet.ClassInteractive: in.Interactive, fleet.ClassBulk: in.Bulk}
	var out []fleet.Snapshot
	for _, class := range []fleet.Class{fleet.ClassInteractive, fleet.ClassBulk} {
		for _, id := range s.order {
			o := s.ops[id]
			op := &o.snap.Operation
			may := op.Executor == fleet.ExecutorAny || slices.Contains(in.Executors, fleet.HostID(op.Executor))
			if op.Class != class || op.State != fleet.OperationActive || !may {
				continue
			}
			signalled := slices.Contains(in.Signalled, id) && op.Worker == ""
			due := !o.due.After(now) && room[class] > 0
			if !due && !signalled {
				continue
			}
			if due {
				room[class]--
				if class == fleet.ClassInteractive { // both together stay within the slots
					room[fleet.ClassBulk] = min(room[fleet.ClassBulk], room[class])
				}
			}
			s.epoch++
			op.Worker, op.Epoch, o.due = in.Worker, s.epoch, now.Add(in.Lease)
			o.snap.Now = now
			out = append(out, o.snap)
		}
	}
	return out, ctx.Err()
}

func (s *fakeStore) Commit(ctx context.Context, results []fleet.Result) ([]fleet.Committed, error) {
	if s.onCommit != nil {
		if err := s.onCommit(results); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches = append(s.batches, len(results))
	out := make([]fleet.Committed, len(results))
	for i, r := range results {
		out[i] = s.commitOne(r)
	}
	return out, nil
}

func (s *fakeStore) commitOne(r fleet.Result) fleet.Committed {
	c := fleet.Committed{OperationID: r.OperationID}
	o := s.ops[r.OperationID]
	if o == nil || o.snap.Operation.Epoch != r.Epoch || o.snap.Operation.State != fleet.OperationActive {
		c.Stale = true
		return c
	}
	now := s.clock.Now()
	if s.deny != nil {
		if c.Denied = s.deny(r); c.Denied != "" {
			r.State, r.Step, r.StepNumber, r.Done, r.To, r.Keep = fleet.OperationActive, r.Done, r.Ran, "", "", false
			r.DueMillis, r.WaitReason, r.Changes = 5000, c.Denied, fleet.Changes{}
		}
	}
	s.results = append(s.results, r)
	o.snap.Apply(r.Changes)
	op := &o.snap.Operation
	op.State, op.Step, op.StepNumber, op.Executor, op.Attempt = r.State, r.Step, r.StepNumber, r.Executor, r.Attempt
	op.WaitReason, op.WaitDetail, op.ErrorKind, op.FailReason, op.Error = r.WaitReason, r.WaitDetail, r.ErrorKind, r.FailReason, r.Error
	if r.DeadlineMillis > 0 {
		op.StepDeadlineAt = now.Add(time.Duration(r.DeadlineMillis) * time.Millisecond)
	}
	o.due = now.Add(time.Duration(r.DueMillis) * time.Millisecond)
	if !r.Keep {
		op.Worker = ""
	}
	if r.To != "" && o.snap.Installation != nil {
		changed := *o.snap.Installation
		changed.State = fleet.State(r.To)
		o.snap.Installation = &changed
	}
	if r.State.Finished() {
		for _, id := range s.order {
			next := s.ops[id]
			if next.queued && next.snap.Operation.ResourceID == op.ResourceID {
				next.queued, next.snap.Operation.State, next.due = false, fleet.OperationActive, now
				c.Next = id
				break
			}
		}
	}
	return c
}

func (s *fakeStore) Extend(_ context.Context, held map[fleet.OperationID]fleet.Epoch, lease time.Duration) (map[fleet.OperationID]bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.extends = append(s.extends, maps.Clone(held))
	still := map[fleet.OperationID]bool{}
	for id, epoch := range held {
		if o := s.ops[id]; o != nil && o.snap.Operation.Epoch == epoch && o.snap.Operation.State == fleet.OperationActive {
			o.due = s.clock.Now().Add(lease)
			still[id] = true
		}
	}
	return still, nil
}

func (s *fakeStore) Release(_ context.Context, worker fleet.WorkerID) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int64
	for _, o := range s.ops {
		if o.snap.Operation.Worker == worker && o.snap.Operation.State == fleet.OperationActive {
			o.snap.Operation.Worker, o.due = "", s.clock.Now()
			n++
		}
	}
	return n, nil
}

// steal is another worker's claim.
func (s *fakeStore) steal(id fleet.OperationID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	op := &s.ops[id].snap.Operation
	op.Worker, op.Epoch = "another", s.epoch
	s.ops[id].due = s.clock.Now().Add(time.Hour)
}

// world is an engine on a fake store.
type world struct {
	*engine.Engine
	t      *testing.T
	store  *fakeStore
	clock  *fakeClock
	cancel context.CancelFunc
	done   chan error

	mu          sync.Mutex
	unsolicited []string
}

const kind = fleet.OperationRestart

// newWorld makes an engine that is not started; alter may be nil.
func newWorld(t *testing.T, w *engine.Workflow, alter func(*engine.Options)) *world {
	t.Helper()
	clock := newClock()
	x := &world{t: t, clock: clock, store: &fakeStore{clock: clock, ops: map[fleet.OperationID]*fakeOp{}}, done: make(chan error, 1)}
	if w.Kind == "" {
		w.Kind = kind
	}
	log := logrus.New()
	log.SetOutput(t.Output())
	o := engine.Options{
		Store: x.store, Workflows: []*engine.Workflow{w}, Worker: "me", Clock: clock, Log: log, Poll: 1000 * time.Hour,
		Unsolicited: func(key string) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.unsolicited = append(x.unsolicited, key)
		},
	}
	if alter != nil {
		alter(&o)
	}
	e, err := engine.New(o)
	require.NoError(t, err)
	x.Engine = e
	return x
}

func (x *world) run() *world {
	ctx, cancel := context.WithCancel(context.Background())
	x.cancel = cancel
	go func() { x.done <- x.Run(ctx) }()
	x.t.Cleanup(func() {
		cancel()
		x.eventually(func() bool {
			select {
			case err := <-x.done:
				x.done <- err
				return true
			default:
				return false
			}
		}, time.Second)
	})
	return x
}

// add puts an operation into the store, due now.
func (x *world) add(id string, class fleet.Class) fleet.OperationID {
	return x.addFor(id, "r-"+id, class, false)
}

func (x *world) addFor(id, resource string, class fleet.Class, queued bool) fleet.OperationID {
	x.store.mu.Lock()
	defer x.store.mu.Unlock()
	state := fleet.OperationActive
	if queued {
		state = fleet.OperationQueued
	}
	opID := fleet.OperationID(id)
	x.store.ops[opID] = &fakeOp{queued: queued, due: x.clock.Now(), snap: fleet.Snapshot{
		Operation: fleet.Operation{ID: opID, Kind: kind, ResourceType: fleet.ResourceInstallation, ResourceID: resource, Class: class, State: state},
		Installation: &fleet.Installation{ID: fleet.InstallationID(resource), State: fleet.StateRestartInProgress,
			HeldMemoryMiB: 100, HeldHostID: "h"},
		Instances: []fleet.Instance{{ID: fleet.InstanceID("i-" + id)}},
	}}
	x.store.order = append(x.store.order, opID)
	return opID
}

func (x *world) op(id fleet.OperationID) fleet.Operation {
	x.store.mu.Lock()
	defer x.store.mu.Unlock()
	return x.store.ops[id].snap.Operation
}

func (x *world) state(id fleet.OperationID) fleet.State {
	x.store.mu.Lock()
	defer x.store.mu.Unlock()
	return x.store.ops[id].snap.Installation.State
}

// results are those committed for one operation.
func (x *world) results(id fleet.OperationID) []fleet.Result {
	x.store.mu.Lock()
	defer x.store.mu.Unlock()
	var out []fleet.Result
	for _, r := range x.store.results {
		if r.OperationID == id {
			out = append(out, r)
		}
	}
	return out
}

// eventually waits for a condition; each look moves the clock on by step, which may be 0.
func (x *world) eventually(cond func() bool, step time.Duration) {
	x.t.Helper()
	require.Eventually(x.t, func() bool {
		if cond() {
			return true
		}
		if step > 0 {
			x.clock.advance(step)
		}
		return false
	}, 20*time.Second, time.Millisecond)
}

// finished waits for the end of an operation, without the clock moving.
func (x *world) finished(id fleet.OperationID) fleet.Operation {
	x.t.Helper()
	x.eventually(func() bool { return x.op(id).State.Finished() }, 0)
	return x.op(id)
}

// got receives, or fails after a while.
func got[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		require.FailNow(t, "nothing came")
		panic("unreachable")
	}
}

func advance(context.Context, *fleet.Snapshot) (fleet.Outcome, error) {
	return fleet.Advance(fleet.Changes{}), nil
}

func fixed(d time.Duration) func(*fleet.Snapshot) time.Duration {
	return func(*fleet.Snapshot) time.Duration { return d }
}
