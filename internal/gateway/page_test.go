package gateway

import (
	"bytes"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func replaceAll(b []byte, old, by string) []byte {
	return bytes.ReplaceAll(b, []byte(old), []byte(by))
}

func TestBrowsersAreShownAPage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		require.Nil(t, w.visitAcme(t, browser), "a short wake is not worth a page")
		// Longer than usual: after a while.
		w.waker.change(func() { w.waker.takes = 20 * time.Second })
		w.local.set(w.acme.InstanceID, sleeping)
		a := w.arrive(t.Context(), head("acme.localhost", browser))
		<-a.done
		require.Equal(t, 2500*time.Millisecond, a.after)
		require.Equal(t, http.StatusServiceUnavailable, a.answer.Status)
		require.Equal(t, "waiting-page", a.answer.Header.Get(ReasonHeader))
		require.Equal(t, "2", a.answer.Header.Get("Retry-After"))
		require.Contains(t, a.answer.Header.Get("Content-Security-Policy"), "default-src 'none'")
		require.Contains(t, string(a.answer.Body), `<meta http-equiv="refresh" content="2">`)
		require.NotContains(t, string(a.answer.Body), "http://")
		require.NotContains(t, string(a.answer.Body), "src=")
		// A program is held, and so is what a browser does besides.
		machine := w.arrive(t.Context(), head("acme.localhost", "Accept: */*"))
		form := head("acme.localhost", browser)
		form.Method = http.MethodPost
		post := w.arrive(t.Context(), form)
		fetch := w.arrive(t.Context(), head("acme.localhost", browser, "Sec-Fetch-Mode: cors"))
		machine.passed(t).Done(http.StatusOK, nil)
		post.passed(t).Done(http.StatusOK, nil)
		fetch.passed(t).Done(http.StatusOK, nil)
		require.Equal(t, 2, w.waker.count(), "the page came of the same wake")
		// Such wakes are known to take long by now: at once, until the end is near.
		w.local.set(w.acme.InstanceID, sleeping)
		a = w.arrive(t.Context(), head("acme.localhost", browser))
		<-a.done
		require.Zero(t, a.after)
		require.Equal(t, "waiting-page", a.answer.Header.Get(ReasonHeader))
		synctest.Wait()
		require.Equal(t, 3, w.waker.count())
		time.Sleep(19 * time.Second)
		require.Nil(t, w.visitAcme(t, browser), "it is held for the last bit")
	})
}

func TestAColdWakeShowsThePageAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		w.local.set(w.acme.InstanceID, Here{Asleep: true, Tier: fleet.TierCold})
		a := w.arrive(t.Context(), head("acme.localhost", browser))
		<-a.done
		require.Zero(t, a.after)
		require.Equal(t, "waiting-page", a.answer.Header.Get(ReasonHeader))
		require.Nil(t, w.visitAcme(t), "its wake goes on")
		require.Equal(t, 1, w.waker.count())
	})
}

func TestAHostileNameIsHarmlessOnThePage(t *testing.T) {
	t.Parallel()
	require.NotContains(t, string(unknown("<script>").answer(head("x", browser)).Body), "<script>")
}
