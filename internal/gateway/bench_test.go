package gateway

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
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

// What the gateway adds to a wake: a machine that is there at once, asked over
// sockets. Beside it, the same machine awake.
func BenchmarkVisit(b *testing.B) {
	for _, name := range []string{"awake", "asleep"} {
		b.Run(name, func(b *testing.B) {
			backend := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			defer backend.Close()
			up := Here{Serves: true, Endpoints: []fleet.Endpoint{{Port: 80, Protocol: fleet.ProtocolHTTP, Address: backend.Listener.Addr().String()}}}
			acme := sleeper("acme")
			local := &fakeLocal{}
			local.set(acme.InstanceID, up)
			waker := &fakeWaker{instead: func(_ context.Context, r Route) (Woken, error) {
				local.set(acme.InstanceID, up)
				return Woken{Route: r}, nil
			}}
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			require.NoError(b, err)
			ctx, cancel := context.WithCancel(b.Context())
			ended := make(chan error)
			g := New(Options{Routes: newRoutes(acme), Local: local, Waker: waker, Dial: new(net.Dialer).DialContext, WakesPerHour: -1, SourceWakesPerHour: -1})
			go func() { ended <- g.Serve(ctx, Listener{Listener: l}) }()
			r, err := http.NewRequest(http.MethodGet, "http://"+l.Addr().String(), nil)
			require.NoError(b, err)
			r.Host = "acme.localhost"
			for b.Loop() {
				if name == "asleep" {
					local.set(acme.InstanceID, sleeping)
				}
				response, err := http.DefaultClient.Do(r)
				require.NoError(b, err)
				require.Equal(b, http.StatusOK, response.StatusCode)
				require.NoError(b, response.Body.Close())
			}
			cancel()
			require.NoError(b, <-ended)
		})
	}
}
