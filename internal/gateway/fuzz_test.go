package gateway

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// FuzzVisit: whatever a stranger sends as host, target, agent and cookies, a
// name is either refused or a plain DNS name, and rules neither fail nor hang.
func FuzzVisit(f *testing.F) {
	f.Add("acme.localhost:8065", "/path?x=http://y", "bot", "a=b; session=1")
	f.Add("[::1]:1", "http://acme.localhost", "", ";=;")
	f.Add("a..b", "*", "\xff", "session")
	f.Fuzz(func(t *testing.T, host, target, agent, cookies string) {
		if name, ok := hostName(host); ok {
			require.Equal(t, strings.ToLower(name), name)
			again, ok := hostName(name)
			require.True(t, ok)
			require.Equal(t, name, again)
			require.Empty(t, strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-."))
		}
		h := head(host, "User-Agent: "+agent, "Cookie: "+cookies)
		h.Target = target
		all := SensibleRules()
		all.RequireCookie = "session"
		newRules(all).forbid(h)
		require.Empty(t, newRules(fleet.WakeRules{}).forbid(h))
	})
}

// FuzzBook: no file makes the gateway fail.
func FuzzBook(f *testing.F) {
	whole, err := encodeBook([]written{{sleeper("acme"), true}, {stable("far", "a:1"), false}})
	require.NoError(f, err)
	f.Add(whole)
	f.Add([]byte(bookVersion + " \n[]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if routes, err := decodeBook(data); err == nil {
			again, err := encodeBook(routes)
			require.NoError(t, err)
			_, err = decodeBook(again)
			require.NoError(t, err)
		}
	})
}
