package wire

import (
	"sync"
	"sync/atomic"
	"time"
)

// lives looks after everything that is open.
type lives struct {
	now  atomic.Int64 // Unix time in nanoseconds, as of the last tick
	tick time.Duration

	mu      sync.Mutex
	list    []*life
	empty   chan struct{} // closed when the last has gone, once the server closes
	closing atomic.Bool
	stopped bool
	stop    chan struct{}
	begin   sync.Once
}

func (v *lives) time() time.Time { return time.Unix(0, v.now.Load()) }

// after is the time of an alarm. The clock may be one tick behind.
func (v *lives) after(d time.Duration) int64 { return v.now.Load() + int64(d+v.tick) }

// add reports false where the server is closing.
func (v *lives) add(l *life) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closing.Load() {
		return false
	}
	l.index = len(v.list)
	v.list = append(v.list, l)
	return true
}

func (v *lives) remove(l *life) {
	l.retire()
	v.mu.Lock()
	defer v.mu.Unlock()
	last := len(v.list) - 1
	v.list[l.index] = v.list[last]
	v.list[l.index].index = l.index
	v.list[last] = nil
	v.list = v.list[:last]
	if last == 0 && v.closing.Load() {
		close(v.empty)
	}
}

// close lets nothing new in, and ends what is idle. The channel is closed when
// nothing is left.
func (v *lives) close() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closing.CompareAndSwap(false, true) {
		v.empty = make(chan struct{})
		if len(v.list) == 0 {
			close(v.empty)
		}
	}
	for _, l := range v.list {
		if l.idle.Load() {
			l.end(errClosed)
		}
	}
	return v.empty
}

func (v *lives) endAll(cause error) {
	for _, l := range v.all(nil) {
		l.end(cause)
	}
}

func (v *lives) all(list []*life) []*life {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append(list, v.list...)
}

// run ticks until the server has closed. each is called about once a second.
func (v *lives) run(each func()) {
	ticker := time.NewTicker(v.tick)
	defer ticker.Stop()
	every := max(1, int(time.Second/v.tick))
	if every > 50 { // a server with very short limits: a test
		every = 10
	}
	var list []*life
	for n := 0; ; n++ {
		select {
		case now := <-ticker.C:
			v.now.Store(now.UnixNano())
		case <-v.stop:
			return
		}
		list = v.all(list[:0])
		for i, l := range list {
			// Each client once a second, not all in the same tick.
			l.look(v.now.Load(), (i+n)%every == 0)
		}
		clear(list)
		if n%every == 0 {
			each()
		}
	}
}

func (v *lives) start(each func()) {
	v.begin.Do(func() { go v.run(each) })
}

// end stops the ticks.
func (v *lives) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.stopped {
		v.stopped = true
		close(v.stop)
	}
}
