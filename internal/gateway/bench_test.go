package gateway

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the gateway's mind costs each request to a machine that is awake.
func BenchmarkEnter(b *testing.B) {
	local := &fakeLocal{}
	acme := sleeper("acme")
	local.set(acme.InstanceID, awake)
	g := New(Options{Routes: newRoutes(acme), Local: local})
	h := head("acme.localhost:8065")
	b.ReportAllocs()
	for b.Loop() {
		pass, answer := g.Enter(b.Context(), h)
		if answer != nil {
			require.FailNow(b, string(answer.Body))
		}
		pass.Done(http.StatusOK, nil)
	}
}
