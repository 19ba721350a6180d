package gateway

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway/wire"
)

func TestRules(t *testing.T) {
	t.Parallel()
	with := func(change func(*wire.Head), headers ...string) *wire.Head {
		h := head("acme.localhost", headers...)
		change(h)
		return h
	}
	target := func(target string) *wire.Head { return with(func(h *wire.Head) { h.Target = target }) }
	method := func(method string) *wire.Head { return with(func(h *wire.Head) { h.Method = method }) }
	tcp := func(client string) *wire.Head {
		h := fromClient(head(""), client)
		h.Header, h.Port, h.Method = nil, 1883, ""
		return h
	}
	credential := fleet.WakeRules{RequireCookie: "session", RequireHeader: "X-Token"}
	for name, test := range map[string]struct {
		rules fleet.WakeRules
		head  *wire.Head
		want  string
	}{
		"none":                     {fleet.WakeRules{}, head("acme.localhost"), ""},
		"only a budget":            {fleet.WakeRules{WakesPerHour: 1}, head("acme.localhost"), ""},
		"path":                     {fleet.WakeRules{Paths: []string{"/health"}}, target("/healthz?x=1"), "path"},
		"path in the query":        {fleet.WakeRules{Paths: []string{"/health"}}, target("/?x=/health"), ""},
		"path in absolute form":    {fleet.WakeRules{Paths: []string{"/health"}}, target("http://acme.localhost/healthz"), "path"},
		"absolute without a path":  {fleet.WakeRules{Paths: []string{"/health"}}, target("http://acme.localhost"), ""},
		"a path that has an URL":   {fleet.WakeRules{Paths: []string{"/go"}}, target("/go/http://x/"), "path"},
		"another path":             {fleet.WakeRules{Paths: []string{"/health"}}, target("/"), ""},
		"an empty path":            {fleet.WakeRules{Paths: []string{""}}, target("/"), ""},
		"asterisk form":            {fleet.WakeRules{Paths: []string{"/"}}, target("*"), ""},
		"method":                   {fleet.WakeRules{Methods: []string{"head"}}, method("HEAD"), "method"},
		"another method":           {fleet.WakeRules{Methods: []string{"HEAD"}}, method("GET"), ""},
		"agent":                    {fleet.WakeRules{UserAgents: []string{"BOT"}}, head("", "User-Agent: Googlebot/2.1"), "user-agent"},
		"no agent":                 {fleet.WakeRules{UserAgents: []string{"bot"}}, head(""), ""},
		"an empty agent":           {fleet.WakeRules{UserAgents: []string{""}}, head("", "User-Agent: x"), ""},
		"network":                  {fleet.WakeRules{CIDRs: []string{"192.0.2.77/24"}}, head(""), "network"},
		"network, IPv4 in IPv6":    {fleet.WakeRules{CIDRs: []string{"192.0.2.0/24"}}, fromClient(head(""), "::ffff:192.0.2.9"), "network"},
		"network, IPv6 and zone":   {fleet.WakeRules{CIDRs: []string{"fe80::/10"}}, fromClient(head(""), "fe80::1%eth0"), "network"},
		"another network":          {fleet.WakeRules{CIDRs: []string{"192.0.3.0/24", "no network"}}, head(""), ""},
		"no credential":            {credential, head("", "Cookie: sessions=1; session="), "credential"},
		"cookie":                   {credential, head("", `Cookie: a="; odd stuff; session=1`), ""},
		"header":                   {credential, head("", "X-Token: 1"), ""},
		"cookie where header only": {fleet.WakeRules{RequireHeader: "X-Token"}, head("", "Cookie: session=1"), "credential"},
		"credential of plain TCP":  {credential, tcp("192.0.2.1"), ""},
		"network of plain TCP":     {fleet.WakeRules{CIDRs: []string{"192.0.2.0/24"}}, tcp("192.0.2.1"), "network"},
		"sensible: a person":       {SensibleRules(), head("", "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"), ""},
		"sensible: a probe":        {SensibleRules(), head("", "User-Agent: kube-probe/1.31"), "user-agent"},
		"sensible: a scanner":      {SensibleRules(), target("/.env"), "path"},
	} {
		require.Equal(t, test.want, newRules(test.rules).forbid(test.head), name)
	}
}

func TestWhoMayNotWakePassesWhenItIsAwake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		w.acme.Wake = fleet.WakeRules{UserAgents: []string{"bot"}}
		w.routes.set(w.acme)
		answer := w.visitAcme(t, "User-Agent: bot")
		require.Equal(t, http.StatusServiceUnavailable, answer.Status)
		require.Equal(t, "may-not-wake; user-agent", answer.Header.Get(ReasonHeader))
		require.Zero(t, w.waker.count())
		a := w.arrive(t.Context(), head("acme.localhost"))
		synctest.Wait()
		require.NotNil(t, w.visitAcme(t, "User-Agent: bot"), "nor is it held while somebody else wakes it")
		a.passed(t).Done(http.StatusOK, nil)
		require.Nil(t, w.visitAcme(t, "User-Agent: bot"))
	})
}

