package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

// Options says how to reach the database.
type Options struct {
	// URL is a postgres:// URL or a libpq connection string. Of several hosts in
	// it, the one that takes writes is connected to.
	URL string
	// MaxConns bounds the connections of this pool; 0 is 16, and fewer than 2 are 2.
	MaxConns int
	// Name says in messages whose pool it is; empty is "provisioner".
	Name string
	// Wait bounds the wait for a connection while all are busy, which then ends
	// with KindUnavailable; 0 is 5 s.
	Wait time.Duration
	// Dial opens the connections; nil is net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Store is a pool of connections to the database. It is safe for concurrent use.
type Store struct {
	db       *sqlx.DB
	url      string
	maxConns int
	prepared sync.Map // query text → *sqlx.Stmt
	pool     *pool
	moves    moves
	names    atomic.Pointer[names]
}

// Open connects. It fails with KindUnavailable where the database does not
// answer, and where it is a read-only standby.
func Open(ctx context.Context, opts Options) (*Store, error) {
	connector, err := newConnector(opts.URL, dialer{answer: answerTimeout, dial: opts.Dial})
	if err != nil {
		return nil, err
	}
	db := sqlx.NewDb(sql.OpenDB(connector), "postgres")
	if opts.MaxConns == 0 {
		opts.MaxConns = 16
	}
	opts.MaxConns = max(2, opts.MaxConns)
	if opts.Name == "" {
		opts.Name = "provisioner"
	}
	if opts.Wait == 0 {
		opts.Wait = defaultWait
	}
	db.SetMaxOpenConns(opts.MaxConns)
	db.SetMaxIdleConns(opts.MaxConns)
	db.SetConnMaxIdleTime(5 * time.Minute)
	s := &Store{db: db, url: opts.URL, maxConns: opts.MaxConns, pool: newPool(opts), moves: allMoves()}
	s.names.Store(&names{})
	if err := s.Ping(ctx); err != nil {
		_ = db.Close()
		return nil, err
	}
	return s, nil
}

// Close closes all connections.
func (s *Store) Close() error { return s.db.Close() }

const pingSQL = `SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only') = 'on' AS read_only`

// Ping fails with KindUnavailable unless the database accepts writes. It does
// not wait behind those who wait for a connection.
func (s *Store) Ping(ctx context.Context) error {
	var is struct {
		Standby  bool `db:"standby"`
		ReadOnly bool `db:"read_only"`
	}
	if err := s.db.GetContext(ctx, &is, pingSQL); err != nil {
		return translate("asking the database", err)
	}
	switch {
	case is.Standby:
		return fleet.Errorf(fleet.KindUnavailable, "the database is a read-only standby; name the primary with --database")
	case is.ReadOnly:
		return fleet.Errorf(fleet.KindUnavailable, "the database takes no writes (default_transaction_read_only is on): turn it off, or name another with --database")
	}
	return nil
}

// Tx is a transaction; all queries hang on it.
type Tx struct {
	tx *sqlx.Tx // nil in read: each statement is a transaction of its own
	s  *Store
}

// read runs f, which only reads and needs no view that its statements share:
// it saves the round trips of BEGIN and COMMIT. A statement that finds its
// connection broken is tried on another one.
func (s *Store) read(f func(*Tx) error) error {
	err := f(&Tx{s: s})
	if isReadOnly(err) {
		s.shed()
	}
	return err
}

// maxTries bounds how often a transaction that lost a deadlock or a
// serialisation is tried; neither is expected under the lock order above.
const maxTries = 3

// InTx runs f in one read-committed transaction, and again where the database
// says that trying again helps. f must have no effect but through its Tx.
func (s *Store) InTx(ctx context.Context, f func(*Tx) error) error {
	var err error
	for try := 0; try < maxTries; try++ {
		if err = s.once(ctx, f); !retryable(err) {
			break
		}
	}
	if isReadOnly(err) {
		s.shed()
	}
	return err
}

func (s *Store) once(ctx context.Context, f func(*Tx) error) error {
	if err := s.pool.take(ctx); err != nil {
		return err
	}
	defer s.pool.give()
	tx, err := s.db.BeginTxx(ctx, nil)
	if err != nil {
		return translate("beginning a transaction", err)
	}
	if err := f(&Tx{tx: tx, s: s}); err != nil {
		_ = tx.Rollback()
		return err
	}
	if err := tx.Commit(); err != nil {
		return translate("committing", err)
	}
	return nil
}

func retryable(err error) bool {
	var pe *pq.Error
	return errors.As(err, &pe) && (pe.Code == "40001" || pe.Code == "40P01")
}

// stmt returns the query prepared, so that the server plans it once a connection.
func (t *Tx) stmt(ctx context.Context, query string) (*sqlx.Stmt, error) {
	have, ok := t.s.prepared.Load(query)
	if !ok {
		p, err := t.s.prepare(ctx, query)
		if err != nil {
			return nil, err
		}
		have = p
	}
	if t.tx == nil {
		return have.(*sqlx.Stmt), nil
	}
	return t.tx.StmtxContext(ctx, have.(*sqlx.Stmt)), nil
}

// turn takes a turn for one statement, where it is a transaction of its own.
func (t *Tx) turn(ctx context.Context) (give func(), err error) {
	if t.tx != nil {
		return func() {}, nil // the transaction has one
	}
	return t.s.pool.give, t.s.pool.take(ctx)
}

func (s *Store) prepare(ctx context.Context, query string) (*sqlx.Stmt, error) {
	if err := s.pool.enter(ctx, s.pool.spare); err != nil {
		return nil, err
	}
	defer func() { <-s.pool.spare }()
	if have, ok := s.prepared.Load(query); ok {
		return have.(*sqlx.Stmt), nil
	}
	p, err := s.db.PreparexContext(ctx, query)
	if err == nil {
		s.prepared.Store(query, p)
	}
	return p, err
}

// get reads one row; fleet.KindNotFound where there is none.
func (t *Tx) get(ctx context.Context, what string, dest any, query string, args ...any) error {
	give, err := t.turn(ctx)
	if err != nil {
		return err
	}
	defer give()
	st, err := t.stmt(ctx, query)
	if err == nil {
		err = st.GetContext(ctx, dest, args...)
	}
	return translate(what, err)
}

// list reads all rows.
func (t *Tx) list(ctx context.Context, what string, dest any, query string, args ...any) error {
	give, err := t.turn(ctx)
	if err != nil {
		return err
	}
	defer give()
	st, err := t.stmt(ctx, query)
	if err == nil {
		err = st.SelectContext(ctx, dest, args...)
	}
	return translate(what, err)
}

// listPlanned is list, but planned for these arguments and not prepared: where
// a value is in all rows or in none, the best way to either is bad for the other.
func (t *Tx) listPlanned(ctx context.Context, what string, dest any, query string, args ...any) error {
	give, err := t.turn(ctx)
	if err != nil {
		return err
	}
	defer give()
	if t.tx == nil {
		return translate(what, t.s.db.SelectContext(ctx, dest, query, args...))
	}
	return translate(what, t.tx.SelectContext(ctx, dest, query, args...))
}

// each calls f for every row, where reading into structs would cost too much.
func (t *Tx) each(ctx context.Context, what string, f func(*sql.Rows) error, query string, args ...any) error {
	give, err := t.turn(ctx)
	if err != nil {
		return err
	}
	defer give()
	st, err := t.stmt(ctx, query)
	if err != nil {
		return translate(what, err)
	}
	rows, err := st.QueryContext(ctx, args...)
	if err != nil {
		return translate(what, err)
	}
	return translate(what, forEach(rows, f))
}

// eachPlanned is each as listPlanned is list.
func (t *Tx) eachPlanned(ctx context.Context, what string, f func(*sql.Rows) error, query string, args ...any) error {
	give, err := t.turn(ctx)
	if err != nil {
		return err
	}
	defer give()
	var rows *sql.Rows
	if t.tx == nil {
		rows, err = t.s.db.QueryContext(ctx, query, args...)
	} else {
		rows, err = t.tx.QueryContext(ctx, query, args...)
	}
	if err != nil {
		return translate(what, err)
	}
	return translate(what, forEach(rows, f))
}

func forEach(rows *sql.Rows, f func(*sql.Rows) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// exec returns the number of rows changed.
func (t *Tx) exec(ctx context.Context, what, query string, args ...any) (int64, error) {
	give, err := t.turn(ctx)
	if err != nil {
		return 0, err
	}
	defer give()
	st, err := t.stmt(ctx, query)
	if err != nil {
		return 0, translate(what, err)
	}
	res, err := st.ExecContext(ctx, args...)
	if err != nil {
		return 0, translate(what, err)
	}
	n, err := res.RowsAffected()
	return n, translate(what, err)
}

// translate gives an error of the driver its kind. what says what was being done.
func translate(what string, err error) error {
	if err == nil {
		return nil
	}
	var have *fleet.Error
	if errors.As(err, &have) {
		return err
	}
	if errors.Is(err, sql.ErrNoRows) {
		return fleet.Errorf(fleet.KindNotFound, "%s: there is no such row", what)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", what, err)
	}
	var pe *pq.Error
	if errors.As(err, &pe) {
		switch {
		case pe.Code == "57014":
			return fmt.Errorf("%s: %w", what, err)
		case pe.Code.Class() == "23":
			return fleet.Errorf(fleet.KindConflict, "%s: constraint %s: %w", what, pe.Constraint, err)
		case pe.Code == "25006":
			return fleet.Errorf(fleet.KindUnavailable, "%s: the database takes no writes now: %w", what, err)
		case pe.Code.Class() == "08", pe.Code.Class() == "57", pe.Code.Class() == "53":
			return fleet.Errorf(fleet.KindUnavailable, "%s: the database is not available: %w", what, err)
		}
		return fmt.Errorf("%s: %w", what, err)
	}
	var ne net.Error
	if errors.As(err, &ne) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, net.ErrClosed) || isBadConn(err) {
		return fleet.Errorf(fleet.KindUnavailable, "%s: the database does not answer: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// constraintOf returns the name of the constraint that err broke, if any.
func constraintOf(err error) string {
	var pe *pq.Error
	if errors.As(err, &pe) {
		return pe.Constraint
	}
	return ""
}
