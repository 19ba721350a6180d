package idle

import (
	"context"
	"database/sql"
	"io"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/pgtest"
	"dormouse/internal/store"
)

var now = time.Date(2026, 6, 1, 20, 0, 30, 0, time.UTC)

// fake is a store that is asked and does what it is told.
type fake struct {
	candidates []fleet.IdleCandidate
	changes    []fleet.Change
	seen       []fleet.ScheduleSeen
	asked      int
	refuse     map[fleet.InstallationID]error
	away       error
}

func (f *fake) IdleCandidates(_ context.Context, limit int) ([]fleet.IdleCandidate, error) {
	f.asked++
	return f.candidates[:min(limit, len(f.candidates))], f.away
}

func (f *fake) SchedulesSeen(_ context.Context, seen []fleet.ScheduleSeen) error {
	f.seen = append(f.seen, seen...)
	return nil
}

func (f *fake) ChangeInstallation(_ context.Context, c fleet.Change) (fleet.Accepted, error) {
	f.changes = append(f.changes, c)
	return fleet.Accepted{}, f.refuse[fleet.InstallationID(c.IDOrName)]
}

// manual is a clock that a test moves; a pause that begins is told of.
type manual struct{ pauses chan func() }

func (m manual) AfterFunc(_ time.Duration, f func()) (stop func()) {
	m.pauses <- f
	return func() {}
}

func quiet() logrus.FieldLogger {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return l
}

func loop(s Store) *Loop { return New(Options{Store: s, Log: quiet()}) }

var night = fleet.Schedule{Cron: "0 22 * * *", Zone: "Europe/Berlin", Do: fleet.OperationHibernate}

func due(id string, since time.Duration, schedules ...fleet.Schedule) fleet.IdleCandidate {
	c := fleet.IdleCandidate{InstallationID: fleet.InstallationID(id), Version: 3, Now: now, ScheduleDueAt: now.Add(-time.Second)}
	if since > 0 {
		c.ScheduleSeenAt = now.Add(-since)
	}
	c.Policy.Schedules = schedules
	return c
}

func TestRoundAsksForWhatIsIdle(t *testing.T) {
	t.Parallel()
	f := &fake{candidates: []fleet.IdleCandidate{{InstallationID: "a", Version: 7, Idle: true, Now: now}, {InstallationID: "b", Version: 1, Idle: true, Now: now}}}
	require.NoError(t, loop(f).Round(t.Context()))
	require.Len(t, f.changes, 2)
	c := f.changes[0]
	require.Equal(t, []any{"a", int64(7), fleet.OperationHibernate, fleet.ClassBulk, map[string]string{fleet.ObservedIdle: fleet.IdleVisits}},
		[]any{c.IDOrName, c.IfMatch, c.Kind, c.Class, c.Observed})
	require.Empty(t, f.seen)
	require.NoError(t, loop(f).Round(t.Context()))
	require.Equal(t, c.Key, f.changes[2].Key, "one decision, one key")
	require.NotEqual(t, c.Key, f.changes[1].Key)
	f.candidates[0].Version = 8
	require.NoError(t, loop(f).Round(t.Context()))
	require.NotEqual(t, c.Key, f.changes[4].Key, "another decision")
}

func TestRoundCarriesSchedulesOut(t *testing.T) {
	t.Parallel()
	day := fleet.Schedule{Cron: "0 8 * * *", Zone: "Europe/Berlin", Do: fleet.OperationWake}
	never := due("never", time.Hour, night)
	never.Policy.Never = true
	f := &fake{candidates: []fleet.IdleCandidate{
		due("new", 0, night), due("night", time.Hour, night, day), due("missed", 14*24*time.Hour, night, day), due("early", 10*time.Second, night), never, due("none", time.Hour),
		{InstallationID: "idle", Version: 1, Idle: true, Now: now}}}
	require.NoError(t, loop(f).Round(t.Context()))
	var asked []string
	for _, c := range f.changes {
		asked = append(asked, c.IDOrName+" "+string(c.Kind))
	}
	require.Equal(t, []string{"night hibernate", "missed hibernate", "idle hibernate"}, asked, "a missed one once, a new one not before its time")
	require.Zero(t, f.changes[0].IfMatch)
	require.Equal(t, fleet.IdleSchedule, f.changes[0].Observed[fleet.ObservedIdle], "it gives way to whoever is there")
	require.Len(t, f.seen, 6)
	for _, s := range f.seen {
		require.Equal(t, []time.Time{now, now.Add(-time.Second)}, []time.Time{s.SeenAt, s.Due}, s.InstallationID)
	}
	require.Equal(t, "2026-06-02T20:00:00Z", f.seen[0].NextAt.UTC().Format(time.RFC3339))
	require.Equal(t, "2026-06-02T06:00:00Z", f.seen[1].NextAt.UTC().Format(time.RFC3339))
	require.True(t, f.seen[5].NextAt.IsZero())
	// Seen again before that was recorded: it is the same request.
	require.NoError(t, loop(f).Round(t.Context()))
	require.Equal(t, f.changes[0].Key, f.changes[3].Key)
	require.Equal(t, f.changes[0].Key.RequestHash, f.changes[3].Key.RequestHash)
}

