package wire

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrBroken: the Break of its Pass ended the exchange.
	ErrBroken = errors.New("the gateway ended the exchange")
	// ErrClientGone: the client closed the connection, or reset the stream.
	ErrClientGone = errors.New("the client is gone")
	errClosed     = errors.New("the gateway is closing")
	// ErrSlow: an instance or a client did not read or answer for too long. It is a timeout as net.Error has it.
	ErrSlow error = slowError{}
)

type slowError struct{}

func (slowError) Error() string   { return "nothing moved for too long" }
func (slowError) Timeout() bool   { return true }
func (slowError) Temporary() bool { return true }

// past is a deadline that ends what waits on a connection.
var past = time.Unix(1, 0)

// An alarm is the time at which one direction of a connection is given up. The
// server looks at all of them a few times a second, which costs a request less
// than a timer.
type alarm struct{ at atomic.Int64 }

const rung = -1

func (a *alarm) set(at int64) { a.at.Store(at) }

// stop reports whether the alarm has rung: what it guarded has then failed, even
// if it seems to have succeeded.
func (a *alarm) stop() (wasRung bool) { return a.at.Swap(0) == rung }

func (a *alarm) due(now int64) bool {
	at := a.at.Load()
	return at > 0 && now > at && a.at.CompareAndSwap(at, rung)
}

// deadliner is one side of an exchange.
type deadliner interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

func interrupt(d deadliner) {
	_ = d.SetReadDeadline(past)
	_ = d.SetWriteDeadline(past)
}

// life is what the server watches: a connection of HTTP/1.1 or plain TCP with its
// exchange, or a stream of HTTP/2. It is the context of its Handler's calls.
type life struct {
	client deadliner
	raw    syscall.RawConn // of the client's socket; nil where somebody else watches it
	rd, wr alarm           // of the client
	index  int             // in the server's list
	poll   poll            // of raw, for whoever looks

	// waits: the exchange waits, so that a client that leaves is looked for.
	waits atomic.Bool
	idle  atomic.Bool // between two requests

	mu       sync.Mutex
	instance *kept
	breaks   <-chan struct{}
	cause    error // why it was ended; nil while it lives
	retired  bool  // its client must not be touched any more
	done     chan struct{}
}

// Deadline, Done, Err and Value make it a context.Context; nothing is made that nobody asks for.
func (l *life) Deadline() (time.Time, bool) { return time.Time{}, false }

func (l *life) Done() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.over() {
			close(l.done)
		}
	}
	return l.done
}

func (l *life) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over() {
		return context.Canceled
	}
	return nil
}

// over reports whether the client is lost; after a break it can still be answered.
func (l *life) over() bool { return l.cause != nil && l.cause != ErrBroken }

func (l *life) Value(any) any { return nil }

// end interrupts whatever it does; the first cause counts.
func (l *life) end(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil && !l.retired {
		l.stop(cause)
	}
}

// stop is end, with mu held.
func (l *life) stop(cause error) {
	l.cause = cause
	if l.done != nil && l.over() {
		close(l.done)
	}
	interrupt(l.client)
	if l.instance != nil {
		interrupt(l.instance.conn)
	}
}

// retire ends the watch.
func (l *life) retire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retired = true
}

// revive lets the client be answered after all, though the connection ends then.
func (l *life) revive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		_ = l.client.SetReadDeadline(time.Time{})
		_ = l.client.SetWriteDeadline(time.Time{})
	}
}

func (l *life) ended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause != nil
}

// watch has it end when a channel is closed; nil ends the watch.
func (l *life) watch(breaks <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.breaks = breaks
}

// attach gives it a connection to an instance, to be interrupted with it.
func (l *life) attach(k *kept) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		return l.cause
	}
	l.instance = k
	return nil
}

// detach takes it away again, and returns why it was interrupted, if it was.
func (l *life) detach() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.instance = nil
	return l.cause
}

// look rings alarms and notices breaks, and clients that left where asked.
func (l *life) look(now int64, clients bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.retired {
		return
	}
	ring(l.client, &l.rd, &l.wr, now)
	if k := l.instance; k != nil {
		ring(k.conn, &k.rd, &k.wr, now)
	}
	if l.cause != nil {
		return
	}
	select {
	case <-l.breaks:
		l.stop(ErrBroken)
		return
	default:
	}
	// Whatever has arrived before, and is not read yet.
	if clients && l.raw != nil && l.waits.Load() && l.poll.ready(l.raw, unix.POLLRDHUP) {
		l.stop(ErrClientGone)
	}
}

func ring(d deadliner, rd, wr *alarm, now int64) {
	if rd.due(now) {
		_ = d.SetReadDeadline(past)
	}
	if wr.due(now) {
		_ = d.SetWriteDeadline(past)
	}
}
