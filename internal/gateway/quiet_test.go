package gateway

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway/wire"
)

func requireVisited(t *testing.T, err error) {
	t.Helper()
	require.Equal(t, fleet.KindConflict, fleet.KindOf(err))
	var e *fleet.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, fleet.ReasonVisited, e.Reason)
}

// upgrade is a request whose connection lasts.
func upgrade() *wire.Head { return head("acme.localhost", "Upgrade: websocket") }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestAnIdleHibernationGivesWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		id, idle := w.acme.InstallationID, QuiesceOptions{Yield: true, IdleFor: time.Minute}
		w.local.set(w.acme.InstanceID, awake)
		for _, h := range []*wire.Head{head("acme.localhost"), upgrade()} {
			pass := w.arrive(t.Context(), h).passed(t)
			time.Sleep(time.Hour)
			_, err := w.Quiesce(t.Context(), id, idle)
			requireVisited(t, err)
			require.False(t, isClosed(pass.Break))
			pass.Done(http.StatusOK, nil)
			_, err = w.Quiesce(t.Context(), id, idle)
			requireVisited(t, err)
			require.ErrorContains(t, err, "somebody came 0s ago")
			time.Sleep(time.Minute)
		}
		q, err := w.Quiesce(t.Context(), id, idle)
		require.NoError(t, err)
		_, err = w.Quiesce(t.Context(), id, idle)
		require.Equal(t, fleet.KindConflict, fleet.KindOf(err), "one at a time")
		require.False(t, isClosed(q.Arrived()))
		a := w.arrive(t.Context(), head("acme.localhost"))
		<-q.Arrived()
		require.True(t, a.waiting())
		time.Sleep(50 * time.Millisecond)
		q.Release() // the saving was given up
		a.passed(t).Done(http.StatusOK, nil)
		require.Equal(t, 50*time.Millisecond, a.after)
		require.Zero(t, w.waker.count())
		q.Release()
	})
}

func TestWhoComesTooLateToCancelWakesIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		w.local.set(w.acme.InstanceID, awake)
		for _, yield := range []bool{true, false} {
			q, err := w.Quiesce(t.Context(), w.acme.InstallationID, QuiesceOptions{Yield: yield})
			require.NoError(t, err)
			a := w.arrive(t.Context(), head("acme.localhost"))
			synctest.Wait()
			require.Equal(t, yield, isClosed(q.Arrived()))
			w.local.set(w.acme.InstanceID, sleeping)
			q.Release()
			a.passed(t).Done(http.StatusOK, nil)
		}
		require.Equal(t, 2, w.waker.count())
	})
}

func TestAHibernationThatWasAskedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		w.local.set(w.acme.InstanceID, awake)
		short := w.arrive(t.Context(), head("acme.localhost")).passed(t)
		stuck := w.arrive(t.Context(), head("acme.localhost")).passed(t)
		long := w.arrive(t.Context(), upgrade()).passed(t)
		begin := time.Now()
		quiet := make(chan *Quiet)
		go func() {
			q, err := w.Quiesce(t.Context(), w.acme.InstallationID, QuiesceOptions{})
			require.NoError(t, err)
			quiet <- q
		}()
		<-long.Break // at once
		require.Zero(t, time.Since(begin))
		long.Done(http.StatusSwitchingProtocols, nil)
		a := w.arrive(t.Context(), head("acme.localhost"))
		time.Sleep(time.Second)
		short.Done(http.StatusOK, nil)
		<-stuck.Break
		require.Equal(t, 10*time.Second, time.Since(begin))
		require.True(t, a.waiting())
		stuck.Done(0, nil)
		q := <-quiet
		w.local.set(w.acme.InstanceID, sleeping)
		q.Release()
		again := a.passed(t)
		require.Equal(t, 1, w.waker.count())
		require.False(t, isClosed(again.Break), "what comes afterwards is not broken off")
		again.Done(http.StatusOK, nil)
	})
}

func TestQuiesceGivesUpWithItsCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		w.local.set(w.acme.InstanceID, awake)
		pass := w.arrive(t.Context(), head("acme.localhost")).passed(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		a := w.arrive(t.Context(), head("acme.localhost"))
		<-a.done
		_, err := w.Quiesce(ctx, w.acme.InstallationID, QuiesceOptions{})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Nil(t, w.visitAcme(t), "the door is open again")
		pass.Done(0, nil)
	})
}

// A hibernation that is asked for while a visit wakes the machine waits for that.
func TestQuiesceWaitsForAWake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		a := w.arrive(t.Context(), head("acme.localhost"))
		synctest.Wait()
		_, err := w.Quiesce(t.Context(), w.acme.InstallationID, QuiesceOptions{Yield: true})
		requireVisited(t, err)
		begin := time.Now()
		q, err := w.Quiesce(t.Context(), w.acme.InstallationID, QuiesceOptions{})
		require.NoError(t, err)
		require.Equal(t, w.waker.takes, time.Since(begin))
		synctest.Wait()
		require.True(t, a.waiting())
		w.local.set(w.acme.InstanceID, sleeping)
		q.Release()
		a.passed(t).Done(http.StatusOK, nil)
		require.Equal(t, 2, w.waker.count())
	})
}

// Probes that may not wake an installation do not keep it from sleeping either.
func TestProbesDoNotKeepItAwake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		w.acme.Wake = fleet.WakeRules{Paths: []string{"/path"}}
		w.routes.set(w.acme)
		w.local.set(w.acme.InstanceID, awake)
		probe := w.arrive(t.Context(), head("acme.localhost")).passed(t)
		go func() { <-probe.Break; probe.Done(0, nil) }()
		begin := time.Now()
		q, err := w.Quiesce(t.Context(), w.acme.InstallationID, QuiesceOptions{Yield: true, IdleFor: time.Minute})
		require.NoError(t, err)
		require.Equal(t, 10*time.Second, time.Since(begin), "one in flight has its time to end")
		a := w.arrive(t.Context(), head("acme.localhost"))
		synctest.Wait()
		require.True(t, a.waiting())
		require.False(t, isClosed(q.Arrived()))
		w.local.set(w.acme.InstanceID, sleeping)
		q.Release()
		<-a.done
		require.Equal(t, "may-not-wake; path", a.answer.Header.Get(ReasonHeader))
		require.Zero(t, w.waker.count())
	})
}

func TestAnArrivalCancelsAQuiesceThatWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		w.acme.Wake = fleet.WakeRules{UserAgents: []string{"probe"}}
		w.routes.set(w.acme)
		w.local.set(w.acme.InstanceID, awake)
		probe := w.arrive(t.Context(), head("acme.localhost", "User-Agent: probe")).passed(t)
		begin := time.Now()
		time.AfterFunc(time.Second, func() { w.arrive(t.Context(), head("acme.localhost")).passed(t).Done(http.StatusOK, nil) })
		_, err := w.Quiesce(t.Context(), w.acme.InstallationID, QuiesceOptions{Yield: true})
		requireVisited(t, err)
		require.Equal(t, time.Second, time.Since(begin))
		require.False(t, isClosed(probe.Break))
		probe.Done(http.StatusOK, nil)
	})
}

// A visitor who looked its route up before a change looks again at the door.
func TestAVisitorWithAnOldRoute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		w.routes.set(stable("far", "a:1"))
		synctest.Wait()
		e, err := w.book.find(t.Context(), "far.localhost")
		require.NoError(t, err)
		v := &visit{head: head("far.localhost"), host: "far.localhost", begin: time.Now(), entry: e}
		q, err := w.Quiesce(t.Context(), "i-far", QuiesceOptions{})
		require.NoError(t, err)
		q.Release()
		pass, until, why := w.door("i-far").try(v)
		require.Nil(t, pass)
		require.Nil(t, why)
		require.True(t, isClosed(until))
	})
}
