package gateway

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestOneWakeHoweverManyWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		var all []*arrival
		for range releaseAtOnce {
			all = append(all, w.arrive(t.Context(), head("acme.localhost")))
		}
		synctest.Wait()
		require.EqualValues(t, releaseAtOnce, w.Load().Held)
		for _, a := range all {
			pass := a.passed(t)
			require.Equal(t, "10.0.0.2:80", pass.Address)
			require.Equal(t, w.waker.takes, a.after)
		}
		require.Equal(t, 1, w.waker.count())
		require.Equal(t, Load{Open: releaseAtOnce}, w.Load())
		time.Sleep(5 * time.Millisecond)
		for _, a := range all {
			a.pass.Answered()
			a.pass.Done(http.StatusOK, nil)
		}
		require.Zero(t, w.Load())
		require.Equal(t, 1, w.metrics.count("wake served"))
		require.Equal(t, map[Phase]time.Duration{PhaseQueue: 0, PhaseRestore: 100 * time.Millisecond, PhaseReady: 100 * time.Millisecond,
			PhaseFirstByte: 5 * time.Millisecond, PhaseAll: 205 * time.Millisecond}, w.metrics.phases)
		require.Nil(t, w.visitAcme(t), "it is awake")
		require.Equal(t, 1, w.waker.count())
	})
}

// A small machine that has just woken up is not asked by all at once: a thousand
// requests took more memory than it had, again and again.
func TestManyAreLetGoInPortions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		waiting := map[*arrival]bool{}
		for range 200 {
			waiting[w.arrive(t.Context(), head("acme.localhost"))] = true
		}
		synctest.Wait()
		time.Sleep(w.waker.takes)
		for most := int64(0); len(waiting) > 0; {
			synctest.Wait()
			most = max(most, w.Load().Open)
			require.EqualValues(t, min(releaseAtOnce, len(waiting)), w.Load().Open)
			for a := range waiting {
				if a.waiting() {
					continue
				}
				pass := a.passed(t)
				pass.Answered()
				pass.Done(http.StatusOK, nil)
				delete(waiting, a)
			}
			require.EqualValues(t, releaseAtOnce, most)
		}
		require.Equal(t, 1, w.waker.count())
		require.Zero(t, w.Load())
	})
}

func TestAWakeGoesOnWithoutItsVisitor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		impatient := w.arrive(ctx, head("acme.localhost"))
		synctest.Wait()
		patient := w.arrive(t.Context(), head("acme.localhost"))
		cancel()
		synctest.Wait()
		require.False(t, impatient.waiting())
		require.EqualValues(t, 1, w.Load().Held)
		require.Equal(t, 1, w.metrics.count("request "), "it is counted as one who was gone")
		patient.passed(t).Done(http.StatusOK, nil)
		require.Equal(t, 1, w.waker.count())
	})
}

func TestKeptConnectionsAreNotUsedAfterAWake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		keys := make(map[string]bool)
		for range 3 {
			first := w.arrive(t.Context(), head("acme.localhost")).passed(t)
			second := w.arrive(t.Context(), head("acme.localhost")).passed(t)
			require.Equal(t, first.Key, second.Key, "one run, one key")
			keys[first.Key] = true
			w.local.set(w.acme.InstanceID, sleeping)
		}
		require.Len(t, keys, 3)
		// The host says that the machine was started again, and the gateway was not asked.
		restarted := awake
		restarted.Run = "2"
		w.local.set(w.acme.InstanceID, restarted)
		keys[w.arrive(t.Context(), head("acme.localhost")).passed(t).Key] = true
		require.Len(t, keys, 4)
	})
}

func TestAWakeThatNeverReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		w := newWorld(t, Options{})
		w.waker.change(func() {
			w.waker.instead = func(context.Context, Route) (Woken, error) { <-release; return Woken{}, errors.New("at last") }
		})
		a := w.arrive(t.Context(), head("acme.localhost"))
		<-a.done
		require.Equal(t, http.StatusServiceUnavailable, a.answer.Status)
		require.Equal(t, "hold-time", a.answer.Header.Get(ReasonHeader))
		require.NotEmpty(t, a.answer.Header.Get("Retry-After"))
		require.Equal(t, 30*time.Second, a.after)
		time.Sleep(2 * time.Minute)
		a = w.arrive(t.Context(), head("acme.localhost"))
		<-a.done
		require.Equal(t, "not-woken", a.answer.Header.Get(ReasonHeader))
		require.Zero(t, a.after, "nobody is held for what does not come")
		require.Equal(t, 1, w.waker.count())
		close(release)
		synctest.Wait()
		require.Equal(t, 1, w.metrics.count("wake late"))
		w.waker.change(func() { w.waker.instead = nil })
		time.Sleep(time.Second)
		require.Nil(t, w.visitAcme(t))
	})
}

func TestAFailedWakeIsNotTriedInATightLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		w.waker.change(func() { w.waker.err = errors.New("secret of 10.0.0.2") })
		begin := time.Now()
		for time.Since(begin) < 10*time.Minute {
			answer := w.visitAcme(t)
			require.Equal(t, http.StatusServiceUnavailable, answer.Status)
			require.Equal(t, "not-woken", answer.Header.Get(ReasonHeader))
			require.NotEmpty(t, answer.Header.Get("Retry-After"))
			require.NotContains(t, string(answer.Body), "secret")
			time.Sleep(100 * time.Millisecond)
		}
		// 1, 2, 4, 8, 16 and 32 s, and a minute from then on.
		require.Equal(t, 15, w.waker.count())
		w.waker.change(func() { w.waker.err = nil })
		time.Sleep(time.Minute)
		require.Nil(t, w.visitAcme(t))
		w.local.set(w.acme.InstanceID, sleeping)
		require.Nil(t, w.visitAcme(t), "what was is forgotten")
	})
}

func TestAWakerThatPanicsOrLies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		for _, instead := range []func(context.Context, Route) (Woken, error){
			func(context.Context, Route) (Woken, error) { panic("a fault") },
			func(_ context.Context, r Route) (Woken, error) { return Woken{Route: r}, nil }, // and it sleeps on
		} {
			w.waker.change(func() { w.waker.instead = instead })
			require.Equal(t, "not-woken", w.visitAcme(t).Header.Get(ReasonHeader))
			time.Sleep(time.Minute)
		}
	})
}

func TestWhatAWakeFailedByIsSaid(t *testing.T) {
	t.Parallel()
	throttled := fleet.Errorf(fleet.KindThrottled, "x")
	throttled.RetryAfter = 20 * time.Second
	for _, test := range []struct {
		err         error
		says, after string
	}{
		{fleet.Errorf(fleet.KindCapacity, "host-7 is full"), "no room", "1"},
		{throttled, "right now", "20"},
		{fleet.Errorf(fleet.KindPermanent, "x"), "could not be woken", "1"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Options{})
			w.waker.change(func() { w.waker.err = test.err })
			answer := w.visitAcme(t)
			require.Contains(t, string(answer.Body), test.says)
			require.Equal(t, test.after, answer.Header.Get("Retry-After"))
		})
	}
}

func TestHoldingIsBounded(t *testing.T) {
	t.Parallel()
	for reason, o := range map[string]Options{
		"held-each": {MaxHeldEach: 3}, "held-all": {MaxHeld: 3}, "held-all ": {MaxHeldBytes: 3 * 512},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, o)
			var held []*arrival
			for range 3 {
				held = append(held, w.arrive(t.Context(), head("acme.localhost")))
			}
			synctest.Wait()
			answer := w.visitAcme(t)
			require.Equal(t, http.StatusServiceUnavailable, answer.Status)
			require.Contains(t, reason, answer.Header.Get(ReasonHeader))
			require.NotEmpty(t, answer.Header.Get("Retry-After"))
			require.Equal(t, "application/problem+json", answer.Header.Get("Content-Type"))
			for _, a := range held {
				a.passed(t)
			}
			require.Zero(t, w.Load().Held)
			require.Zero(t, w.heldBytes.Load())
		})
	}
}

