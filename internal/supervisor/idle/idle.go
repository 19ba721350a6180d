package idle

import (
	"context"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
)

// Store is what the loop needs of the database.
type Store interface {
	// IdleCandidates returns at most limit that are idle, and as many whose schedules are due.
	IdleCandidates(ctx context.Context, limit int) ([]fleet.IdleCandidate, error)
	// SchedulesSeen records how far schedules have been carried out.
	SchedulesSeen(ctx context.Context, seen []fleet.ScheduleSeen) error
	ChangeInstallation(ctx context.Context, in fleet.Change) (fleet.Accepted, error)
}

// Clock lets time pass. What time it is comes from the database.
type Clock interface {
	// AfterFunc calls f once after d; the returned function takes that back.
	AfterFunc(d time.Duration, f func()) (stop func())
}

// Options configure a Loop.
type Options struct {
	Store Store
	Clock Clock
	Log   logrus.FieldLogger
	// Every is the time between two rounds; 0 is a minute.
	Every time.Duration
	// AtOnce bounds how many one round puts to sleep because they are idle, and how
	// many schedules it carries out; 0 is 600.
	AtOnce int
}

// Loop asks who is idle, round after round.
type Loop struct{ o Options }

// New returns a loop.
func New(o Options) *Loop {
	if o.Every == 0 {
		o.Every = time.Minute
	}
	if o.AtOnce == 0 {
		o.AtOnce = 600
	}
	return &Loop{o}
}

// Run makes a round at once and then one after each pause, until ctx ends, and
// returns nil then. A round that fails is made up for by the next one.
func (l *Loop) Run(ctx context.Context) error {
	for {
		if err := l.Round(ctx); err != nil && ctx.Err() == nil {
			l.o.Log.WithError(err).Warn("looking for idle installations; the next round tries again")
		}
		tick := make(chan struct{})
		stop := l.o.Clock.AfterFunc(l.o.Every, func() { close(tick) })
		select {
		case <-ctx.Done():
			stop()
			return nil
		case <-tick:
		}
	}
}

// Round asks once, and requests what is due. Where nothing is, it costs one query.
// It ends early where the database is away.
func (l *Loop) Round(ctx context.Context) error {
	candidates, err := l.o.Store.IdleCandidates(ctx, l.o.AtOnce)
	if err != nil {
		return fmt.Errorf("asking who is idle: %w", err)
	}
	seen, err := l.schedules(ctx, candidates)
	if errSeen := l.o.Store.SchedulesSeen(ctx, seen); len(seen) > 0 && errSeen != nil {
		return fmt.Errorf("recording schedules: %w", errSeen)
	}
	if err != nil {
		return err
	}
	asked := 0
	for _, c := range candidates {
		if !c.Idle {
			continue
		}
		ok, err := l.ask(ctx, fleet.OperationHibernate, fleet.Change{
			IDOrName: string(c.InstallationID), IfMatch: c.Version, // whatever has happened since: it is not idle
			Key: key("idle", string(c.InstallationID), fmt.Sprint(c.Version)),
		})
		if err != nil {
			return err
		}
		if ok {
			asked++
		}
	}
	if asked > 0 {
		l.o.Log.WithField("installations", asked).Info("put to sleep what nobody visits")
	}
	return nil
}

// schedules carries out what is due, and returns how far it came.
func (l *Loop) schedules(ctx context.Context, candidates []fleet.IdleCandidate) (seen []fleet.ScheduleSeen, err error) {
	for _, c := range candidates {
		if c.Idle {
			continue
		}
		if !c.ScheduleSeenAt.IsZero() {
			what, at := last(c.Policy.Schedules, c.ScheduleSeenAt, c.Now)
			if !at.IsZero() && !(what.Do == fleet.OperationHibernate && c.Policy.Never) {
				if _, err := l.ask(ctx, what.Do, fleet.Change{IDOrName: string(c.InstallationID),
					Key: key("schedule", string(c.InstallationID), string(what.Do), at.UTC().Format(time.RFC3339))}); err != nil {
					return seen, err
				}
			}
		}
		_, next := Schedules{}.Next(c.Policy.Schedules, c.Now)
		seen = append(seen, fleet.ScheduleSeen{InstallationID: c.InstallationID, Due: c.ScheduleDueAt, SeenAt: c.Now, NextAt: next})
	}
	return seen, nil
}

// ask requests one thing. False says that it does not fit any more, or never did
// (what sleeps already is not put to sleep): that is no error.
func (l *Loop) ask(ctx context.Context, kind fleet.OperationKind, c fleet.Change) (bool, error) {
	c.OperationID, c.Kind, c.Class = fleet.OperationID(fleet.NewID()), kind, fleet.ClassBulk
	if kind == fleet.OperationHibernate {
		c.Observed = map[string]string{fleet.ObservedIdle: fleet.IdleSchedule}
		if c.IfMatch != 0 { // only what was decided on visits holds for one version
			c.Observed[fleet.ObservedIdle] = fleet.IdleVisits
		}
	}
	_, err := l.o.Store.ChangeInstallation(ctx, c)
	log := l.o.Log.WithError(err).WithField("installation", c.IDOrName).WithField("kind", kind)
	switch fleet.KindOf(err) {
	case "":
		return true, nil
	case fleet.KindStale, fleet.KindNotAccepted, fleet.KindNotFound, fleet.KindConflict:
		log.Debug("it does not fit")
		return false, nil
	case fleet.KindUnavailable:
		return false, fmt.Errorf("requesting a %s: %w", kind, err)
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	log.Warn("requesting what an idle policy asks for")
	return false, nil
}

// key is a request's, made of what it was decided on. No client of the API can send
// one that begins so.
func key(parts ...string) fleet.IdempotencyKey {
	id := fleet.DeriveID(parts...)
	return fleet.IdempotencyKey{Key: "\x01idle/" + id, RequestHash: id}
}
