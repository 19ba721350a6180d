package store

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func ids(snaps []fleet.Snapshot) []fleet.OperationID {
	var out []fleet.OperationID
	for _, s := range snaps {
		out = append(out, s.Operation.ID)
	}
	return out
}

func TestClaimByClassAndExecutor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	var ops []fleet.OperationID
	for i := range 6 {
		ops = append(ops, w.create(fmt.Sprintf("i%d", i)).Operation.ID)
	}
	w.sqlExec(t, "UPDATE operation SET class = 1 WHERE id = ANY ($1)", "{"+string(ops[0])+","+string(ops[1])+","+string(ops[2])+"}")
	w.sqlExec(t, "UPDATE operation SET executor = 'host-a' WHERE id = $1", ops[5])
	claim := func(in fleet.ClaimRequest) []fleet.OperationID {
		in.Worker, in.Lease = "w1", time.Minute
		s, err := w.Claim(ctx, in)
		require.NoError(t, err)
		return ids(s)
	}
	require.Equal(t, []fleet.OperationID{ops[3]}, claim(fleet.ClaimRequest{Interactive: 1, Bulk: 1}), "bulk gets what interactive work leaves")
	require.Equal(t, []fleet.OperationID{ops[4], ops[0]}, claim(fleet.ClaimRequest{Interactive: 10, Bulk: 1}), "interactive first; not another host's")
	require.Empty(t, claim(fleet.ClaimRequest{Interactive: 10}), "no bulk where none is asked for")
	require.Equal(t, []fleet.OperationID{ops[1], ops[2]}, claim(fleet.ClaimRequest{Interactive: 10, Bulk: 10, Executors: []fleet.HostID{"host-b"}}))
	require.Equal(t, []fleet.OperationID{ops[5]}, claim(fleet.ClaimRequest{Interactive: 10, Executors: []fleet.HostID{"host-b", "host-a"}}))
	require.Empty(t, claim(fleet.ClaimRequest{Interactive: 10, Bulk: 10, Executors: []fleet.HostID{"host-a"}}), "all are leased")
}

func TestLeases(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	w.create("hello")
	first := w.claimOne()
	require.Empty(t, w.claim())
	held := map[fleet.OperationID]fleet.Epoch{first.Operation.ID: first.Operation.Epoch, "none": 1}
	still, err := w.Extend(ctx, held, time.Hour)
	require.NoError(t, err)
	require.Equal(t, map[fleet.OperationID]bool{first.Operation.ID: true}, still)

	// Time passes: the lease ends, another worker takes over, and the first is told.
	w.sqlExec(t, "CREATE OR REPLACE FUNCTION dormouse_now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT now() + interval ''2 hours'''")
	s, err := w.Claim(ctx, claimRequest("w2"))
	require.NoError(t, err)
	require.Len(t, s, 1)
	require.Greater(t, s[0].Operation.Epoch, first.Operation.Epoch)
	require.Equal(t, fleet.WorkerID("w2"), s[0].Operation.Worker)
	require.Equal(t, first.Operation.StartedAt.UTC(), s[0].Operation.StartedAt.UTC())
	still, err = w.Extend(ctx, held, time.Hour)
	require.NoError(t, err)
	require.Empty(t, still)
	require.True(t, w.commit(finish(first, fleet.StateStable))[0].Stale)

	// A worker that starts again gives back what it held, and only that.
	n, err := w.Release(ctx, "w1")
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = w.Release(ctx, "w2")
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.Len(t, w.claim(), 1)
}

func TestSignalledIsClaimedBeforeItIsDue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	w.create("hello")
	s := w.claimOne()
	in := claimRequest("w1")
	in.Signalled = []fleet.OperationID{s.Operation.ID, "none"}
	claimed, err := w.Claim(ctx, in)
	require.NoError(t, err)
	require.Empty(t, claimed, "not from under the worker that has it")
	r := step(s, fleet.Changes{})
	r.Keep, r.DueMillis, r.WaitReason, r.WaitDetail = false, 3_600_000, fleet.WaitHealthy, "starting"
	w.commit(r)
	require.Equal(t, fleet.WaitHealthy, w.installation("hello").Operation.WaitReason)
	require.Empty(t, w.claim())
	claimed, err = w.Claim(ctx, in)
	require.NoError(t, err)
	require.Len(t, claimed, 1)
	require.Equal(t, fleet.WaitHealthy, claimed[0].Operation.WaitReason, "a deadline says what it waited for")
	w.commit(step(claimed[0], fleet.Changes{}))
	require.Empty(t, w.installation("hello").Operation.WaitReason)
}

