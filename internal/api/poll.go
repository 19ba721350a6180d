package api

import (
	"context"
	"errors"
	"net/url"
	"time"
)

// maxWait bounds a long poll.
const maxWait = time.Minute

// waitOf reads how long a long poll may last; 0 is none.
func waitOf(query url.Values) (time.Duration, error) {
	if !query.Has("wait") {
		return 0, nil
	}
	d, err := time.ParseDuration(query.Get("wait"))
	if err != nil || d < 0 || d > maxWait {
		return 0, invalidQuery("wait", "it must be a duration from 0s to %s, such as 30s", maxWait)
	}
	return d, nil
}

// poll is something that a long poll waits for news of.
type poll[T any] struct {
	read func(context.Context) (T, error)
	news func(T) bool
	// watch names the operation whose changes bring news; "" is none.
	watch func(T) string
	// gap is the least time between two reads, for what is costly to read and
	// changes many times a second.
	gap time.Duration
}

// await reads until there is news. It asks to be told of the next change and
// then reads again, so that none falls between; changes by other processes it
// finds by reading now and then. The first read comes before all that, so that
// nobody watches what has ended or does not exist. When the wait is over, or
// the server stops, what was read last is an answer.
func await[T any](ctx context.Context, s *server, wait time.Duration, p poll[T]) (T, error) {
	v, err := p.read(ctx)
	if err != nil || p.news(v) || wait == 0 {
		return v, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, errWaited)
	defer cancel()
	again := time.NewTimer(s.Reread)
	defer again.Stop()
	for {
		var changed <-chan struct{}
		if key := p.watch(v); key != "" {
			changed = s.Watch.Changed(key)
		}
		switch next, err := p.read(ctx); {
		case err != nil && ctx.Err() != nil:
			return v, pollEnd(ctx)
		case err != nil || p.news(next):
			return next, err
		default:
			v = next
		}
		again.Reset(s.Reread)
		select {
		case <-changed:
		case <-again.C:
		case <-ctx.Done():
			return v, pollEnd(ctx)
		}
		if !pause(ctx, p.gap) {
			return v, pollEnd(ctx)
		}
	}
}

var errWaited = errors.New("the wait is over")

// pollEnd is nil where a wait that ended without news has an answer all the same.
func pollEnd(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), errWaited) || errors.Is(ctx.Err(), context.Canceled) {
		return nil
	}
	return ctx.Err()
}

// pause returns false where the context ends before the time is over.
func pause(ctx context.Context, d time.Duration) bool {
	if d == 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
