package hostnet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

func echo(t *testing.T, b *Bridge, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	conn, err := b.DialContext(ctx, "tcp", address)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(deadline)))
	_, err = conn.Write([]byte("hello"))
	require.NoError(t, err)
	answer := make([]byte, 5)
	_, err = io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Equal(t, "hello", string(answer))
}

func TestBridgeHostReachesGuest(t *testing.T) {
	t.Parallel()
	b := newBridge(t, Options{})
	p := newPort(5, 8080)
	a, tap := attach(t, b, p)
	require.Equal(t, "10.77.0.5/16", a.GuestAddress)
	require.Equal(t, "10.77.0.1", a.Gateway)
	require.Equal(t, map[int]string{8080: "10.77.0.5:8080"}, a.Endpoints)
	require.Equal(t, "tap,id=net0,fd=7,vhost=off", a.NetdevArgs(7))
	g := newGuestStack(t, p, tap, a.Gateway)
	g.serveEcho(t, a.Endpoints[8080])
	echo(t, b, a.Endpoints[8080])

	refused, err := b.DialContext(t.Context(), "tcp", "10.77.0.5:81")
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	require.Nil(t, refused)
}

func TestBridgeRestart(t *testing.T) {
	t.Parallel()
	name := "dormouse-test-" + fleet.NewID()
	first := newBridge(t, Options{Name: name})
	p, half := newPort(5, 8080), tapName("half")
	a, tap := attach(t, first, p)
	g := newGuestStack(t, p, tap, a.Gateway)
	g.serveEcho(t, a.Endpoints[8080])
	require.NoError(t, first.ns.do(func() error {
		f, err := openTap(half, 0)
		return errors.Join(err, f.Close())
	}))
	require.NoError(t, first.Close())
	require.NoError(t, first.Close())
	_, err := first.List(t.Context())
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = first.DialContext(t.Context(), "tcp", a.Endpoints[8080])
	require.ErrorIs(t, err, net.ErrClosed)

	second := newBridge(t, Options{Name: name})
	ids, err := second.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []fleet.InstanceID{p.ID}, ids)
	echo(t, second, a.Endpoints[8080])
	_, err = second.routes.LinkByName(half)
	require.True(t, isNotFound(err), "the half-made tap is gone")

	// Everything that can go is gone, but for the tap that the hypervisor holds.
	require.NoError(t, second.ns.removeName())
	dropFilter(t, second)
	bridge, err := second.routes.LinkByName(bridgeName)
	require.NoError(t, err)
	require.NoError(t, second.routes.LinkDel(bridge))
	again, err := second.Attach(t.Context(), p)
	require.NoError(t, err)
	require.Nil(t, again.TapFD)
	require.Equal(t, a.Endpoints, again.Endpoints)
	require.FileExists(t, filepath.Join(namespaceDir, name))
	echo(t, second, a.Endpoints[8080])
}

func TestBridgeAttachAgain(t *testing.T) {
	t.Parallel()
	b := newBridge(t, Options{})
	p := newPort(5)
	_, tap := attach(t, b, p)
	require.NoError(t, tap.Close())
	_, tap = attach(t, b, p)
	require.NoError(t, tap.Close())
	require.NoError(t, b.Detach(t.Context(), p.ID))
	require.NoError(t, b.Detach(t.Context(), p.ID))
	ids, err := b.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids)
	b.mu.Lock()
	senders, err := b.filter.senders()
	b.mu.Unlock()
	require.NoError(t, err)
	require.Empty(t, senders)
	bridge, err := b.routes.LinkByName(bridgeName)
	require.NoError(t, err)
	neighbours, err := b.routes.NeighList(bridge.Attrs().Index, netlink.FAMILY_V4)
	require.NoError(t, err)
	require.Empty(t, neighbours)
	_, tap = attach(t, b, p)
	require.NoError(t, tap.Close())
}

// An update's successor has its predecessor's address, and the predecessor gets
// it back where the successor is not healthy.
func TestBridgeAddressMovesToAnotherInstance(t *testing.T) {
	t.Parallel()
	b := newBridge(t, Options{})
	old := newPort(5, 8080)
	next := old
	next.ID = fleet.InstanceID(fleet.NewID())
	a, tapOld := attach(t, b, old)
	_, tapNext := attach(t, b, next)
	newGuestStack(t, next, tapNext, a.Gateway).serveEcho(t, a.Endpoints[8080])
	echo(t, b, a.Endpoints[8080])
	require.NoError(t, b.Detach(t.Context(), next.ID))
	_, err := b.Attach(t.Context(), old)
	require.NoError(t, err)
	newGuestStack(t, old, tapOld, a.Gateway).serveEcho(t, a.Endpoints[8080])
	echo(t, b, a.Endpoints[8080])
}

func TestBridgesOfTwoDataDirectories(t *testing.T) {
	t.Parallel()
	require.Equal(t, NameFor("/a/"), NameFor("/a"))
	require.NotEqual(t, NameFor("/a"), NameFor("/b"))
	one, two := newBridge(t, Options{}), newBridge(t, Options{})
	p, q := newPort(5, 80), newPort(5, 80)
	a, tapP := attach(t, one, p)
	_, tapQ := attach(t, two, q)
	newGuestStack(t, p, tapP, a.Gateway).serveEcho(t, a.Endpoints[80])
	newGuestStack(t, q, tapQ, a.Gateway).serveEcho(t, a.Endpoints[80])
	echo(t, one, a.Endpoints[80])
	echo(t, two, a.Endpoints[80])
	ids, err := one.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []fleet.InstanceID{p.ID}, ids)
}