func TestRoundGoesOnAfterARefusal(t *testing.T) {
	t.Parallel()
	for kind, goesOn := range map[fleet.ErrorKind]bool{fleet.KindStale: true, fleet.KindNotAccepted: true, fleet.KindNotFound: true, fleet.KindConflict: true,
		fleet.KindInternal: true, fleet.KindUnavailable: false} {
		f := &fake{candidates: []fleet.IdleCandidate{due("a", time.Hour, night), due("b", time.Hour, night), {InstallationID: "c", Idle: true}},
			refuse: map[fleet.InstallationID]error{"b": fleet.Errorf(kind, "no")}}
		err := loop(f).Round(t.Context())
		require.Equal(t, goesOn, err == nil, kind)
		if goesOn {
			require.Len(t, f.changes, 3, kind)
			require.Len(t, f.seen, 2, kind)
		} else {
			require.Len(t, f.seen, 1, "what was carried out is recorded; the rest is due still")
		}
	}
}

func TestRunAsksOnceAMinute(t *testing.T) {
	t.Parallel()
	f, clock := &fake{away: fleet.Errorf(fleet.KindUnavailable, "away")}, manual{make(chan func())}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	l := New(Options{Store: f, Clock: clock, Log: quiet()})
	require.Equal(t, time.Minute, l.o.Every)
	go func() { ended <- l.Run(ctx) }()
	for range 3 {
		(<-clock.pauses)()
	}
	<-clock.pauses
	require.Equal(t, 4, f.asked, "it goes on though the database was away")
	cancel()
	require.NoError(t, <-ended)
}

// On the real store: asked once, and bulk.
func TestRoundOnTheRealStore(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := pgtest.NewMigrated(t, func(ctx context.Context, url string) error { _, _, err := store.Migrate(ctx, url); return err })
	s, err := store.Open(ctx, store.Options{URL: url})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	_, err = s.CreateCluster(ctx, fleet.NewCluster{ID: fleet.ClusterID(fleet.NewID()), OperationID: fleet.OperationID(fleet.NewID()), Name: "local", Provider: fleet.ProviderSim})
	require.NoError(t, err)
	claim := func() []fleet.Snapshot {
		got, err := s.Claim(ctx, fleet.ClaimRequest{Worker: "w", Interactive: 10, Bulk: 10, Lease: time.Minute})
		require.NoError(t, err)
		return got
	}
	finish := func(o fleet.Operation, r fleet.Result) {
		r.OperationID, r.Epoch, r.State, r.Step, r.StepNumber, r.StepsTotal, r.Done = o.ID, o.Epoch, fleet.OperationSucceeded, "last", 1, 1, "last"
		c, err := s.Commit(ctx, []fleet.Result{r})
		require.NoError(t, err)
		require.False(t, c[0].Stale)
	}
	c := claim()[0]
	finish(c.Operation, fleet.Result{ClusterID: c.Cluster.ID, From: string(c.Cluster.State), To: string(fleet.ClusterStable)})
	_, err = s.CreatePackage(ctx, fleet.Package{Name: "web", Version: "1", Digest: "d", Kernel: fleet.KernelLinux, Manifest: fleet.Manifest{Program: "/web"}})
	require.NoError(t, err)
	in := fleet.NewInstallation{ID: fleet.InstallationID(fleet.NewID()), OperationID: fleet.OperationID(fleet.NewID()), Name: "hello", Owner: "acme",
		PackageRef: "web", MemoryMiB: 64, DiskMiB: 64, VCPUs: 1, WhenFull: fleet.WhenFullWait}
	in.Idle = fleet.IdlePolicy{IdleAfterSeconds: 60, Schedules: []fleet.Schedule{night}}
	_, err = s.CreateInstallation(ctx, in)
	require.NoError(t, err)
	c = claim()[0]
	finish(c.Operation, fleet.Result{InstallationID: in.ID, From: string(c.Installation.State), To: string(fleet.StateStable)})

	l := loop(s)
	require.NoError(t, l.Round(ctx), "it looks at the schedule")
	left, err := s.IdleCandidates(ctx, 10)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Empty(t, claim(), "it has just woken")
	require.NoError(t, s.RecordActivity(ctx, []fleet.Activity{{InstallationID: in.ID, LastAt: time.Now().Add(-time.Hour), Requests: 1}}))
	// What has slept and woken an hour ago is idle.
	db, err := sql.Open("postgres", url)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.ExecContext(ctx, "UPDATE installation SET awake_since = awake_since - interval '1 hour'")
	require.NoError(t, err)
	require.NoError(t, l.Round(ctx))
	require.NoError(t, l.Round(ctx))
	got := claim()
	require.Len(t, got, 1)
	require.Equal(t, []any{fleet.OperationHibernate, fleet.ClassBulk, fleet.IdleVisits, fleet.StateHibernationInProgress},
		[]any{got[0].Operation.Kind, got[0].Operation.Class, got[0].Operation.Observed[fleet.ObservedIdle], got[0].Installation.State})
}
