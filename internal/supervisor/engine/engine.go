package engine

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
)

// Store is what the engine needs of the database.
type Store interface {
	Claim(ctx context.Context, in fleet.ClaimRequest) ([]fleet.Snapshot, error)
	Commit(ctx context.Context, results []fleet.Result) ([]fleet.Committed, error)
	Extend(ctx context.Context, held map[fleet.OperationID]fleet.Epoch, lease time.Duration) (map[fleet.OperationID]bool, error)
	Release(ctx context.Context, worker fleet.WorkerID) (int64, error)
}

// Clock tells the time and calls back; tests put their own in.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f once after d; the returned function takes that back.
	AfterFunc(d time.Duration, f func()) (stop func())
}

// Options configure an Engine. Zero values take the defaults named here.
type Options struct {
	Store     Store
	Workflows []*Workflow
	// Worker names this process for as long as its data directory lives.
	Worker fleet.WorkerID
	// Hosts are the hosts whose steps this process may run.
	Hosts []fleet.HostID
	// Slots bounds the steps that run at once (32); bulk work takes at most three
	// quarters. An operation whose outcome is being committed takes none, and as many more
	// are claimed as the slots work off in a moment: see window.
	Slots int
	// Lease is how long a claim holds without being extended (6 s): after a crash
	// the work is taken over by the next poll after its end, so within 10 s.
	Lease time.Duration
	// Poll is how often to look for work though nothing called: at most so long
	// (4 s), and a fifth less at random.
	Poll time.Duration
	// MaxAttempts is after how many failed tries of one step the operation fails (20).
	MaxAttempts int
	// FirstBackoff doubles with each attempt up to MaxBackoff (0.25 s, 30 s).
	FirstBackoff, MaxBackoff time.Duration
	// Gather bounds how long an outcome waits for others that may share its
	// transaction, while there are steps under way that may end: as long as a commit
	// takes now. The next claim is made no sooner after the last one, while there is work at
	// hand (30 ms; negative is not at all).
	Gather time.Duration
	Clock  Clock
	Log    logrus.FieldLogger
	// OnCommit is told which operation has changed, and the installation that it is
	// on, if it is on one; may be nil.
	OnCommit func(fleet.OperationID, fleet.InstallationID)
	// Unsolicited is told of a signal that no operation waits for; may be nil.
	Unsolicited func(key string)
	// Rand is where jitter comes from: numbers in [0, 1) (math/rand/v2).
	Rand func() float64
	// Yield is called wherever goroutines race for what the engine knows: before a
	// claim counts the free slots, before a step, before outcomes are gathered, and when
	// one is committed. It may block: a simulation puts its scheduler there, so that one seed is one order.
	// Nil is nothing.
	Yield func(point string, id fleet.OperationID)
}

// The points at which Options.Yield is called.
const (
	YieldClaim     = "claim"
	YieldStep      = "step"
	YieldGather    = "gather"
	YieldCommitted = "committed"
)

// Engine works operations off. Make it with New and start it with Run.
type Engine struct {
	o         Options
	workflows map[fleet.OperationKind]*Workflow
	// wake has room for one: a call while one is pending says nothing new.
	wake    chan struct{}
	commits chan commitRequest

	mu        sync.Mutex
	running   map[fleet.OperationID]*run
	waiting   map[string]fleet.OperationID // signal key → operation
	keysOf    map[fleet.OperationID][]string
	signalled map[fleet.OperationID][]string // by which keys
	more      bool                           // the last claim may have left due work for want of slots
	denied    map[fleet.OperationID]bool     // waiting for capacity or an address
	atHand    int                            // operations that run or wait for a slot: not those in a commit
	pace      pace
	// freed counts how often capacity was given back here, so that who asked
	// before and waits after does not miss it.
	freed   uint64
	slots   slots
	settled chan struct{} // has room for one: nothing is at hand any more
	// gathering is held by the committer that gathers.
	gathering chan struct{}
	claimed   time.Time // when the last claim was made
	stopping  atomic.Bool
	wg        sync.WaitGroup
}

// run is one claimed operation in this process.
type run struct {
	snap      fleet.Snapshot
	cancel    context.CancelFunc
	since     time.Time
	signalled bool
	// committing: its outcome is on its way to the database.
	committing bool
	// ended: the operation came to its end in this run.
	ended bool
	keys  []string
	freed uint64 // when it was claimed
}

