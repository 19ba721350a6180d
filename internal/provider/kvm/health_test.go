package kvm

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/ill":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/slow":
			<-r.Context().Done()
		}
	}))
	t.Cleanup(server.Close)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	endpoints := map[int]string{80: server.Listener.Addr().String(), 81: closed.Addr().String()}
	dial := (&net.Dialer{}).DialContext
	for _, c := range []struct {
		health fleet.Health
		limit  time.Duration
		want   string
	}{
		{health: fleet.Health{}},
		{health: fleet.Health{Type: fleet.HealthNone, Port: 81}},
		{health: fleet.Health{Type: fleet.HealthTCP, Port: 80}},
		{health: fleet.Health{Type: fleet.HealthTCP, Port: 81}, want: "connection refused"},
		{health: fleet.Health{Type: fleet.HealthTCP, Port: 82}, want: "does not list"},
		{health: fleet.Health{Type: fleet.HealthHTTP, Port: 80}},
		{health: fleet.Health{Type: fleet.HealthHTTP, Port: 80, Path: "/moved"}},
		{health: fleet.Health{Type: fleet.HealthHTTP, Port: 80, Path: "/ill"}, want: "GET /ill on port 80 answered 503"},
		{health: fleet.Health{Type: fleet.HealthHTTP, Port: 81, Path: "/"}, want: "connection refused"},
		{health: fleet.Health{Type: fleet.HealthHTTP, Port: 80, Path: "/slow", Timeout: 20 * time.Millisecond}, want: "no answer on port 80 within 20ms"},
		{health: fleet.Health{Type: fleet.HealthHTTP, Port: 80, Path: "/slow", Timeout: time.Hour}, limit: 20 * time.Millisecond, want: "within 20ms"},
	} {
		err := probe(t.Context(), dial, c.health, endpoints, c.limit)
		if c.want == "" {
			require.NoError(t, err, "%+v", c.health)
		} else {
			require.ErrorContains(t, err, c.want, "%+v", c.health)
		}
	}
}

// A program that serves later than it says becomes healthy by itself, and one
// that falls ill is found out by Observe.
func TestHealthComesAndGoes(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	s := newStage(t)
	spec := s.spec("serve")
	spec.Manifest.Ports[0].Number = number(t, port)
	spec.Manifest.Health = fleet.Health{Type: fleet.HealthTCP, Port: number(t, port)}
	require.NoError(t, l.Close())
	s.ensure(spec)
	ill := func(st fleet.InstanceStatus) bool { return st.Health == fleet.HealthUnhealthy }
	st := s.await(spec, func(st fleet.InstanceStatus) bool { return ill(st) || st.Again > 0 })
	require.Equal(t, fleet.PowerOn, st.Power)
	l, err = net.Listen("tcp", "127.0.0.1:"+port)
	require.NoError(t, err)
	s.await(spec, healthy)
	require.NoError(t, l.Close())
	require.Eventually(t, func() bool { return ill(s.observe(spec)) }, 10*time.Second, 50*time.Millisecond)
	require.Contains(t, s.observe(spec).HealthDetail, "connection refused")
}

func TestChannel(t *testing.T) {
	t.Parallel()
	conns := make(chan net.Conn, 1)
	heard := make(chan guest.Message, 10)
	ctx, cancel := context.WithCancel(t.Context())
	c := newChannel(ctx, func(ctx context.Context) (net.Conn, error) {
		select {
		case conn := <-conns:
			return conn, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}, func(m guest.Message) { heard <- m }, channelOptions{})
	connect := func() (net.Conn, *json.Decoder) {
		ours, theirs := net.Pipe()
		conns <- ours
		return theirs, json.NewDecoder(theirs)
	}
	command := func(d *json.Decoder) (cmd guest.Command) {
		require.NoError(t, d.Decode(&cmd))
		return cmd
	}
	theirs, d := connect()
	require.Equal(t, guest.VerbPing, command(d).Verb)
	go func() { _, _ = theirs.Write([]byte("half a line\n{}\n" + `{"event":"ready"}` + "\n")) }()
	require.Equal(t, guest.EventReady, (<-heard).Event)
	go c.keepSending(guest.Command{Verb: guest.VerbShutdown})
	require.Equal(t, guest.VerbShutdown, command(d).Verb)

	// A line without end, and then a new connection: what was asked is asked again.
	_, err := theirs.Write([]byte(strings.Repeat("x", guest.MaxLine+10)))
	require.Error(t, err)
	_, d = connect()
	require.Equal(t, guest.VerbPing, command(d).Verb)
	require.Equal(t, guest.VerbShutdown, command(d).Verb)
	cancel()
	<-c.done
}

func TestCheck(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.accel.want = AccelAuto // on a machine on which guests hang
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := s.Check(ctx, fleet.Cluster{ID: "cluster"})
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))

	for _, c := range []struct {
		settings map[string]string
		item     string
	}{
		{map[string]string{SettingMemoryMiB: "99999999"}, "memory"},
		{map[string]string{SettingDiskMiB: "99999999999"}, "disk"},
		{map[string]string{SettingDiskMiB: "much"}, "settings"},
		{map[string]string{"memory": "1"}, "settings"},
	} {
		items := map[string]fleet.CheckItem{"settings": checkSettings(c.settings)}
		_, items["memory"] = s.checkMemory(c.settings)
		_, items["disk"] = s.checkDisk(c.settings)
		for name, item := range items {
			require.NotEmpty(t, item.Detail)
			require.Equal(t, name == c.item, item.Mend != "", "%s: %+v", name, item)
		}
	}
	memory, _ := s.checkMemory(map[string]string{SettingMemoryMiB: "512"})
	require.Equal(t, int64(512), memory)
	memory, _ = s.checkMemory(nil)
	require.Equal(t, s.memoryAtStart*8/10, memory)
}