func TestTwoWorkersShareWithoutOverlap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 200 {
		w.create(fmt.Sprintf("i%d", i))
	}
	var mu sync.Mutex
	by := map[fleet.OperationID]fleet.WorkerID{}
	for _, err := range together(4, func(i int) error {
		worker := fleet.WorkerID(fmt.Sprintf("w%d", i))
		for misses := 0; misses < 3; {
			s, err := w.Claim(context.Background(), fleet.ClaimRequest{Worker: worker, Interactive: 7, Lease: time.Hour})
			if err != nil {
				return err
			}
			if len(s) == 0 {
				misses++
			}
			mu.Lock()
			for _, id := range ids(s) {
				if other, taken := by[id]; taken {
					mu.Unlock()
					return fmt.Errorf("%s claimed %s, which %s has", worker, id, other)
				}
				by[id] = worker
			}
			mu.Unlock()
		}
		return nil
	}) {
		require.NoError(t, err)
	}
	require.Len(t, by, 200)
}

// One row that can't be read stops only itself, and can be ended.
func TestMalformedRowStopsOnlyItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.create("bad")
	w.create("good")
	w.sqlExec(t, `UPDATE installation SET env = '{"A": {"nested": 1}}' WHERE name = 'bad'`)
	snaps := w.claim()
	require.Len(t, snaps, 2)
	for _, s := range snaps {
		require.NotEmpty(t, s.Operation.ID)
		require.Equal(t, fleet.StateCreationInProgress, s.Installation.State)
		require.NotNil(t, s.Cluster)
		if s.Installation.Name == "good" {
			require.Empty(t, s.Malformed)
			continue
		}
		require.Contains(t, s.Malformed, "decoding a stored JSON column")
		r := finish(s, fleet.StateCreationFailed)
		r.State = fleet.OperationFailed
		require.False(t, w.commit(r)[0].Stale)
	}
}

// While every process was down, nothing can have been late: what was due then, or
// held by who died, has as much time left as it had.
func TestDeadlinesMoveByTheTimeInWhichNobodyLooked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := func(offset string) {
		w.sqlExec(t, fmt.Sprintf("CREATE OR REPLACE FUNCTION dormouse_now() RETURNS timestamptz LANGUAGE sql STABLE AS "+
			"$$SELECT timestamptz '2031-05-06 07:00Z' + interval '%s'$$", offset))
	}
	at("0")
	for _, name := range []string{"due", "held", "signalled"} {
		w.create(name)
	}
	for _, s := range w.claim() {
		r := step(s, fleet.Changes{})
		r.DeadlineMillis, r.DueMillis = time.Minute.Milliseconds(), (10 * time.Second).Milliseconds()
		r.Keep = s.Installation.Name == "held"
		require.False(t, w.commit(r)[0].Stale)
	}
	left := func(name string) string {
		return w.text(t, "SELECT (step_deadline_at - dormouse_now())::text FROM operation WHERE resource_name = $1", name)
	}
	at("5 seconds")
	s, err := w.Claim(context.Background(), fleet.ClaimRequest{Worker: "w1", Signalled: []fleet.OperationID{w.installation("signalled").Operation.ID}, Lease: 55 * time.Second})
	require.NoError(t, err)
	require.Len(t, s, 1)
	require.Equal(t, 55*time.Second, s[0].Operation.StepDeadlineAt.Sub(s[0].Now), "it was not due yet")

	at("1 hour")
	n, err := w.Release(context.Background(), "w1")
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	require.Equal(t, "00:00:50", left("held"))
	require.Equal(t, "00:00:00", left("signalled"), "its lease ran to the deadline")
	at("2 hours")
	require.Len(t, w.claim(), 3)
	require.Equal(t, "00:00:50", left("held"))
	require.Equal(t, "00:00:50", left("due"))
}
