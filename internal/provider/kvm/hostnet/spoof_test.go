package hostnet

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const deadline = 20 * time.Second

// sniffer sees what reaches the bridge itself, that is the host.
type sniffer struct{ *os.File }

func newSniffer(t *testing.T, b *Bridge) sniffer {
	t.Helper()
	link, err := b.routes.LinkByName(bridgeName)
	require.NoError(t, err)
	all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
	fd := -1
	require.NoError(t, b.ns.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(all))
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Attrs().Index})
	}))
	f := os.NewFile(uintptr(fd), "sniffer")
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return sniffer{f}
}

// until reads frames up to and with the one that contains the mark, and returns
// those before it.
func until(t *testing.T, f *os.File, mark string) [][]byte {
	t.Helper()
	require.NoError(t, f.SetReadDeadline(time.Now().Add(deadline)))
	var seen [][]byte
	for {
		buffer := make([]byte, 65536)
		n, err := f.Read(buffer)
		require.NoError(t, err, "waiting for %q", mark)
		if bytes.Contains(buffer[:n], []byte(mark)) {
			return seen
		}
		seen = append(seen, buffer[:n])
	}
}

func contains(frames [][]byte, mark string) bool {
	for _, f := range frames {
		if bytes.Contains(f, []byte(mark)) {
			return true
		}
	}
	return false
}

func write(t *testing.T, tap *os.File, frame []byte) {
	t.Helper()
	_, err := tap.Write(frame)
	require.NoError(t, err)
}

// dropFilter is the control of the tests below: without the filter, what they
// say can't pass does pass.
func dropFilter(t *testing.T, b *Bridge) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	conn, err := b.filter.connect()
	require.NoError(t, err)
	conn.DelTable(bridgeTable())
	conn.DelTable(routeTable())
	require.NoError(t, conn.Flush())
}

func TestBridgeDropsWhatIsNotThePortsOwn(t *testing.T) {
	t.Parallel()
	b := newBridge(t, Options{})
	p, victim := newPort(5), newPort(6)
	_, tap := attach(t, b, p)
	attach(t, b, victim)
	mine, err := net.ParseMAC(p.MAC)
	require.NoError(t, err)
	theirs, err := net.ParseMAC(victim.MAC)
	require.NoError(t, err)
	myIP, theirIP := netip.MustParseAddr("10.77.0.5"), netip.MustParseAddr("10.77.0.6")
	broadcast := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	honest := func(mark string) []byte { return frame(b.mac, mine, 0x0800, ipv4(myIP, b.gateway, mark)) }
	vlan := append([]byte{0, 7, 0x08, 0x00}, ipv4(myIP, b.gateway, "bad-frame")...)
	padded := func(m []byte) []byte { return append(m, "bad-frame"...) }
	badType := arpReply(mine, myIP, b.gateway)
	badType[1] = 6
	spoofs := map[string][]byte{
		"the victim's MAC":                frame(b.mac, theirs, 0x0800, ipv4(myIP, b.gateway, "bad-frame")),
		"the victim's IP address":         frame(b.mac, mine, 0x0800, ipv4(theirIP, b.gateway, "bad-frame")),
		"both":                            frame(b.mac, theirs, 0x0800, ipv4(theirIP, b.gateway, "bad-frame")),
		"the gateway's IP address":        frame(broadcast, mine, 0x0800, ipv4(b.gateway, theirIP, "bad-frame")),
		"ARP for the victim's address":    frame(broadcast, mine, 0x0806, padded(arpReply(mine, theirIP, b.gateway))),
		"ARP with another MAC within":     frame(broadcast, mine, 0x0806, padded(arpReply(theirs, myIP, b.gateway))),
		"ARP from the victim's MAC":       frame(broadcast, theirs, 0x0806, padded(arpReply(mine, myIP, b.gateway))),
		"ARP for another kind of network": frame(broadcast, mine, 0x0806, padded(badType)),
		"IPv6":                            frame(b.mac, mine, 0x86dd, ipv6("bad-frame")),
		"a VLAN tag":                      frame(b.mac, mine, 0x8100, vlan),
		"an unknown protocol":             frame(broadcast, mine, 0x88b5, []byte("bad-frame of some length, as Ethernet wants")),
	}
	wire := newSniffer(t, b)
	// The kernel answers an honest datagram with one that quotes it, so each has
	// a mark of its own.
	rounds := 0
	passes := func(spoof []byte) bool {
		rounds++
		mark := fmt.Sprintf("honest-frame-%d.", rounds)
		write(t, tap, spoof)
		write(t, tap, honest(mark))
		return contains(until(t, wire.File, mark), "bad-frame")
	}
	for name, spoof := range spoofs {
		require.False(t, passes(spoof), name)
	}
	write(t, tap, frame(broadcast, mine, 0x0806, append(arpReply(mine, myIP, b.gateway), "honest-arp"...)))
	until(t, wire.File, "honest-arp")

	dropFilter(t, b)
	for name, spoof := range spoofs {
		require.True(t, passes(spoof), "control: %s", name)
	}

	again, err := b.Attach(t.Context(), p)
	require.NoError(t, err)
	require.Nil(t, again.TapFD, "the tap is in use")
	for name, spoof := range spoofs {
		require.False(t, passes(spoof), "after Attach has mended the filter: %s", name)
	}
}

