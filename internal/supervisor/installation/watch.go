package installation

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// WatcherOptions configure a Watcher. Zero values take the defaults named here.
type WatcherOptions struct {
	Store   EndingStore
	Endings *Endings
	Places  map[fleet.ProviderKind]Place
	Clock   engine.Clock
	Log     logrus.FieldLogger
	// Workers bounds the looks that are under way at once (4).
	Workers int
	// Queue bounds the instances waiting to be looked at, those waiting for
	// another try included (1024). What does not fit is left to the sweep.
	Queue int
	// FirstBackoff doubles with each try up to MaxBackoff (0.5 s, 30 s); after
	// MaxTries (8) the instance is left to the sweep.
	FirstBackoff, MaxBackoff time.Duration
	MaxTries                 int
	// Timeout bounds one look (30 s).
	Timeout time.Duration
}

// Watcher looks at instances of which a provider signalled a change while no
// operation waited for it, and records those whose program has ended by itself.
// It costs a statement and an Observe per signal, and nothing at rest. Nothing
// depends on it: what it misses, the sweep finds.
type Watcher struct {
	o WatcherOptions
	// ready has room for every known instance, so that a send never blocks.
	ready chan fleet.InstanceID

	mu      sync.Mutex
	known   map[fleet.InstanceID]*watched
	dropped int
}

// watched is an instance that is queued, being looked at, or backing off.
type watched struct {
	tries          int
	running, again bool
	// stop takes the next try back; nil unless it is backing off. round tells a
	// call that comes too late from the one that is due.
	stop  func()
	round int
}

// NewWatcher fills in the defaults. Start it with Run.
func NewWatcher(o WatcherOptions) *Watcher {
	orDefault(&o.Workers, 4)
	orDefault(&o.Queue, 1024)
	orDefault(&o.MaxTries, 8)
	orDefault(&o.FirstBackoff, 500*time.Millisecond)
	orDefault(&o.MaxBackoff, 30*time.Second)
	orDefault(&o.Timeout, 30*time.Second)
	return &Watcher{o: o, ready: make(chan fleet.InstanceID, o.Queue), known: map[fleet.InstanceID]*watched{}}
}

func orDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Notify says that something has changed about an instance; engine.Options.Unsolicited
// is to be this. It never blocks. Signals about one instance that come while it
// waits to be looked at are one.
func (w *Watcher) Notify(key string) {
	id := fleet.InstanceID(key)
	w.mu.Lock()
	defer w.mu.Unlock()
	have := w.known[id]
	switch {
	case have == nil && len(w.known) >= w.o.Queue:
		if w.dropped++; w.dropped == 1 {
			w.o.Log.WithField("queue", w.o.Queue).Warn("too many instances have changed at once; the sweep will look at the rest")
		}
	case have == nil:
		w.known[id] = &watched{}
		w.ready <- id
	case have.running:
		have.again = true
	case have.stop != nil:
		// It has news: no need to wait for the next try.
		have.stop()
		have.stop = nil
		have.round++
		w.ready <- id
	}
}

// Run looks at what is signalled until ctx ends, and returns nil then.
func (w *Watcher) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	for range w.o.Workers {
		workers.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case id := <-w.ready:
					w.work(ctx, id)
				}
			}
		})
	}
	workers.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, x := range w.known {
		if x.stop != nil {
			x.stop()
			delete(w.known, id)
		}
	}
	return nil
}

func (w *Watcher) work(ctx context.Context, id fleet.InstanceID) {
	w.mu.Lock()
	x := w.known[id]
	if x == nil || x.running {
		w.mu.Unlock()
		return
	}
	x.running, x.again = true, false
	w.mu.Unlock()

	err := w.look(ctx, id)

	w.mu.Lock()
	defer w.mu.Unlock()
	x.running = false
	if err != nil && ctx.Err() == nil {
		x.tries++
		log := w.o.Log.WithError(err).WithFields(logrus.Fields{"instance": id, "try": x.tries})
		if x.tries < w.o.MaxTries && transient(err) {
			log.Info("looking at an instance that changed; will try again")
			w.later(id, x, err)
			return
		}
		log.Warn("looking at an instance that changed; the sweep will")
	}
	if x.again {
		x.tries, x.again = 0, false
		w.ready <- id
		return
	}
	delete(w.known, id)
	if len(w.known) == 0 && w.dropped > 0 {
		w.o.Log.WithField("dropped", w.dropped).Info("caught up with the instances that changed")
		w.dropped = 0
	}
}

// later has the instance looked at again after its back-off; the lock is held.
func (w *Watcher) later(id fleet.InstanceID, x *watched, err error) {
	wait := min(w.o.FirstBackoff<<min(x.tries-1, 16), w.o.MaxBackoff)
	var fe *fleet.Error
	if errors.As(err, &fe) && fe.RetryAfter > wait {
		wait = fe.RetryAfter
	}
	x.again = false
	x.round++
	round := x.round
	x.stop = w.o.Clock.AfterFunc(wait, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.known[id] == x && x.stop != nil && x.round == round {
			x.stop = nil
			w.ready <- id
		}
	})
}

// transient tells whether another try may help.
func transient(err error) bool {
	switch fleet.KindOf(err) {
	case fleet.KindPermanent, fleet.KindInvalid, fleet.KindFenced, fleet.KindNotFound:
		return false
	}
	return true
}

// look asks the provider once and acts on an end.
func (w *Watcher) look(ctx context.Context, id fleet.InstanceID) (err error) {
	ctx, cancel := context.WithTimeout(ctx, w.o.Timeout)
	defer cancel()
	defer contain(&err, w.o.Log.WithField("instance", id))
	s, err := w.o.Store.InstancePlace(ctx, id)
	if fleet.KindOf(err) == fleet.KindNotFound {
		return nil // no instance, or one that is deleted
	}
	if err != nil {
		return err
	}
	if !servesNow(s) {
		return nil // an operation looks for itself, and what rests may end
	}
	place, ok := w.o.Places[s.Cluster.Provider]
	if !ok {
		return nil
	}
	st, err := place.Provider.Observe(ctx, instanceRef(s.Instances[0]))
	switch {
	case fleet.KindOf(err) == fleet.KindNotFound:
		return nil // the sweep judges of absence, behind its brake
	case err != nil:
		return err
	case st.Power != fleet.PowerOff || st.Exit == nil || st.Exit.Reason == "":
		return nil // it runs, is at it, or was stopped on purpose
	}
	_, err = w.o.Endings.settle(ctx, s, st.Exit)
	return err
}

// instanceRef names an instance outside of an operation: reads need no epoch.
func instanceRef(i fleet.Instance) fleet.InstanceRef {
	return fleet.InstanceRef{ID: i.ID, ClusterID: i.ClusterID, HostID: i.HostID, ProviderRef: i.ProviderRef}
}

// contain turns a panic into an error.
func contain(err *error, log logrus.FieldLogger) {
	if p := recover(); p != nil {
		log.WithField("stack", string(debug.Stack())).Errorf("panic: %v", p)
		*err = &fleet.Error{Kind: fleet.KindInternal, Reason: fleet.ReasonPanic, Err: fmt.Errorf("panic: %v", p)}
	}
}
