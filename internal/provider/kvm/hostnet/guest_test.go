package hostnet

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// vnetHeader is what precedes each frame on a tap with IFF_VNET_HDR.
const vnetHeader = 10

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces; CI runs as root")
	}
}

// newBridge returns a network that is removed when the test ends.
func newBridge(t *testing.T, o Options) *Bridge {
	t.Helper()
	needRoot(t)
	if o.Name == "" {
		o.Name = "dormouse-test-" + fleet.NewID()
	}
	b, err := NewBridge(o)
	require.NoError(t, err)
	t.Cleanup(func() {
		b.mu.Lock()
		closed := b.closed
		b.mu.Unlock()
		if !closed {
			require.NoError(t, b.Remove(context.Background()))
			require.NoFileExists(t, filepath.Join(namespaceDir, o.Name))
		}
	})
	return b
}

func newPort(last byte, ports ...int) Port {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0, 0, last}
	return Port{ID: fleet.InstanceID(fleet.NewID()), MAC: mac.String(), Ports: ports,
		Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 0, last}), 16).String()}
}

// attach returns the attachment and its tap as a file whose reads can be given a deadline.
func attach(t *testing.T, b *Bridge, p Port) (Attachment, *os.File) {
	t.Helper()
	a, err := b.Attach(t.Context(), p)
	require.NoError(t, err)
	require.NotNil(t, a.TapFD)
	return a, pollable(t, a.TapFD)
}

func pollable(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, unix.SetNonblock(fd, true))
	file := os.NewFile(uintptr(fd), f.Name())
	t.Cleanup(func() { _ = file.Close() }) // a test may have closed it
	return file
}

// guestStack is a guest without a hypervisor: a namespace with a network stack,
// whose one interface is wired to a tap of the bridge.
type guestStack struct{ *thread }

func newGuestStack(t *testing.T, p Port, wire *os.File, gateway string) guestStack {
	t.Helper()
	var handle *netlink.Handle
	var end *os.File
	th, err := startThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		end, err = openTap("eth0", 0)
		return err
	})
	require.NoError(t, err)
	defer handle.Close()
	link, err := handle.LinkByName("eth0")
	require.NoError(t, err)
	mac, err := net.ParseMAC(p.MAC)
	require.NoError(t, err)
	require.NoError(t, handle.LinkSetHardwareAddr(link, mac))
	addr, err := netlink.ParseAddr(p.Address)
	require.NoError(t, err)
	require.NoError(t, handle.AddrAdd(link, addr))
	require.NoError(t, handle.LinkSetUp(link))
	require.NoError(t, handle.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway)}))
	file := pollable(t, end)
	done := make(chan struct{}, 2)
	for _, ends := range [][2]*os.File{{file, wire}, {wire, file}} {
		go func() {
			defer func() { done <- struct{}{} }()
			buffer := make([]byte, 65536)
			for {
				n, err := ends[0].Read(buffer)
				if err != nil {
					return
				}
				if _, err := ends[1].Write(buffer[:n]); err != nil {
					return
				}
			}
		}()
	}
	t.Cleanup(func() {
		require.NoError(t, file.Close())
		_ = wire.Close() // the test may have closed it
		<-done
		<-done
		th.close()
	})
	return guestStack{th}
}

// serveEcho answers on a TCP port of the guest until the test ends.
func (g guestStack) serveEcho(t *testing.T, address string) {
	t.Helper()
	var listener net.Listener
	require.NoError(t, g.do(func() (err error) { listener, err = net.Listen("tcp4", address); return err }))
	t.Cleanup(func() { require.NoError(t, listener.Close()) })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn) // the peer decides how it ends
			}()
		}
	}()
}

// frame is an Ethernet frame, as written to a tap.
func frame(dst, src net.HardwareAddr, etherType uint16, payload []byte) []byte {
	f := make([]byte, vnetHeader, vnetHeader+14+len(payload))
	f = append(f, dst...)
	f = append(f, src...)
	f = binary.BigEndian.AppendUint16(f, etherType)
	return append(f, payload...)
}

// arpReply is an ARP message that claims ip for mac.
func arpReply(mac net.HardwareAddr, ip, target netip.Addr) []byte {
	m := []byte{0, 1, 8, 0, 6, 4, 0, 2}
	m = append(m, mac...)
	m = append(m, ip.AsSlice()...)
	m = append(m, 0, 0, 0, 0, 0, 0)
	return append(m, target.AsSlice()...)
}

// ipv4 is a UDP datagram over IPv4, with a correct header checksum.
func ipv4(src, dst netip.Addr, body string) []byte {
	h := make([]byte, 20, 28+len(body))
	h[0], h[8], h[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(h[2:], uint16(28+len(body)))
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum+sum>>16))
	h = binary.BigEndian.AppendUint16(h, 4000)
	h = binary.BigEndian.AppendUint16(h, 4001)
	h = binary.BigEndian.AppendUint16(h, uint16(8+len(body)))
	h = append(h, 0, 0) // no checksum
	return append(h, body...)
}

// ipv6 is a packet without a next header between two link-local addresses. It
// is well-formed, because br_netfilter drops others by itself.
func ipv6(body string) []byte {
	h := make([]byte, 40, 40+len(body))
	h[0], h[5], h[6], h[7] = 0x60, byte(len(body)), unix.IPPROTO_NONE, 64
	h[8], h[9], h[23] = 0xfe, 0x80, 5
	h[24], h[25], h[39] = 0xfe, 0x80, 1
	return append(h, body...)
}
