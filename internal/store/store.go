package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

// Options says how to reach the database.
type Options struct {
	// URL is a postgres:// URL or a libpq connection string.
	URL string
	// MaxConns bounds the connections of this pool; 0 is 16.
	MaxConns int
}

// Store is a pool of connections to the database. It is safe for concurrent use.
type Store struct {
	db       *sqlx.DB
	url      string
	prepared sync.Map // query text → *sqlx.Stmt
	moves    moves
}

// Open connects. It fails with KindUnavailable where the database does not
// answer, and where it is a read-only standby.
func Open(ctx context.Context, opts Options) (*Store, error) {
	db, err := sqlx.Open("postgres", opts.URL)
	if err != nil {
		return nil, fleet.Errorf(fleet.KindInvalid, "reading the database URL: %w", err)
	}
	if opts.MaxConns == 0 {
		opts.MaxConns = 16
	}
	db.SetMaxOpenConns(opts.MaxConns)
	db.SetMaxIdleConns(opts.MaxConns)
	db.SetConnMaxIdleTime(5 * time.Minute)
	s := &Store{db: db, url: opts.URL, moves: allMoves()}
	if err := s.Ping(ctx); err != nil {
		_ = db.Close()
		return nil, err
	}
	return s, nil
}

// Close closes all connections.
func (s *Store) Close() error { return s.db.Close() }

const pingSQL = `SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only') = 'on' AS read_only`

// Ping fails with KindUnavailable unless the database accepts writes.
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
	tx *sqlx.Tx
	s  *Store
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
	return err
}

func (s *Store) once(ctx context.Context, f func(*Tx) error) error {
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
		p, err := t.s.db.PreparexContext(ctx, query)
		if err != nil {
			return nil, err
		}
		var raced bool
		if have, raced = t.s.prepared.LoadOrStore(query, p); raced {
			_ = p.Close()
		}
	}
	return t.tx.StmtxContext(ctx, have.(*sqlx.Stmt)), nil
}

// get reads one row; fleet.KindNotFound where there is none.
func (t *Tx) get(ctx context.Context, what string, dest any, query string, args ...any) error {
	st, err := t.stmt(ctx, query)
	if err == nil {
		err = st.GetContext(ctx, dest, args...)
	}
	return translate(what, err)
}

// list reads all rows.
func (t *Tx) list(ctx context.Context, what string, dest any, query string, args ...any) error {
	st, err := t.stmt(ctx, query)
	if err == nil {
		err = st.SelectContext(ctx, dest, args...)
	}
	return translate(what, err)
}

// exec returns the number of rows changed.
func (t *Tx) exec(ctx context.Context, what, query string, args ...any) (int64, error) {
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
		case pe.Code.Class() == "08", pe.Code.Class() == "57", pe.Code.Class() == "53", pe.Code == "25006":
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
