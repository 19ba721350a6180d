package hostnet

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// bridgeName is the bridge's name in its namespace.
const bridgeName = "dormouse0"

// Bridge is a Network of taps on a bridge in a network namespace of its own. It
// needs root.
type Bridge struct {
	pool    netip.Prefix
	gateway netip.Addr
	mac     net.HardwareAddr
	log     logrus.FieldLogger
	ns      *namespace
	routes  *netlink.Handle

	// mu makes one change at a time; the kernel does the same.
	mu     sync.Mutex
	filter *filter
	closed bool
}

var _ Network = (*Bridge)(nil)

// NewBridge opens the network of that name, with all ports that it has, and
// makes it first where there is none.
func NewBridge(o Options) (*Bridge, error) {
	pool, gateway, err := parsePool(o.Pool)
	if err != nil {
		return nil, err
	}
	if o.Name == "" || o.Name != filepath.Base(o.Name) || strings.HasPrefix(o.Name, ".") {
		return nil, fleet.Errorf(fleet.KindInvalid, "network namespace %q: give a file name", o.Name)
	}
	// The bridge keeps its hardware address whatever becomes of it, because
	// guests remember it, also those whose memory is saved.
	sum := sha256.Sum256([]byte(o.Name))
	b := &Bridge{pool: pool, gateway: gateway, mac: net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]},
		log: o.logger().WithField("namespace", o.Name)}
	if b.ns, err = openNamespace(o.Name); err != nil {
		return nil, err
	}
	b.filter = &filter{ns: b.ns}
	err = b.ns.do(func() (err error) {
		b.quietKernel()
		b.routes, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err == nil {
		err = errors.Join(b.ensure(), b.removeHalfMade())
	}
	if err != nil {
		if b.ns.created {
			err = errors.Join(err, b.ns.removeName())
		}
		return nil, errors.Join(fmt.Errorf("setting up the guests' network: %w", err), b.Close())
	}
	return b, nil
}

// quietKernel keeps the namespace from routing and from talking IPv6 to the
// guests. The packet filter ensures the first anyhow, so a read-only /proc/sys
// (some containers) is no error. It must run on the namespace's thread.
func (b *Bridge) quietKernel() {
	for path, value := range map[string]string{
		"/proc/sys/net/ipv4/ip_forward":                "0",
		"/proc/sys/net/ipv6/conf/default/disable_ipv6": "1",
	} {
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			b.log.WithError(err).Debug("kernel setting left as it is")
		}
	}
}

// ensure makes what all ports need, where it is not there.
func (b *Bridge) ensure() error {
	if err := b.ns.keepName(); err != nil {
		return fmt.Errorf("naming the network namespace: %w", err)
	}
	if err := b.filter.ensure(); err != nil {
		return err
	}
	link, err := b.routes.LinkByName(bridgeName)
	if isNotFound(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = bridgeName, b.mac
		noSnooping := false // it would have the bridge send queries to the guests
		// Spanning tree is off unless asked for: a port passes at once.
		if err := b.routes.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &noSnooping}); err != nil {
			return fmt.Errorf("making the bridge: %w", err)
		}
		link, err = b.routes.LinkByName(bridgeName)
	}
	if err != nil {
		return fmt.Errorf("looking for the bridge: %w", err)
	}
	return b.ensureAddress(link)
}

func (b *Bridge) ensureAddress(bridge netlink.Link) error {
	want := &netlink.Addr{IPNet: &net.IPNet{IP: b.gateway.AsSlice(), Mask: net.CIDRMask(b.pool.Bits(), 32)}}
	have, err := b.routes.AddrList(bridge, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("reading the bridge's address: %w", err)
	}
	for _, addr := range have {
		if !addr.Equal(*want) { // the pool was another one
			if err := b.routes.AddrDel(bridge, &addr); err != nil {
				return fmt.Errorf("removing the bridge's old address: %w", err)
			}
		}
	}
	if err := b.routes.AddrReplace(bridge, want); err != nil {
		return fmt.Errorf("setting the bridge's address: %w", err)
	}
	if err := b.routes.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("setting the bridge up: %w", err)
	}
	return nil
}

// removeHalfMade removes the taps that a crash left without an alias: nobody
// was ever given one.
func (b *Bridge) removeHalfMade() error {
	taps, err := b.taps()
	if err != nil {
		return err
	}
	for _, tap := range taps {
		if _, ok := tapOwner(tap); ok {
			continue
		}
		b.log.WithField("tap", tap.Attrs().Name).Warn("removing a tap that a crash left half made")
		if err := b.deleteLink(tap); err != nil {
			return err
		}
	}
	return nil
}

func (b *Bridge) taps() ([]netlink.Link, error) {
	var links []netlink.Link
	var err error
	for range 10 { // the kernel tells when the list changed while it was read
		if links, err = b.routes.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listing taps: %w", err)
	}
	return slices.DeleteFunc(links, func(l netlink.Link) bool { return !isTap(l) }), nil
}

func (b *Bridge) deleteLink(link netlink.Link) error {
	if err := b.routes.LinkDel(link); err != nil && !isNotFound(err) {
		return fmt.Errorf("deleting %s: %w", link.Attrs().Name, err)
	}
	return nil
}

func isNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}

// lock begins a change.
func (b *Bridge) lock(ctx context.Context) error {
	b.mu.Lock()
	err := ctx.Err()
	if b.closed {
		err = net.ErrClosed
	}
	if err != nil {
		b.mu.Unlock()
	}
	return err
}

// Pool implements Network.
func (b *Bridge) Pool() string { return b.pool.String() }

// List implements Network.
func (b *Bridge) List(ctx context.Context) ([]fleet.InstanceID, error) {
	if err := b.lock(ctx); err != nil {
		return nil, err
	}
	defer b.mu.Unlock()
	taps, err := b.taps()
	if err != nil {
		return nil, err
	}
	var ids []fleet.InstanceID
	for _, tap := range taps {
		if id, ok := tapOwner(tap); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// Close implements Network.
func (b *Bridge) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.close()
}

func (b *Bridge) close() error {
	if b.closed {
		return nil
	}
	b.closed = true
	b.filter.reset()
	if b.routes != nil {
		b.routes.Close()
	}
	return b.ns.close()
}

// Remove implements Network. It also closes the network. Hypervisors that still
// run keep running without a network.
func (b *Bridge) Remove(ctx context.Context) error {
	if err := b.lock(ctx); err != nil {
		return err
	}
	defer b.mu.Unlock()
	links, err := b.taps()
	if err != nil {
		return err
	}
	if bridge, err := b.routes.LinkByName(bridgeName); err == nil {
		links = append(links, bridge)
	}
	for _, link := range links {
		if err := b.deleteLink(link); err != nil {
			return err
		}
	}
	if err := b.ns.removeName(); err != nil {
		return fmt.Errorf("removing the network namespace: %w", err)
	}
	return b.close()
}

// endpoints maps each port to itself at the guest's address.
func (b *Bridge) endpoints(addr netip.Addr, ports []int) map[int]string {
	endpoints := make(map[int]string, len(ports))
	for _, port := range ports {
		endpoints[port] = net.JoinHostPort(addr.String(), strconv.Itoa(port))
	}
	return endpoints
}
