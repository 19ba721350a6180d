package devpg

import (
	"context"
	"fmt"
	"time"
)

const (
	// steadyAfter is how long the server must have run for its next end to be the first one again.
	steadyAfter = time.Minute
	// longestBackOff bounds the time between two attempts to start the server again.
	longestBackOff = 30 * time.Second
)

// Watch starts the server again whenever it has ended without Stop: killed, out
// of memory, or at its own wish. It recovers as from a crash, under the same
// URL. The first attempt is immediate, later ones back off up to
// longestBackOff until the server has run for steadyAfter. What was done and
// why is logged.
//
// Watch blocks until ctx ends, or until Close or Stop. It costs no statement
// and no polling: the kernel tells when the process has ended. A data directory
// that is gone is never made anew.
func (s *Server) Watch(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	for failures := 0; ; {
		since := time.Now()
		err := s.awaitEnd(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(since) >= steadyAfter {
			failures = 0
		}
		if err != nil {
			s.log.WithError(err).Warn("watching Postgres")
		} else {
			s.log.Warn("Postgres has ended and nobody stopped it: starting it again")
		}
		for {
			if !sleep(ctx, backOff(failures)) {
				return
			}
			failures++
			err := s.restart(ctx)
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				break
			}
			s.log.WithError(err).WithField("retry_in", backOff(failures).String()).Error("starting Postgres again")
		}
	}
}

// awaitEnd returns nil once no postmaster runs.
func (s *Server) awaitEnd(ctx context.Context) error {
	f, ok := postmaster(s.dataDir)
	if !ok {
		return nil
	}
	p, ok, err := openProcess(f.pid, s.dataDir)
	if err != nil || !ok {
		return err
	}
	defer p.close()
	return p.wait(ctx)
}

// restart starts the server that has ended, or adopts the one that somebody
// else has started meanwhile.
func (s *Server) restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	unlock, err := lockDir(ctx, s.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := ctx.Err(); err != nil {
		return err // Stop had the lock before us: it shall stay stopped
	}
	adopted, err := s.adopt(ctx)
	if err != nil || adopted {
		return err
	}
	major, err := dataMajor(s.dataDir)
	if err != nil {
		return err
	}
	if major == 0 {
		return fmt.Errorf("starting Postgres: %s is gone: put it back, or restart the provisioner to begin with an empty one", s.dataDir)
	}
	return s.start(ctx)
}

// backOff is how long to wait before the next attempt after that many.
func backOff(failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	return min(longestBackOff, time.Second<<min(failures-1, 10))
}

// sleep waits, and tells whether ctx still stands.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}
