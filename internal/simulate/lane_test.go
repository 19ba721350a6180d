package simulate

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/store"
)

// lane is a pool of connections that serves one call of the store at a time.
// Everything of it lives outside of the bubble.
type lane struct {
	n     int
	at    string
	store *store.Store
	db    *database
	now   *atomic.Int64
	down  *atomic.Bool
	// step: the call parks at every statement.
	step atomic.Bool
	// events tell of the call that is under way; jobs begin one.
	events chan event
	jobs   chan func()
	asks   chan time.Duration
	says   chan said

	mu    sync.Mutex
	wires []*wire
	// free are the sessions that no connection has.
	free []*session
}

// event: the call is parked at a statement, or has ended where wire is nil.
type event struct {
	wire      *wire
	statement string
}

// database is the Postgres of a shard, with its lanes.
type database struct {
	// admin goes straight to the server.
	admin *sql.DB
	lanes []*lane
	now   atomic.Int64 // microseconds since 1970
	down  atomic.Bool

	errands chan func()
	done    chan struct{}
}

// maxConns is how many connections a call may have; it has one, and seldom a second.
const lanes, maxConns = 6, 3

// simulatedTime replaces the schema's clock.
const simulatedTime = `CREATE OR REPLACE FUNCTION dormouse_now() RETURNS timestamptz LANGUAGE sql STABLE AS
	'SELECT current_setting(''` + timeSetting + `'')::timestamptz'`

// dueByID has operations that are due at the same time claimed in the order of their
// IDs, and not of where their rows lie: that hangs on when Postgres clears rows away.
const dueByID = `CREATE INDEX operation_due ON operation (class, due_at, id) WHERE state = 'active'`

// settings make Postgres plan once a session, as for large tables, so that plans
// depend on nothing but the seed. Nobody counts statements here.
var settings = []string{"plan_cache_mode = force_generic_plan", "enable_seqscan = off", "enable_hashjoin = off", "enable_mergejoin = off", "enable_hashagg = off",
	"pg_stat_statements.track = none", "track_counts = off"}

// openDatabase makes the lanes to a migrated database.
func openDatabase(t *testing.T, at string) *database {
	t.Helper()
	u, err := url.Parse(at)
	require.NoError(t, err)
	d := &database{errands: make(chan func()), done: make(chan struct{})}
	go d.runErrands()
	d.admin, err = sql.Open("postgres", at)
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.admin.Close() })
	setups := []string{simulatedTime, "DROP INDEX operation_due", dueByID}
	for _, setting := range settings {
		setups = append(setups, "ALTER DATABASE "+u.Path[1:]+" SET "+setting)
	}
	for _, setup := range setups {
		_, err = d.admin.Exec(setup)
		require.NoError(t, err)
	}
	d.now.Store(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro())
	for n := range lanes {
		l := &lane{n: n, at: at, db: d, now: &d.now, down: &d.down, events: make(chan event, 16), jobs: make(chan func()),
			asks: make(chan time.Duration), says: make(chan said)}
		go l.work()
		go l.watch()
		d.lanes = append(d.lanes, l)
	}
	t.Cleanup(d.close)
	return d
}

func (d *database) close() {
	close(d.errands)
	for _, l := range d.lanes {
		close(l.jobs)
		close(l.asks)
		l.close()
		for _, s := range l.free {
			_ = s.Close()
		}
	}
}

// open makes the lane's pool anew, so that a seed does not depend on which
// connections the one before has left.
func (l *lane) open() (err error) {
	l.close()
	l.store, err = store.Open(context.Background(), store.Options{URL: l.at, MaxConns: maxConns, Dial: l.dial})
	return err
}

func (l *lane) close() {
	if l.store != nil {
		_ = l.store.Close()
	}
}

func (l *lane) work() {
	for job := range l.jobs {
		job()
		l.events <- event{}
	}
}

// dial gives the store a connection to the session that was used last and is free, or to a new one.
func (l *lane) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var s *session
	if n := len(l.free); n > 0 {
		s, l.free = l.free[n-1], l.free[:n-1]
	} else {
		var d net.Dialer
		server, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		s = newSession(server)
	}
	w := newWire(l, s)
	l.wires = append(l.wires, w)
	return w, nil
}

// forget is told that a connection is closed. Its session can be used again.
func (l *lane) forget(w *wire) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := slices.Index(l.wires, w)
	if at < 0 {
		return net.ErrClosed
	}
	l.wires = slices.Delete(l.wires, at, at+1)
	w.session.rollBack()
	if w.session.lost || w.session.hello == nil {
		return w.session.Close()
	}
	l.free = append(l.free, w.session)
	if len(l.free) > maxConns {
		_ = l.free[0].Close()
		l.free = slices.Delete(l.free, 0, 1)
	}
	return w.session.SetDeadline(time.Time{})
}

// cutIdle breaks all connections on which nothing is under way; the lane must have no call.
func (l *lane) cutIdle() {
	l.mu.Lock()
	wires := slices.Clone(l.wires)
	l.mu.Unlock()
	for _, w := range wires {
		w.broken.Store(true)
	}
}

const (
	waitsSQL  = `SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)`
	cancelSQL = `SELECT pg_cancel_backend($1)`
)

// waiting returns the connection of the lane that waits for a lock which somebody
// else has; nil where none does. A lock is granted before its holder's COMMIT is answered.
func (l *lane) waiting() (*wire, error) {
	l.mu.Lock()
	wires := slices.Clone(l.wires)
	l.mu.Unlock()
	for _, w := range wires {
		if !saysItWaits(w.session.pid) {
			continue
		}
		var waits bool
		if err := l.db.admin.QueryRow(waitsSQL, w.session.pid).Scan(&waits); err != nil {
			return nil, fmt.Errorf("asking what lane %d waits for: %w", l.n, err)
		}
		if waits {
			return w, nil
		}
	}
	return nil, nil //nolint:nilnil // it waits for nothing
}

// saysItWaits tells whether a server process has "waiting" in its title, as it has
// from when it begins to wait for a lock until it goes on. To ask the server whether a
// statement waits or is only slow would cost more than time: the snapshot of who asks
// keeps Postgres from clearing rows away, so that they lie otherwise than in a run on
// a machine that is less busy.
func saysItWaits(pid uint32) bool {
	title, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err != nil || bytes.Contains(title, []byte(" waiting"))
}

// watch answers await. Real time must be waited for outside of the bubble.
func (l *lane) watch() {
	for patience := range l.asks {
		l.says <- l.look(patience)
	}
}

func (l *lane) look(patience time.Duration) said {
	for ; ; patience = max(2*patience, time.Millisecond) {
		timer := time.NewTimer(patience)
		select {
		case e := <-l.events:
			timer.Stop()
			return said{event: e}
		case <-timer.C:
		}
		if w, err := l.waiting(); err != nil || w != nil {
			return said{event: event{wire: w}, blocked: true, err: err}
		}
	}
}

// said is what became of a lane's call: it ended, parks at a statement, or waits
// for a lock (blocked, on event.wire).
type said struct {
	event
	blocked bool
	err     error
}

// await returns what became of the call under way. It looks for a lock after patience.
func (l *lane) await(patience time.Duration) said {
	l.asks <- patience
	return <-l.says
}

// outside runs f outside of the bubble, and returns when it has ended.
func (d *database) outside(f func()) {
	d.errands <- f
	<-d.done
}

func (d *database) runErrands() {
	for f := range d.errands {
		f()
		d.done <- struct{}{}
	}
}