// hostSends has the host send a datagram to a guest.
func hostSends(t *testing.T, b *Bridge, to, body string) {
	t.Helper()
	var conn net.Conn
	require.NoError(t, b.ns.do(func() (err error) { conn, err = net.Dial("udp4", to); return err }))
	_, err := conn.Write([]byte(body))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
}

func TestBridgeGuestsDoNotReachOneAnother(t *testing.T) {
	t.Parallel()
	b := newBridge(t, Options{})
	p, q := newPort(5), newPort(6)
	_, tapP := attach(t, b, p)
	_, tapQ := attach(t, b, q)
	macP, err := net.ParseMAC(p.MAC)
	require.NoError(t, err)
	macQ, err := net.ParseMAC(q.MAC)
	require.NoError(t, err)
	ipP, ipQ := netip.MustParseAddr("10.77.0.5"), netip.MustParseAddr("10.77.0.6")
	broadcast := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	bridged := frame(macQ, macP, 0x0800, ipv4(ipP, ipQ, "to-neighbour"))
	shouted := frame(broadcast, macP, 0x0800, ipv4(ipP, netip.MustParseAddr("10.77.255.255"), "to-neighbour"))
	routed := frame(b.mac, macP, 0x0800, ipv4(ipP, ipQ, "to-neighbour"))
	rounds := 0
	reaches := func(f []byte) bool {
		rounds++
		sent, last := fmt.Sprintf("sent-%d.", rounds), fmt.Sprintf("the-host-reaches-it-%d.", rounds)
		wire := newSniffer(t, b)
		write(t, tapP, f)
		write(t, tapP, frame(b.mac, macP, 0x0800, ipv4(ipP, b.gateway, sent)))
		until(t, wire.File, sent)
		hostSends(t, b, "10.77.0.6:9", last)
		return contains(until(t, tapQ, last), "to-neighbour")
	}
	// A host with containers has this on, and a namespace inherits it.
	setting := func(path, value string) {
		require.NoError(t, b.ns.do(func() error { return os.WriteFile(path, []byte(value), 0o644) }))
	}
	setting("/proc/sys/net/ipv4/ip_forward", "1")
	require.False(t, reaches(bridged), "by way of the bridge")
	require.False(t, reaches(shouted), "by broadcast")
	require.False(t, reaches(routed), "by way of the gateway")

	dropFilter(t, b)
	require.True(t, reaches(routed), "control: routed, without the filter")
	require.False(t, reaches(bridged), "the ports are isolated also without the filter")
	require.False(t, reaches(shouted), "the ports are isolated also without the filter")
	link, err := b.routes.LinkByName(tapName(p.ID))
	require.NoError(t, err)
	require.NoError(t, b.routes.LinkSetIsolated(link, false))
	require.True(t, reaches(bridged), "control: bridged, without isolation")
	require.True(t, reaches(shouted), "control: broadcast, without isolation")
}
