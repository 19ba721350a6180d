package client

import (
	"context"
	"time"
)

// Follow waits until the operation is finished and returns it; whether it
// succeeded is in its State. It calls seen (if not nil), in the caller's
// goroutine, with the operation as it first is and after each change. Changes
// in quick succession may be seen as one.
//
// A server that restarts, is not there for a while or answers 5xx does not end
// it: it tries again, with back-off, until the context ends, and calls seen
// again once there is an answer. When the context ends it returns the
// operation as last seen with the context's error; the operation itself goes
// on. Any other refusal (IsNotFound) is returned at once.
func (s *Operations) Follow(ctx context.Context, id string, seen func(Operation)) (Operation, error) {
	var last Operation
	known := false
	for failures, idle := 0, 0; ; {
		// The first question, and the first after a failure, is answered at once.
		wait := time.Duration(0)
		if known && failures == 0 {
			wait = s.c.options.LongPoll
		}
		r, err := waitRequest(id, wait, last.Revision)
		if err != nil {
			return last, err
		}
		r.attempts = 1
		asked := time.Now()
		var op Operation
		if err := s.c.do(ctx, r, &op); err != nil {
			if !survivable(ctx, err) {
				return last, err
			}
			failures++
			if err := s.c.pause(ctx, failures, err); err != nil {
				return last, err
			}
			continue
		}
		changed := !known || failures > 0 || op.Revision != last.Revision
		last, known, failures = op, true, 0
		if changed && seen != nil {
			seen(op)
		}
		if op.Finished() {
			return op, nil
		}
		// A server, or a proxy, that does not hold the request must not be asked in a tight loop.
		if changed || time.Since(asked) > s.c.options.LongPoll/2 {
			idle = 0
			continue
		}
		idle++
		if err := sleep(ctx, s.c.backoff(idle)); err != nil {
			return last, err
		}
	}
}

// survivable tells whether whoever follows something goes on after that error.
func survivable(ctx context.Context, err error) bool {
	return ctx.Err() == nil && (worthRepeating(err) || KindOf(err) == KindInternal)
}

// Follow looks at the rollout now and then once in every so long, and calls
// seen, in the caller's goroutine, with what it sees. It returns the rollout
// when that is finished, which it notices at once, or when seen returns false.
// every is a minute at the most; 0 or less is a second.
//
// A server that restarts, is not there for a while or answers 5xx does not end
// it: it tries again, with back-off, until the context ends. When that ends it
// returns the rollout as last seen with the context's error; the rollout itself
// goes on. Any other refusal (IsNotFound) is returned at once.
func (s *Rollouts) Follow(ctx context.Context, id string, every time.Duration, seen func(Rollout) bool) (Rollout, error) {
	if every <= 0 {
		every = time.Second
	}
	every = min(every, maxWait)
	var last Rollout
	for failures, wait := 0, time.Duration(0); ; wait = every {
		r, err := longPoll("rollouts", id, wait)
		if err != nil {
			return last, err
		}
		r.attempts = 1
		asked := time.Now()
		var now Rollout
		if err := s.c.do(ctx, r, &now); err != nil {
			if !survivable(ctx, err) {
				return last, err
			}
			failures++
			if err := s.c.pause(ctx, failures, err); err != nil {
				return last, err
			}
			continue
		}
		last, failures = now, 0
		if !seen(now) || now.Finished() {
			return now, nil
		}
		// A server, or a proxy, that does not hold the request must not be asked in a tight loop.
		if rest := every - time.Since(asked); wait > 0 && rest > 0 {
			if err := sleep(ctx, rest); err != nil {
				return last, err
			}
		}
	}
}

// sleep returns nil after that time, or the context's error if that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
