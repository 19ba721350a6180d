package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

// connector opens sessions with the primary only. A session with a standby
// would answer reads from yesterday, and hand out advisory locks that exclude nobody.
type connector struct{ *pq.Connector }

// newConnector reads a database URL. Of several hosts in it, the one that takes
// writes is connected to.
//
// It turns the server's compilation of statements off, unless the URL says
// otherwise. The planner does not know the limit of a prepared statement and takes
// it for a tenth of a table: with jit on, as Postgres has it by default, a page out
// of 1,000,000 installations was compiled anew, for a second or more, whenever
// it was read.
func newConnector(at string, d pq.Dialer) (connector, error) {
	cfg, err := pq.NewConfig(at)
	if err != nil {
		return connector{}, fleet.Errorf(fleet.KindInvalid, "reading the database URL: %w", err)
	}
	if _, said := cfg.Runtime["jit"]; !said {
		cfg = cfg.Clone() // makes the map
		cfg.Runtime["jit"] = "off"
	}
	cfg.TargetSessionAttrs = pq.TargetSessionAttrsReadWrite
	c, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return connector{}, fleet.Errorf(fleet.KindInvalid, "reading the database URL: %w", err)
	}
	c.Dialer(d)
	return connector{c}, nil
}

// Connect implements driver.Connector.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, explainConnect(err)
	}
	all, ok := conn.(pqConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("connecting to the database: a session of the driver (%T) can do less than it could", conn), conn.Close())
	}
	return session{all}, nil
}

// explainConnect says what to do where the server is there and takes no writes;
// the driver has no type for that.
func explainConnect(err error) error {
	switch text := err.Error(); {
	case strings.Contains(text, "hot standby mode"):
		return fleet.Errorf(fleet.KindUnavailable, "the database is a read-only standby; name the primary with --database: %w", err)
	case strings.Contains(text, "session is read-only"):
		return fleet.Errorf(fleet.KindUnavailable,
			"the database takes no writes (default_transaction_read_only is on): turn it off, or name another with --database: %w", err)
	}
	return err
}

// pqConn is what database/sql uses of the driver's sessions.
type pqConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// session hides the driver's BeginTx, which says READ WRITE and so overrules a
// server that was told to take no writes (default_transaction_read_only, as in a
// switch-over). Begin says BEGIN and nothing else.
type session struct{ pqConn }

// primaryOnly is the URL for connections that are not of the pool.
func primaryOnly(at string) string {
	const key, value = "target_session_attrs", string(pq.TargetSessionAttrsReadWrite)
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return at + " " + key + "=" + value
	}
	q := u.Query()
	q.Set(key, value)
	u.RawQuery = q.Encode()
	return u.String()
}

// isReadOnly tells whether the server refused a write because it takes none.
func isReadOnly(err error) bool {
	var pe *pq.Error
	return errors.As(err, &pe) && pe.Code == "25006"
}

// shed closes the sessions that nobody uses at this moment: one that was found
// to take no writes is among them, and would stay in the pool for ever.
func (s *Store) shed() {
	s.db.SetMaxIdleConns(0)
	s.db.SetMaxIdleConns(s.maxConns)
}
