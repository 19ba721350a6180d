package store

import (
	"context"
	"sync/atomic"
	"time"

	"dormouse/internal/fleet"
)

// defaultWait bounds the wait for a connection: who asks waits longer than any
// statement of ours takes, and not for ever.
const defaultWait = 5 * time.Second

// pool hands out the connections. There is one turn less than there are
// connections: who prepares a statement within a transaction needs a second
// one, and there must always be one to come. So nobody ever queues in
// database/sql, where a wait has no end.
type pool struct {
	name  string
	wait  time.Duration
	turns chan struct{}
	// spare is the connection for which there is no turn: one statement is
	// prepared at a time.
	spare chan struct{}

	waiting, waits, timedOut atomic.Int64
}

func newPool(o Options) *pool {
	return &pool{name: o.Name, wait: o.Wait, turns: make(chan struct{}, o.MaxConns-1), spare: make(chan struct{}, 1)}
}

// take waits for a turn, which is to be given back.
func (p *pool) take(ctx context.Context) error { return p.enter(ctx, p.turns) }

func (p *pool) give() { <-p.turns }

// enter takes a place among turns. After the pool's time it fails with
// KindUnavailable, so that a caller is told to come again, and does not hold
// what others wait for in turn.
func (p *pool) enter(ctx context.Context, turns chan struct{}) error {
	select {
	case turns <- struct{}{}:
		return nil
	default:
	}
	p.waits.Add(1)
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	patience := time.NewTimer(p.wait)
	defer patience.Stop()
	select {
	case turns <- struct{}{}:
		return nil
	case <-ctx.Done():
		return translate("waiting for a connection", ctx.Err())
	case <-patience.C:
	}
	p.timedOut.Add(1)
	err := fleet.Errorf(fleet.KindUnavailable, "the %s's %d connections to the database have been busy for %s: try again later, or raise --database-conns",
		p.name, cap(p.turns), p.wait)
	err.RetryAfter = time.Second
	return err
}

// PoolStats tells how busy a pool is.
type PoolStats struct {
	// Max is how many connections there may be, InUse and Idle how many there are.
	Max, InUse, Idle int
	// Waiting is how many callers wait for a connection now.
	Waiting int
	// Waits is how many had to wait since the beginning, and TimedOut how many of them in vain.
	Waits, TimedOut int64
}

// PoolStats returns how busy the store's connections are at this moment.
func (s *Store) PoolStats() PoolStats {
	db := s.db.Stats()
	return PoolStats{Max: s.maxConns, InUse: db.InUse, Idle: db.Idle,
		Waiting: int(s.pool.waiting.Load()), Waits: s.pool.waits.Load(), TimedOut: s.pool.timedOut.Load()}
}
