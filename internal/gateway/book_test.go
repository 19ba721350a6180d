package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func (w *world) find(t *testing.T, host string) (Route, error) {
	t.Helper()
	e, err := w.book.find(t.Context(), host)
	if err != nil {
		return Route{}, err
	}
	return e.route, nil
}

func TestARouteIsAskedForSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		synctest.Wait() // all are loaded
		const host = "far.localhost"
		w.routes.set(stable("far", "a:1"))
		check := func(address string, asked int) {
			t.Helper()
			route, err := w.find(t, host)
			require.NoError(t, err)
			require.Equal(t, address, route.Address)
			require.Equal(t, asked, w.routes.lookups(host))
		}
		check("a:1", 1)
		check("a:1", 1)
		w.routes.set(stable("far", "a:2"))
		time.Sleep(29 * time.Second)
		check("a:1", 1)
		time.Sleep(time.Second)
		check("a:2", 2)
		w.routes.set(stable("far", "a:3"))
		w.Changed("i-far")
		check("a:3", 3)
		// One that leads nowhere is asked for sooner, and one that sleeps is not.
		w.routes.set(stable("far", ""))
		w.Changed("i-far")
		check("", 4)
		time.Sleep(time.Second)
		check("", 5)
		w.routes.set(sleeper("far"))
		time.Sleep(time.Second)
		check("", 6)
		time.Sleep(29 * time.Second)
		check("", 6)
		w.routes.change(func() { delete(w.routes.routes, "far") })
		w.Changed("i-far")
		for range 3 {
			_, err := w.find(t, host)
			require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
			require.Equal(t, 7, w.routes.lookups(host))
		}
		w.routes.set(stable("far", "a:4"))
		time.Sleep(time.Second)
		check("a:4", 8)
	})
}

func TestEveryNameOfAnInstallation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		w.acme.DNSNames = []string{"Shop.example.com", "www.example.com", "other.localhost"}
		w.routes.set(w.acme)
		w.Changed(w.acme.InstallationID)
		for _, host := range []string{"acme.localhost", "shop.example.com", "SHOP.example.com.:443", "www.example.com:80"} {
			pass, answer := w.Enter(t.Context(), head(host))
			require.Nil(t, answer, host)
			pass.Done(http.StatusOK, nil)
		}
		require.Equal(t, 1, w.waker.count(), "one installation, one door")
		_, err := w.find(t, "other.localhost")
		require.Equal(t, fleet.KindNotFound, fleet.KindOf(err), "it is not theirs to claim")
		time.Sleep(time.Second)
		w.routes.set(sleeper("other"))
		route, err := w.find(t, "other.localhost")
		require.NoError(t, err)
		require.Equal(t, "other", route.Name, "a name under our domain is the installation's of that name")
		require.NoError(t, w.Allowed(t.Context(), "Shop.example.com"))
		require.NoError(t, w.Allowed(t.Context(), "acme.localhost"))
		for _, none := range []string{"mail.example.com", "192.0.2.1", "", "*.example.com"} {
			require.Equal(t, fleet.KindNotFound, fleet.KindOf(w.Allowed(t.Context(), none)), none)
		}
		w.acme.DNSNames = []string{"www.example.com"}
		w.routes.set(w.acme)
		w.Changed(w.acme.InstallationID)
		time.Sleep(3 * time.Second)
		_, answer := w.Enter(t.Context(), head("shop.example.com"))
		require.Equal(t, http.StatusNotFound, answer.Status)
		require.Nil(t, w.visitAcme(t))
	})
}

// An answer that was on its way when its installation changed is not taken for fresh.
func TestAnAnswerFromBeforeAChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		synctest.Wait()
		w.routes.set(stable("far", "a:1"))
		gate := make(chan struct{})
		w.routes.change(func() { w.routes.gate = gate })
		found := make(chan Route)
		go func() { r, _ := w.find(t, "far.localhost"); found <- r }()
		synctest.Wait()
		w.routes.change(func() { w.routes.gate = nil })
		w.routes.set(stable("far", "a:2"))
		_, err := w.book.ask("far.localhost") // so that it is known that it changed
		require.NoError(t, err)
		w.routes.set(stable("far", "a:3"))
		w.Changed("i-far")
		for range 2 {
			route, err := w.find(t, "far.localhost")
			require.NoError(t, err)
			require.Equal(t, "a:3", route.Address, "nobody waits for the old answer, or believes it")
			if gate != nil {
				close(gate)
				require.Equal(t, "a:3", (<-found).Address)
				gate = nil
			}
		}
	})
}

// Nor does it undo what a wake has led to meanwhile.
func TestAnAnswerFromBeforeAWake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		w.routes.set(sleeper("far"))
		w.waker.change(func() {
			w.waker.instead = func(_ context.Context, r Route) (Woken, error) {
				gate := make(chan struct{})
				w.routes.change(func() { w.routes.gate = gate })
				go func() { _, _ = w.book.ask("far.localhost") }()
				synctest.Wait()
				time.AfterFunc(time.Millisecond, func() { close(gate) })
				r.State, r.Address = fleet.StateStable, "10.9.0.2:80"
				return Woken{Route: r}, nil
			}
		})
		for range 2 {
			pass := w.arrive(t.Context(), head("far.localhost")).passed(t)
			require.Equal(t, "10.9.0.2:80", pass.Address)
			pass.Done(http.StatusOK, nil)
			time.Sleep(time.Second)
		}
		require.Equal(t, 1, w.waker.count())
	})
}

func TestTheGatewayGoesOnWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		w := newWorld(t, Options{Dir: dir})
		w.routes.set(stable("far", "a:1"))
		synctest.Wait()
		_, err := w.find(t, "far.localhost")
		require.NoError(t, err)
		time.Sleep(time.Hour)
		w.routes.change(func() { w.routes.err = errors.New("no database at 10.0.0.9") })
		for range 10 {
			require.Nil(t, w.visitAcme(t))
			_, answer := w.Enter(t.Context(), head("far.localhost"))
			require.Nil(t, answer)
		}
		require.Equal(t, 1, w.waker.count(), "a sleeper is woken")
		require.LessOrEqual(t, w.routes.lookups("far.localhost"), 2, "a failure is remembered")
		_, answer := w.Enter(t.Context(), head("new.localhost"))
		require.Equal(t, http.StatusServiceUnavailable, answer.Status)
		require.NotContains(t, string(answer.Body), "database")

		// One that is started meanwhile knows what this one wrote.
		again := New(Options{Routes: w.routes, Local: w.local, Waker: w.waker, Dir: dir})
		stop := again.keep()
		w.local.set(w.acme.InstanceID, sleeping)
		pass, answer := again.Enter(t.Context(), head("acme.localhost"))
		require.Nil(t, answer)
		pass.Done(http.StatusOK, nil)
		require.Equal(t, 2, w.waker.count())
		pass, answer = again.Enter(t.Context(), head("far.localhost"))
		require.Nil(t, answer)
		pass.Done(http.StatusOK, nil)

		// It comes back, and with it the news.
		w.routes.change(func() { w.routes.err = nil; delete(w.routes.routes, "acme") })
		w.routes.set(stable("far", "a:2"))
		time.Sleep(10 * time.Second)
		_, answer = again.Enter(t.Context(), head("acme.localhost"))
		require.Equal(t, http.StatusNotFound, answer.Status)
		pass, _ = again.Enter(t.Context(), head("far.localhost"))
		require.Equal(t, "a:2", pass.Address)
		pass.Done(http.StatusOK, nil)
		stop()
	})
}

// A database that hangs is no reason to let a tenant wait: what runs or sleeps
// here is served at once, and what does not within a second.
func TestADatabaseThatHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		w.routes.set(stable("far", "a:1"))
		synctest.Wait()
		require.Nil(t, w.visitAcme(t))
		_, err := w.find(t, "far.localhost")
		require.NoError(t, err)
		w.routes.change(func() { w.routes.gate = make(chan struct{}) })
		time.Sleep(time.Hour)
		begin := time.Now()
		require.Nil(t, w.visitAcme(t))
		require.Zero(t, time.Since(begin))
		w.local.set(w.acme.InstanceID, sleeping)
		require.Nil(t, w.visitAcme(t))
		require.Equal(t, w.waker.takes, time.Since(begin), "it takes the wake, and no more")
		begin = time.Now()
		_, err = w.find(t, "far.localhost")
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(begin), patience)
		for range 100 { // nobody else waits, however long it takes
			time.Sleep(2 * time.Second)
			begin = time.Now()
			_, err = w.find(t, "far.localhost")
			require.NoError(t, err)
			require.Zero(t, time.Since(begin))
		}
	})
}

func TestAllAreLoaded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		synctest.Wait() // for the first load
		w.routes.change(func() { w.routes.page = 7 })
		for i := range 50 {
			w.routes.set(sleeper(fmt.Sprintf("t%02d", i)))
		}
		w.Changed("i-t00") // not known: it may be new here
		time.Sleep(reloadAfter)
		synctest.Wait()
		for i := range 50 {
			require.NotNil(t, w.book.known(fleet.InstallationID(fmt.Sprintf("i-t%02d", i))))
		}
		require.Zero(t, w.routes.lookups("t00.localhost"))
		before := w.routes.lookups("")
		time.Sleep(time.Hour)
		require.Equal(t, before, w.routes.lookups(""), "nothing is asked at rest")
		w.routes.change(func() { delete(w.routes.routes, "t07") })
		w.Changed("i-t07")
		time.Sleep(2 * time.Second)
		require.Nil(t, w.book.known("i-t07"))
	})
}

func TestGuessesArePutUpWith(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		synctest.Wait()
		for i := range maxUnknown + 10 {
			_, err := w.find(t, fmt.Sprint("guess", i, ".localhost"))
			require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
		}
		require.Len(t, w.book.unknown.entries, maxUnknown)
		require.NotNil(t, w.book.known(w.acme.InstallationID), "guesses push no real route out")
	})
}

func TestWhoGivesUpDoesNotEndALookup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		synctest.Wait()
		w.routes.set(stable("far", "a:1"))
		gate := make(chan struct{})
		w.routes.change(func() { w.routes.gate = gate })
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() { _, err := w.book.find(ctx, "far.localhost"); gone <- err }()
		errs := make(chan error, 20)
		for range 20 {
			go func() { _, err := w.book.find(t.Context(), "far.localhost"); errs <- err }()
		}
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-gone, context.Canceled)
		close(gate)
		for range 20 {
			require.NoError(t, <-errs)
		}
		require.Equal(t, 1, w.routes.lookups("far.localhost"))
	})
}

func TestRecentForgetsWhatWasUsedLongestAgo(t *testing.T) {
	t.Parallel()
	r := newRecent[string, int](2)
	r.put("a", 1)
	r.put("b", 2)
	r.get("a")
	r.put("c", 3)
	_, a := r.get("a")
	_, b := r.get("b")
	require.True(t, a)
	require.False(t, b)
	require.Equal(t, 2, r.order.Len())
}
