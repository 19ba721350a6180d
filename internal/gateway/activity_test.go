package gateway

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// fakeReport keeps what it was told.
type fakeReport struct {
	mu      sync.Mutex
	err     error
	batches [][]fleet.Activity
}

func (f *fakeReport) Activity(_ context.Context, batch []fleet.Activity) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.batches = append(f.batches, batch)
	}
	return f.err
}

// take returns what it was told since the last call.
func (f *fakeReport) take() [][]fleet.Activity {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.batches
	f.batches = nil
	return all
}

func (f *fakeReport) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func TestActivityIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		report := &fakeReport{}
		w := newWorld(t, Options{Report: report})
		w.local.set(w.acme.InstanceID, awake)
		time.Sleep(time.Hour + time.Second) // between two reports
		require.Empty(t, report.take(), "nothing is told at rest")
		pass := w.arrive(t.Context(), head("acme.localhost")).passed(t)
		pass.Meter.Moved(10, 200, time.Now())
		began := time.Now()
		time.Sleep(10 * time.Second)
		told := fleet.Activity{InstallationID: w.acme.InstallationID, Requests: 1, BytesIn: 10, BytesOut: 200, Open: 1, LastAt: began}
		requireTold(t, told, report.take())
		// Open without a byte: once a minute.
		time.Sleep(5 * time.Minute)
		batches := report.take()
		require.Len(t, batches, 5)
		told.Requests, told.BytesIn, told.BytesOut = 0, 0, 0
		requireTold(t, told, batches[:1])
		// Batches that are lost are told later.
		report.fail(errors.New("no database"))
		for range 3 {
			pass.Meter.Moved(1, 1, time.Now())
			time.Sleep(10 * time.Second)
		}
		pass.Done(http.StatusOK, nil)
		ended := time.Now()
		time.Sleep(10 * time.Second)
		report.fail(nil)
		time.Sleep(10 * time.Second)
		told.BytesIn, told.BytesOut, told.Open, told.LastAt = 3, 3, 0, ended
		requireTold(t, told, report.take())
		time.Sleep(time.Hour)
		require.Empty(t, report.take())

		traffic := w.Traffic()
		require.Len(t, traffic, 1)
		told.Requests, told.BytesIn, told.BytesOut = 1, 13, 203
		require.Equal(t, Traffic{Activity: utc(told), Name: "acme", Door: "open"}, func() Traffic {
			seen := traffic[0]
			seen.Activity = utc(seen.Activity)
			return seen
		}())
		time.Sleep(2 * time.Hour)
		require.Empty(t, w.Traffic(), "it is forgotten")
		require.Empty(t, w.doors)
		require.Nil(t, w.visitAcme(t))
	})
}

func utc(a fleet.Activity) fleet.Activity {
	a.LastAt = a.LastAt.UTC().Round(0)
	return a
}

func requireTold(t *testing.T, want fleet.Activity, batches [][]fleet.Activity) {
	t.Helper()
	require.Len(t, batches, 1)
	require.Len(t, batches[0], 1)
	require.Equal(t, utc(want), utc(batches[0][0]))
}

// What may not wake an installation is counted, but is no visit.
func TestProbesAreNoVisits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		report := &fakeReport{}
		w := newWorld(t, Options{Report: report})
		w.acme.Wake.UserAgents = []string{"probe"}
		w.routes.set(w.acme)
		w.local.set(w.acme.InstanceID, awake)
		time.Sleep(time.Second)
		require.Nil(t, w.visitAcme(t))
		visited := time.Now()
		time.Sleep(time.Minute)
		report.take()
		pass := w.arrive(t.Context(), head("acme.localhost", "User-Agent: probe")).passed(t)
		pass.Meter.Moved(1, 2, time.Now())
		time.Sleep(10 * time.Second)
		requireTold(t, fleet.Activity{InstallationID: w.acme.InstallationID, Requests: 1, BytesIn: 1, BytesOut: 2, LastAt: visited}, report.take())
		pass.Done(http.StatusOK, nil)
	})
}

// The last of it is told when the gateway ends.
func TestActivityIsToldAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		report := &fakeReport{}
		local := &fakeLocal{}
		acme := sleeper("acme")
		local.set(acme.InstanceID, awake)
		g := New(Options{Routes: newRoutes(acme), Local: local, Report: report})
		stop := g.keep()
		pass, answer := g.Enter(t.Context(), head("acme.localhost"))
		require.Nil(t, answer)
		pass.Done(http.StatusOK, nil)
		stop()
		require.Len(t, report.take(), 1)
	})
}