// New checks the workflows and fills in the defaults.
func New(o Options) (*Engine, error) {
	if o.Slots == 0 {
		o.Slots = 32
	}
	if o.Lease == 0 {
		o.Lease = 6 * time.Second
	}
	if o.Poll == 0 {
		o.Poll = 4 * time.Second
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = 20
	}
	if o.FirstBackoff == 0 {
		o.FirstBackoff = 250 * time.Millisecond
	}
	if o.MaxBackoff == 0 {
		o.MaxBackoff = 30 * time.Second
	}
	if o.Gather == 0 {
		o.Gather = 30 * time.Millisecond
	}
	if o.OnCommit == nil {
		o.OnCommit = func(fleet.OperationID, fleet.InstallationID) {}
	}
	if o.Unsolicited == nil {
		o.Unsolicited = func(string) {}
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Yield == nil {
		o.Yield = func(string, fleet.OperationID) {}
	}
	e := &Engine{
		o: o, workflows: map[fleet.OperationKind]*Workflow{}, wake: make(chan struct{}, 1), commits: make(chan commitRequest),
		running: map[fleet.OperationID]*run{}, waiting: map[string]fleet.OperationID{},
		keysOf: map[fleet.OperationID][]string{}, signalled: map[fleet.OperationID][]string{},
		denied: map[fleet.OperationID]bool{}, slots: newSlots(o.Slots), pace: newPace(), settled: make(chan struct{}, 1), gathering: make(chan struct{}, 1),
	}
	for _, w := range o.Workflows {
		if err := w.check(); err != nil {
			return nil, err
		}
		e.workflows[w.Kind] = w
	}
	return e, nil
}

// Wake makes the engine look for work now.
func (e *Engine) Wake() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Signal says that something has changed about key: a resource's or an
// instance's ID. The operation that waits for it runs at once.
func (e *Engine) Signal(key string) {
	e.mu.Lock()
	id, waits := e.waiting[key]
	if waits {
		e.signalled[id] = append(e.signalled[id], key)
	}
	runs := false
	for _, r := range e.running {
		for _, k := range r.keys {
			if k == key {
				r.signalled, runs = true, true
			}
		}
	}
	e.mu.Unlock()
	if waits {
		e.Wake()
	} else if !runs {
		e.o.Unsolicited(key)
	}
}

// Run works until ctx ends, then lets the steps under way finish for a moment
// and gives back what it holds.
func (e *Engine) Run(ctx context.Context) error {
	if _, err := e.o.Store.Release(ctx, e.o.Worker); err != nil {
		return err
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var background sync.WaitGroup
	for range committers {
		background.Go(func() { e.commitLoop(work) })
	}
	background.Go(func() { e.extendLoop(work) })
	for ctx.Err() == nil {
		claimed := e.claim(ctx, work)
		if !claimed {
			e.rest(ctx)
		}
	}
	e.stopping.Store(true)
	e.drain()
	stop()
	background.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, err := e.o.Store.Release(last, e.o.Worker)
	return err
}

// drainTime is how long steps may go on after the engine was told to stop. What
// they did is adopted by whoever runs the step next.
const drainTime = 5 * time.Second

func (e *Engine) drain() {
	done := make(chan struct{})
	go func() { e.wg.Wait(); close(done) }()
	timeout := make(chan struct{})
	defer e.o.Clock.AfterFunc(drainTime, func() { close(timeout) })()
	select {
	case <-done:
	case <-timeout:
		e.mu.Lock()
		for _, r := range e.running {
			r.cancel()
		}
		e.mu.Unlock()
		<-done
	}
}

// rest waits for a wake-up or for the poll, which has jitter so that many
// processes do not ask all at once.
func (e *Engine) rest(ctx context.Context) {
	poll := time.Duration(float64(e.o.Poll) * (0.8 + 0.2*e.o.Rand()))
	defer e.o.Clock.AfterFunc(poll, e.Wake)()
	select {
	case <-ctx.Done():
	case <-e.wake:
		e.hold(ctx)
	}
}

// hold puts a claim off that would follow the last one too soon, so that one takes
// what comes one by one. It is a matter of the machine's time, not of the Clock's.
func (e *Engine) hold(ctx context.Context) {
	e.mu.Lock()
	wait := min(e.o.Gather, e.pace.commit.d) - time.Since(e.claimed)
	if len(e.running) == 0 {
		wait = 0
	}
	e.mu.Unlock()
	if wait <= 0 {
		return
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// room is how many operations may be started, and how many of them may be bulk; the lock is held.
func (e *Engine) room() (free, bulk int) {
	window := e.pace.window(e.o.Slots)
	// What is in a commit comes back for its next step.
	free = min(window-e.atHand, window+committers*batchSize-len(e.running))
	bulk = max(1, window*3/4)
	for _, r := range e.running {
		if r.snap.Operation.Class == fleet.ClassBulk && !r.committing {
			bulk--
		}
	}
	return free, max(0, min(free, bulk))
}

// claim takes what is due and starts it; false where there is nothing more, or no room.
func (e *Engine) claim(ctx, work context.Context) bool {
	e.o.Yield(YieldClaim, "")
	e.mu.Lock()
	free, bulk := e.room()
	if free <= 0 {
		e.more = true
		e.mu.Unlock()
		return false // the signals stay for when a slot is free
	}
	e.claimed = time.Now()
	taken, freed := e.signalled, e.freed
	e.signalled = map[fleet.OperationID][]string{}
	e.mu.Unlock()
	signalled := slices.Sorted(maps.Keys(taken))
	snaps, err := e.o.Store.Claim(ctx, fleet.ClaimRequest{
		Worker: e.o.Worker, Executors: e.o.Hosts, Interactive: free, Bulk: bulk,
		Signalled: signalled, Lease: e.o.Lease,
	})
	if err != nil {
		if ctx.Err() == nil {
			e.o.Log.WithError(err).Warn("claiming work")
			e.mu.Lock()
			for id, keys := range taken {
				e.signalled[id] = append(e.signalled[id], keys...)
			}
			e.mu.Unlock()
			e.o.Clock.AfterFunc(time.Second, e.Wake)
		}
		return false
	}
	bulks := 0
	for _, s := range snaps {
		delete(taken, s.Operation.ID)
		if s.Operation.Class == fleet.ClassBulk {
			bulks++
		}
		e.start(work, s, freed)
	}
	e.strayed(taken)
	// Fewer than there was room for: nothing else was due. What comes later, and
	// what another transaction was writing just now, calls. Where there may be
	// more, whoever ends next calls, unless room has been made meanwhile.
	e.mu.Lock()
	defer e.mu.Unlock()
	e.more = len(snaps) >= free || bulks >= bulk
	freeNow, bulkNow := e.room()
	return freeNow > 0 && (len(snaps) >= free || bulks >= bulk && bulkNow > 0)
}

// strayed takes care of signals for operations that were not to be claimed:
// another process works on them, or they have ended since. Nothing here waits
// for their keys any more, so that the signals are for whoever takes the unsolicited ones.
func (e *Engine) strayed(taken map[fleet.OperationID][]string) {
	for _, id := range slices.Sorted(maps.Keys(taken)) {
		keys := taken[id]
		e.mu.Lock()
		if e.running[id] == nil {
			keys = append(keys, e.signalled[id]...)
			e.forget(id)
		}
		e.mu.Unlock()
		for _, key := range keys {
			e.o.Unsolicited(key)
		}
	}
}

func (e *Engine) start(work context.Context, s fleet.Snapshot, freed uint64) {
	ctx, cancel := context.WithCancel(work)
	r := &run{snap: s, cancel: cancel, since: e.o.Clock.Now(), keys: signalKeys(&s), freed: freed}
	e.mu.Lock()
	e.forget(s.Operation.ID)
	if before := e.running[s.Operation.ID]; before != nil {
		before.cancel() // it has parked the operation, or its lease ran out
	}
	e.running[s.Operation.ID] = r
	e.atHand++
	e.mu.Unlock()
	e.wg.Go(func() {
		defer cancel()
		e.work(ctx, r)
		e.mu.Lock()
		e.letGo()
		more := e.more
		if e.running[s.Operation.ID] == r { // else a signal has had it claimed again already
			delete(e.running, s.Operation.ID)
		}
		var late []string
		if r.ended && r.signalled {
			late = r.keys[1:] // the instances: what was signalled came after the last look at them
		}
		e.mu.Unlock()
		for _, key := range late {
			e.o.Unsolicited(key)
		}
		if more {
			e.Wake() // there may be work that found no slot
		}
	})
}

// signalKeys are the IDs by which an operation can be signalled.
func signalKeys(s *fleet.Snapshot) []string {
	keys := []string{s.Operation.ResourceID}
	for _, i := range s.Instances {
		keys = append(keys, string(i.ID))
	}
	return keys
}

// await registers the operation under its keys, and tells whether a signal has
// come meanwhile, or capacity, where it waits for that.
func (e *Engine) await(r *run, capacity bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	id := r.snap.Operation.ID
	if r.signalled || capacity && r.freed != e.freed {
		e.signalled[id] = append(e.signalled[id], r.keys[0])
		return true
	}
	e.keysOf[id] = r.keys
	for _, k := range r.keys {
		e.waiting[k] = id
	}
	if capacity {
		e.denied[id] = true
	}
	return false
}

// forget takes back what await registered; the lock is held.
func (e *Engine) forget(id fleet.OperationID) {
	for _, k := range e.keysOf[id] {
		if e.waiting[k] == id {
			delete(e.waiting, k)
		}
	}
	delete(e.keysOf, id)
	delete(e.signalled, id)
	delete(e.denied, id)
}

// extendLoop keeps the leases of steps that take long, and stops work whose
// lease was lost.
func (e *Engine) extendLoop(ctx context.Context) {
	tick := make(chan struct{}, 1)
	for {
		stop := e.o.Clock.AfterFunc(e.o.Lease/3, func() { tick <- struct{}{} })
		select {
		case <-ctx.Done():
			stop()
			return
		case <-tick:
		}
		held := map[fleet.OperationID]fleet.Epoch{}
		e.mu.Lock()
		for id, r := range e.running {
			if e.o.Clock.Now().Sub(r.since) >= e.o.Lease/3 {
				held[id] = r.snap.Operation.Epoch
			}
		}
		e.mu.Unlock()
		if len(held) == 0 {
			continue
		}
		still, err := e.o.Store.Extend(ctx, held, e.o.Lease)
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				e.o.Log.WithError(err).Warn("extending leases")
			}
			continue
		}
		e.mu.Lock()
		for id := range held {
			if r := e.running[id]; r != nil && !still[id] && r.snap.Operation.Epoch == held[id] {
				r.cancel()
			}
		}
		e.mu.Unlock()
	}
}
