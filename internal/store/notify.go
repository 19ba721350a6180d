package store

import (
	"context"
	"time"

	"github.com/lib/pq"
)

const notifySQL = `SELECT pg_notify($1, '')`

// Notify wakes the listeners on a channel, in all processes. Callers gather
// what they have to say first: it takes a lock that the whole server shares.
func (s *Store) Notify(ctx context.Context, channel string) error {
	return s.read(func(tx *Tx) error {
		_, err := tx.exec(ctx, "notifying", notifySQL, channel)
		return err
	})
}

// After a connection broke, it is tried again after this long, then ever later.
const (
	listenAgain    = 200 * time.Millisecond
	listenAgainMax = 10 * time.Second
	// listenPing finds out about a connection that died in silence. It is no statement.
	listenPing = time.Minute
)

// Listen calls f whenever something was notified on the channel, and after a
// broken connection, when something may have been missed. It returns when ctx
// ends, with its error, or where it can't begin. f must not block for long;
// several notifications may make one call. Nothing may depend on one arriving.
func (s *Store) Listen(ctx context.Context, channel string, f func()) error {
	l := pq.NewListener(primaryOnly(s.url), listenAgain, listenAgainMax, nil)
	defer l.Close()
	listening := make(chan error, 1)
	go func() { listening <- l.Listen(channel) }() // it waits for the first connection
	ping := time.NewTicker(listenPing)
	defer ping.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-listening:
			if err != nil {
				return translate("listening on "+channel, err)
			}
			f() // what was notified before this moment
		case <-l.Notify: // nil after a reconnection
			drain(l.Notify)
			f()
		case <-ping.C:
			go func() { _ = l.Ping() }() // where it fails, the listener connects again
		}
	}
}

// drain takes what has gathered, because one call answers all of it.
func drain(c <-chan *pq.Notification) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}
