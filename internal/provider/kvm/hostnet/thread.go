package hostnet

import (
	"net"
	"runtime"

	"golang.org/x/sys/unix"
)

// thread is one operating-system thread that lives in a network namespace and
// runs there what must happen in it: opening a socket, a tap or a file of
// /proc/sys. No other thread ever enters the namespace, so none can be left in
// it by mistake. When the thread is closed it ends, instead of going back to
// the scheduler.
type thread struct {
	jobs chan func()
	quit chan struct{}
	done chan struct{}
}

// startThread returns a thread after enter has run on it. enter changes the
// thread's namespace.
func startThread(enter func() error) (*thread, error) {
	t := &thread{jobs: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	entered := make(chan error, 1)
	go t.run(enter, entered)
	if err := <-entered; err != nil {
		<-t.done
		return nil, err
	}
	return t, nil
}

func (t *thread) run(enter func() error, entered chan<- error) {
	// Never unlocked: a thread that was in another namespace must not be reused.
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread can't end, and /proc/PID/ns/net of the whole process
		// is its namespace. Occupy it until another thread has taken the work.
		moved := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(moved)
			t.serve(enter, entered)
		}()
		<-moved
		runtime.UnlockOSThread()
		return
	}
	t.serve(enter, entered)
}

func (t *thread) serve(enter func() error, entered chan<- error) {
	defer close(t.done)
	if err := enter(); err != nil {
		entered <- err
		return
	}
	entered <- nil
	for {
		select {
		case job := <-t.jobs:
			job()
		case <-t.quit:
			return
		}
	}
}

// do runs f on the thread and returns its error; net.ErrClosed after close.
func (t *thread) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case t.jobs <- func() { result <- f() }:
		return <-result
	case <-t.quit:
		return net.ErrClosed
	}
}

// close ends the thread after the job that it runs now. Call it once.
func (t *thread) close() {
	close(t.quit)
	<-t.done
}