func TestBridgeConcurrentPorts(t *testing.T) {
	t.Parallel()
	b := newBridge(t, Options{Pool: "10.77.0.0/16"})
	var wg sync.WaitGroup
	failures := make(chan error, 30)
	for i := range 30 {
		p := newPort(byte(10+i), 80)
		wg.Go(func() {
			a, err := b.Attach(context.Background(), p)
			if err == nil {
				err = a.TapFD.Close()
			}
			if err == nil && i%3 == 0 {
				err = b.Detach(context.Background(), p.ID)
			}
			failures <- err
		})
	}
	wg.Wait()
	close(failures)
	for err := range failures {
		require.NoError(t, err)
	}
	ids, err := b.List(t.Context())
	require.NoError(t, err)
	require.Len(t, ids, 20)
}

func TestBridgePoolChanges(t *testing.T) {
	t.Parallel()
	name := "dormouse-test-" + fleet.NewID()
	first := newBridge(t, Options{Name: name})
	require.NoError(t, first.Close())
	second := newBridge(t, Options{Name: name, Pool: "10.78.0.0/24"})
	require.Equal(t, "10.78.0.0/24", second.Pool())
	bridge, err := second.routes.LinkByName(bridgeName)
	require.NoError(t, err)
	addrs, err := second.routes.AddrList(bridge, netlink.FAMILY_V4)
	require.NoError(t, err)
	require.Len(t, addrs, 1)
	require.Equal(t, "10.78.0.1/24", addrs[0].IPNet.String())
}

func TestBridgeBadInput(t *testing.T) {
	t.Parallel()
	b := newBridge(t, Options{})
	for name, change := range map[string]func(*Port){
		"no ID":              func(p *Port) { p.ID = "vm" },
		"no address":         func(p *Port) { p.Address = "" },
		"no prefix":          func(p *Port) { p.Address = "10.77.0.5" },
		"another pool":       func(p *Port) { p.Address = "10.78.0.5/16" },
		"another prefix":     func(p *Port) { p.Address = "10.77.0.5/24" },
		"the gateway":        func(p *Port) { p.Address = "10.77.0.1/16" },
		"the network":        func(p *Port) { p.Address = "10.77.0.0/16" },
		"the broadcast":      func(p *Port) { p.Address = "10.77.255.255/16" },
		"multicast MAC":      func(p *Port) { p.MAC = "53:54:00:00:00:05" },
		"long MAC":           func(p *Port) { p.MAC = "52:54:00:00:00:05:06:07" },
		"port out of bounds": func(p *Port) { p.Ports = []int{65536} },
	} {
		p := newPort(5)
		change(&p)
		_, err := b.Attach(t.Context(), p)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), name)
	}
	for _, pool := range []string{"10.0.0.0/30", "10.0.0.1/16", "fd00::/64", "10.0.0.0/7", "x"} {
		_, err := NewBridge(Options{Name: "dormouse-test-bad", Pool: pool})
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), pool)
	}
	for _, name := range []string{"", "a/b", "..", "."} {
		_, err := NewBridge(Options{Name: name})
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), name)
	}
	for _, address := range []string{"localhost:80", "10.77.0.5", "[::1]:80", "10.77.0.5:0"} {
		_, err := b.DialContext(t.Context(), "tcp", address)
		require.Error(t, err, address)
	}
	_, err := b.DialContext(t.Context(), "udp", "10.77.0.5:80")
	require.Error(t, err)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = b.Attach(cancelled, newPort(5))
	require.ErrorIs(t, err, context.Canceled)
}

func TestBridgeDialEndsWithItsContext(t *testing.T) {
	t.Parallel()
	b := newBridge(t, Options{})
	p := newPort(5)
	_, tap := attach(t, b, p) // a guest that never answers
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := b.DialContext(ctx, "tcp", "10.77.0.5:80")
		failed <- err
	}()
	buffer := make([]byte, 2048)
	require.NoError(t, tap.SetReadDeadline(time.Now().Add(deadline)))
	_, err := tap.Read(buffer) // the SYN has left, so the dial waits
	require.NoError(t, err)
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
}

func count(t *testing.T, dir string) int {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	return len(entries)
}

// Not parallel: it counts the descriptors and threads of the whole process.
func TestBridgeDialsLeakNothing(t *testing.T) {
	b := newBridge(t, Options{})
	p := newPort(5, 80)
	a, tap := attach(t, b, p)
	newGuestStack(t, p, tap, a.Gateway).serveEcho(t, a.Endpoints[80])
	var own unix.Stat_t
	require.NoError(t, unix.Stat("/proc/self/ns/net", &own))
	dial := func(n int) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range n / 8 {
					conn, err := b.DialContext(context.Background(), "tcp", a.Endpoints[80])
					if err != nil {
						t.Error(err)
						return
					}
					if err := conn.Close(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	dial(80)
	threads, files := count(t, "/proc/self/task"), count(t, "/proc/self/fd")
	dial(1000)
	// The echo server's ends close a moment later.
	require.Eventually(t, func() bool { return count(t, "/proc/self/fd") <= files }, deadline, 10*time.Millisecond)
	require.LessOrEqual(t, count(t, "/proc/self/task"), threads+4, "threads")

	strangers := 0
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	require.NoError(t, err)
	for _, task := range tasks {
		var ns unix.Stat_t
		if unix.Stat(task, &ns) == nil && ns.Ino != own.Ino {
			strangers++
		}
	}
	require.Equal(t, 2, strangers, "only the bridge's thread and the guest's are in another namespace")
}