// Whether a sleeper hides behind a name, or nothing does, can't be told.
func TestHiddenSleepersLookLikeNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{})
		w.acme.Wake = fleet.WakeRules{RequireCookie: "session", Hidden: true}
		w.routes.set(w.acme)
		require.Nil(t, w.visitAcme(t, "Cookie: session=1"))
		ask := func(host string, headers ...string) *wire.Answer {
			pass, answer := w.Enter(t.Context(), head(host, headers...))
			require.Nil(t, pass)
			return answer
		}
		lookups := func(host string) (n int) { return w.routes.lookups(host) }
		for _, state := range []fleet.State{fleet.StateHibernating, fleet.StateWakeUpFailed, fleet.StateExited, fleet.StateRestartInProgress} {
			w.acme.State = state
			w.routes.set(w.acme)
			w.Changed(w.acme.InstallationID)
			w.local.set(w.acme.InstanceID, Here{Asleep: state == fleet.StateHibernating})
			time.Sleep(time.Minute)
			for _, headers := range [][]string{nil, {browser}, {"Accept: application/json"}} {
				time.Sleep(time.Minute)
				before, beforeOther := lookups("acme.localhost"), lookups("emca.localhost")
				for range 3 {
					hidden, none := ask("acme.localhost", headers...), ask("emca.localhost", headers...)
					require.Equal(t, http.StatusNotFound, none.Status)
					require.Equal(t, none.Status, hidden.Status)
					require.Equal(t, none.Header, hidden.Header)
					require.Equal(t, string(none.Body), string(replaceAll(hidden.Body, "acme", "emca")))
				}
				require.LessOrEqual(t, lookups("acme.localhost")-before, 2, "state and name")
				require.Equal(t, 1, lookups("emca.localhost")-beforeOther)
				require.NotEqual(t, before, lookups("acme.localhost"), "it takes a lookup, as for a name that is not known")
			}
		}
		// Neither is known while nobody can be asked.
		w.routes.change(func() { w.routes.err = http.ErrHandlerTimeout })
		time.Sleep(time.Minute)
		hidden, none := ask("acme.localhost"), ask("emca.localhost")
		require.Equal(t, none, hidden)
		require.Equal(t, http.StatusServiceUnavailable, hidden.Status)
	})
}

func TestBudgets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{WakesPerHour: 3, SourceWakesPerHour: 5})
		w.waker.change(func() { w.waker.takes = 0 })
		other := sleeper("other")
		other.Wake.WakesPerHour = 100
		w.routes.set(other)
		ask := func(host, client string) *wire.Answer {
			w.local.set(w.acme.InstanceID, sleeping)
			w.local.set(other.InstanceID, sleeping)
			pass, answer := w.Enter(t.Context(), fromClient(head(host), client))
			if pass != nil {
				pass.Done(http.StatusOK, nil)
			}
			return answer
		}
		for range 3 {
			require.Nil(t, ask("acme.localhost", "192.0.2.1"))
		}
		answer := ask("acme.localhost", "198.51.100.1")
		require.Equal(t, http.StatusServiceUnavailable, answer.Status)
		require.Equal(t, "wake-budget", answer.Header.Get(ReasonHeader))
		require.Equal(t, "1200", answer.Header.Get("Retry-After"), "three in an hour")
		require.Nil(t, ask("other.localhost", "192.0.2.2"))
		require.Nil(t, ask("other.localhost", "192.0.2.3"))
		answer = ask("other.localhost", "192.0.2.4")
		require.Equal(t, http.StatusTooManyRequests, answer.Status, "the fifth of that network was the last")
		require.Equal(t, "source-budget", answer.Header.Get(ReasonHeader))
		require.Equal(t, "720", answer.Header.Get("Retry-After"))
		require.Nil(t, ask("other.localhost", "192.0.3.4"), "another network")
		for range 5 {
			require.Nil(t, ask("other.localhost", "2001:db8:0:1::1"))
		}
		require.NotNil(t, ask("other.localhost", "2001:db8:0:ff::1"), "one /56")
		require.Nil(t, ask("other.localhost", "2001:db8:0:100::1"))
		time.Sleep(20 * time.Minute)
		require.Nil(t, ask("acme.localhost", "192.0.2.1"))
		require.Equal(t, 1+3+2+1+5+1, w.waker.count())
	})
}

func TestBudgetsMayBeUnbounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Options{WakesPerHour: -1, SourceWakesPerHour: -1})
		for range 2000 {
			w.local.set(w.acme.InstanceID, sleeping)
			require.Nil(t, w.visitAcme(t))
		}
	})
}

// What the documentation tells people to copy is what is tested here.
func TestTheDocumentedRules(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/gateway.md")
	require.NoError(t, err)
	_, block, ok := strings.Cut(string(text), "<!-- sensible -->\n```json\n")
	require.True(t, ok)
	block, _, ok = strings.Cut(block, "```\n<!-- /sensible -->")
	require.True(t, ok)
	var documented fleet.WakeRules
	require.NoError(t, json.Unmarshal([]byte(block), &documented))
	require.Equal(t, SensibleRules(), documented)
}