func TestAWakeIsAskedForAsTheStateIs(t *testing.T) {
	t.Parallel()
	for _, state := range fleet.States() {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, Options{})
			elsewhere := sleeper("far") // no machine of it is here
			elsewhere.State = state
			w.routes.set(elsewhere)
			serves := elsewhere
			serves.State, serves.Address = fleet.StateStable, "10.9.0.2:80"
			w.waker.change(func() {
				w.waker.instead = func(_ context.Context, r Route) (Woken, error) {
					require.Equal(t, state, r.State)
					w.routes.set(serves)
					return Woken{Route: serves}, nil
				}
			})
			pass, answer := w.Enter(t.Context(), head("far.localhost"))
			switch standingOf(elsewhere) {
			case asleep, pending:
				require.NotNil(t, pass)
				require.Equal(t, "10.9.0.2:80", pass.Address)
				require.Equal(t, standingOf(elsewhere) == asleep, w.metrics.count("wake served") == 1, "what is only waited for is no wake: %s", state)
			default:
				require.Zero(t, w.waker.count())
				require.Contains(t, []int{http.StatusServiceUnavailable, http.StatusNotFound}, answer.Status)
			}
		})
	}
}

func TestTheHostKnowsBetter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		// The store has not heard yet of a wake.
		w.local.set(w.acme.InstanceID, awake)
		require.Nil(t, w.visitAcme(t))
		require.Zero(t, w.waker.count())
		// The store thinks that it serves, and the host has put it to sleep.
		stable := w.acme
		stable.State, stable.Address = fleet.StateStable, "10.0.0.9:80"
		w.routes.set(stable)
		w.Changed(stable.InstallationID)
		w.local.set(w.acme.InstanceID, sleeping)
		require.Nil(t, w.visitAcme(t))
		require.Equal(t, 1, w.waker.count())
		// It is off, and nobody says why: what brings it up is waited for.
		w.Changed(stable.InstallationID)
		time.Sleep(3 * time.Second)
		require.Equal(t, fleet.StateStable, w.book.known(stable.InstallationID).route.State)
		w.local.set(w.acme.InstanceID, Here{})
		require.Nil(t, w.visitAcme(t))
		require.Equal(t, 2, w.waker.count())
		// One that is being deleted is not served, although it runs.
		stable.State = fleet.StateDeletionInProgress
		w.routes.set(stable)
		w.Changed(stable.InstallationID)
		time.Sleep(3 * time.Second)
		require.Contains(t, string(w.visitAcme(t).Body), "is being deleted")
	})
}

// What is worked on is waited for, and if that takes too long, it is said what is done to it.
func TestWorkThatTakesLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		updated := sleeper("far")
		updated.State = fleet.StateUpdateInProgress
		w.routes.set(updated)
		w.waker.change(func() {
			w.waker.instead = func(ctx context.Context, _ Route) (Woken, error) { <-ctx.Done(); return Woken{}, ctx.Err() }
		})
		a := w.arrive(t.Context(), head("far.localhost"))
		<-a.done
		require.Equal(t, 30*time.Second, a.after)
		time.Sleep(90500 * time.Millisecond)
		a = w.arrive(t.Context(), head("far.localhost", browser))
		<-a.done
		require.Contains(t, string(a.answer.Body), "<h1>This workspace is being updated</h1>")
		require.Equal(t, "not-woken", a.answer.Header.Get(ReasonHeader))
		require.Zero(t, w.metrics.count("wake late"))
		// It is done at last: nobody has to wait for the time of the next attempt.
		updated.State, updated.Address = fleet.StateStable, "10.9.0.2:80"
		w.routes.set(updated)
		w.Changed(updated.InstallationID)
		a = w.arrive(t.Context(), head("far.localhost"))
		a.passed(t).Done(http.StatusOK, nil)
		require.Zero(t, a.after)
	})
}
