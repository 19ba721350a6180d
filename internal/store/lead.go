package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

// leadPoll is how often a process that is not the leader asks whether it may be.
const leadPoll = 5 * time.Second

// errLeadLost is the cause of the end of the context that Lead gives to run.
var errLeadLost = fleet.Errorf(fleet.KindUnavailable, "the connection that held the lead broke: another process may lead now")

// Lead waits until no other process leads under that name, runs run, and gives
// the lead back. The lead is a session advisory lock on a connection of its
// own: when that breaks, run's context ends, and another process may lead
// before run has returned; what run writes must be fenced besides. An idle
// leader costs no statement. Lead returns run's error; ctx's where it ended
// before the lead was had, KindUnavailable where the database does not answer.
func (s *Store) Lead(ctx context.Context, name string, run func(context.Context) error) error {
	c, err := dialLead(primaryOnly(s.url))
	if err != nil {
		return translate("connecting to lead "+name, err)
	}
	defer c.close()
	for {
		had, err := c.try(ctx, name)
		if err != nil {
			return translate("asking for the lead of "+name, err)
		}
		if had {
			return c.run(ctx, run)
		}
		wait := time.NewTimer(time.Duration(float64(leadPoll) * (0.8 + 0.4*rand.Float64())))
		select {
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		case <-c.lost:
			wait.Stop()
			return errLeadLost
		case <-wait.C:
		}
	}
}

// leadConn is a connection that notices its own end without asking: a
// listener's connection reads all the time. Such a connection returns no rows,
// so that answers come as notifications to itself.
type leadConn struct {
	conn    *pq.ListenerConn
	channel string
	answers chan string
	lost    chan struct{} // closed when the connection has ended
}

func dialLead(url string) (*leadConn, error) {
	notes := make(chan *pq.Notification)
	conn, err := pq.NewListenerConn(url, notes)
	if err != nil {
		return nil, err
	}
	c := &leadConn{conn: conn, channel: "dormouse_lead_" + fleet.NewID(), answers: make(chan string, 1), lost: make(chan struct{})}
	go func() {
		defer close(c.lost)
		for n := range notes { // the driver closes it with the connection
			select {
			case c.answers <- n.Extra:
			default: // nobody waits for this one any more
			}
		}
	}()
	if _, err := conn.Listen(c.channel); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// tryLeadSQL asks for the lock and tells the connection itself what came of it.
const tryLeadSQL = `SELECT pg_notify(%s, pg_try_advisory_lock(hashtextextended(%s, 0))::text)`

func (c *leadConn) try(ctx context.Context, name string) (bool, error) {
	query := fmt.Sprintf(tryLeadSQL, pq.QuoteLiteral(c.channel), pq.QuoteLiteral("lead/"+name))
	if _, err := c.conn.ExecSimpleQuery(query); err != nil {
		return false, err
	}
	select {
	case answer := <-c.answers:
		return answer == "true", nil
	case <-c.lost:
		return false, errLeadLost
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func (c *leadConn) run(ctx context.Context, run func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-c.lost:
			cancel(errLeadLost)
		case <-ended:
		}
	}()
	defer func() { close(ended); <-watched; cancel(nil) }()
	err := run(ctx)
	if errors.Is(context.Cause(ctx), errLeadLost) && errors.Is(err, context.Canceled) {
		return errLeadLost
	}
	return err
}

// close ends the connection, and with it the lock.
func (c *leadConn) close() {
	_ = c.conn.Close()
	<-c.lost
}
