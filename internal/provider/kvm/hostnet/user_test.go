package hostnet

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// TestMain lets the test binary stand in for a hypervisor: with these arguments
// it listens on the address given last, until its standard input ends.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "stand-in" {
		listener, err := net.Listen("tcp4", os.Args[len(os.Args)-1])
		if err != nil {
			os.Exit(1)
		}
		fmt.Println("listening")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // its end is the signal
		_ = listener.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// standIn starts a process with the command line of a hypervisor that listens
// on the address; the result ends it.
func standIn(t *testing.T, name, netdev, address string) (stop func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "stand-in", "-name", name, "-netdev", netdev, address)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "listening\n", line)
	return func() {
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait())
	}
}

// newUser returns a network with a range of its own, so that tests don't meet.
func newUser(t *testing.T, first, size int) (*User, Options) {
	t.Helper()
	o := Options{StateDir: t.TempDir(), FirstPort: first, LastPort: first + size - 1}
	u, err := NewUser(o)
	require.NoError(t, err)
	return u, o
}

func userPort(ports ...int) Port {
	return Port{ID: fleet.InstanceID(fleet.NewID()), MAC: "52:54:00:00:00:05", Ports: ports}
}

func TestUserPortsAreKept(t *testing.T) {
	t.Parallel()
	u, o := newUser(t, 18000, 100)
	p := userPort(8080, 1883)
	a, err := u.Attach(t.Context(), p)
	require.NoError(t, err)
	require.Nil(t, a.TapFD)
	require.Equal(t, "10.0.2.15/24", a.GuestAddress)
	require.Equal(t, "10.0.2.2", a.Gateway)
	require.Len(t, a.Endpoints, 2)
	require.Equal(t, fmt.Sprintf("user,id=net0,ipv6=off,restrict=on,hostfwd=tcp:%s-:1883,hostfwd=tcp:%s-:8080",
		a.Endpoints[1883], a.Endpoints[8080]), a.NetdevArgs(3))

	reopened, err := NewUser(o)
	require.NoError(t, err)
	again, err := reopened.Attach(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, a.Endpoints, again.Endpoints)
	p.Ports = []int{8080, 9000}
	changed, err := reopened.Attach(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, a.Endpoints[8080], changed.Endpoints[8080])
	require.Len(t, changed.Endpoints, 2)
	ids, err := reopened.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []fleet.InstanceID{p.ID}, ids)

	require.NoError(t, u.Detach(t.Context(), p.ID))
	require.NoError(t, u.Detach(t.Context(), p.ID))
	ids, err = u.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids)
	require.NoError(t, u.Remove(t.Context()))
	require.NoError(t, u.Remove(t.Context()))
	require.NoError(t, u.Close())
	require.Equal(t, 0, count(t, o.StateDir))
}

func TestUserPortsAreReusedLate(t *testing.T) {
	t.Parallel()
	u, _ := newUser(t, 18100, 4)
	seen := make(map[string]bool)
	for range 4 {
		p := userPort(80)
		a, err := u.Attach(t.Context(), p)
		require.NoError(t, err)
		require.False(t, seen[a.Endpoints[80]], "given out again while another was free")
		seen[a.Endpoints[80]] = true
		require.NoError(t, u.Detach(t.Context(), p.ID))
	}
	_, err := u.Attach(t.Context(), userPort(1, 2, 3, 4))
	require.NoError(t, err)
	_, err = u.Attach(t.Context(), userPort(80))
	require.Equal(t, fleet.KindCapacity, fleet.KindOf(err))
}

func TestUserPortTakenBySomebodyElse(t *testing.T) {
	t.Parallel()
	u, _ := newUser(t, 18200, 100)
	p := userPort(80)
	a, err := u.Attach(t.Context(), p)
	require.NoError(t, err)
	// Another provisioner's hypervisor: the same forward, another instance.
	stop := standIn(t, fleet.NewID(), a.NetdevArgs(0), a.Endpoints[80])
	defer stop()
	moved, err := u.Attach(t.Context(), p)
	require.NoError(t, err)
	require.NotEqual(t, a.Endpoints, moved.Endpoints)

	// Its own hypervisor runs: nothing changes.
	stopOwn := standIn(t, "guest="+string(p.ID), moved.NetdevArgs(0), moved.Endpoints[80])
	defer stopOwn()
	same, err := u.Attach(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, moved.Endpoints, same.Endpoints)
	conn, err := u.DialContext(t.Context(), "tcp", same.Endpoints[80])
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}

func TestUserBadInput(t *testing.T) {
	t.Parallel()
	u, o := newUser(t, 18300, 10)
	p := userPort(80)
	p.Address = "10.77.0.5/16"
	_, err := u.Attach(t.Context(), p)
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	_, err = u.DialContext(t.Context(), "tcp", "192.0.2.1:80")
	require.ErrorContains(t, err, "not a loopback address")
	_, err = u.DialContext(t.Context(), "tcp", "localhost:80")
	require.Error(t, err)
	_, err = NewUser(Options{})
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	_, err = NewUser(Options{StateDir: o.StateDir, FirstPort: 9, LastPort: 10})
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	require.NoError(t, os.WriteFile(filepath.Join(o.StateDir, "user-network.json"), []byte("{"), 0o600))
	_, err = NewUser(o)
	require.ErrorContains(t, err, "is damaged")
}

func TestDetect(t *testing.T) {
	t.Parallel()
	mode, detail := Detect(t.Context())
	require.NotEmpty(t, detail)
	if os.Geteuid() == 0 {
		require.Equal(t, ModeBridge, mode, detail)
	}
	leftovers, err := filepath.Glob(filepath.Join(namespaceDir, "dormouse-probe-*"))
	require.NoError(t, err)
	require.Empty(t, leftovers)

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	mode, detail = Detect(cancelled)
	require.Equal(t, ModeUser, mode)
	require.True(t, strings.HasPrefix(detail, "loopback ports are forwarded"), detail)
}
