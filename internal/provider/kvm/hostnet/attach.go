package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// Attach implements Network. The attachment's TapFD is nil where another
// process holds the tap: the instance's hypervisor runs, and its port is mended
// without disturbing it. KindCapacity means that the bridge is full.
func (b *Bridge) Attach(ctx context.Context, p Port) (Attachment, error) {
	if err := checkPort(p); err != nil {
		return Attachment{}, err
	}
	mac, err := guestMAC(p.MAC)
	if err != nil {
		return Attachment{}, err
	}
	addr, err := guestAddress(b.pool, b.gateway, p.Address)
	if err != nil {
		return Attachment{}, err
	}
	if err := b.lock(ctx); err != nil {
		return Attachment{}, err
	}
	defer b.mu.Unlock()
	tap, err := b.attach(p, sender{tap: tapName(p.ID), mac: [6]byte(mac), ip: addr})
	if err != nil {
		return Attachment{}, fmt.Errorf("attaching instance %s to the network: %w", p.ID, err)
	}
	return Attachment{
		TapFD:        tap,
		NetdevArgs:   tapNetdev,
		Endpoints:    b.endpoints(addr, p.Ports),
		GuestAddress: netip.PrefixFrom(addr, b.pool.Bits()).String(),
		Gateway:      b.gateway.String(),
	}, nil
}

// tapNetdev is how QEMU uses a tap. vhost is off: it needs /dev/vhost-net, which
// not every machine has, and a saved guest must find the same device everywhere.
func tapNetdev(fd int) string { return fmt.Sprintf("tap,id=net0,fd=%d,vhost=off", fd) }

func (b *Bridge) attach(p Port, s sender) (_ *os.File, err error) {
	if err := b.ensure(); err != nil {
		return nil, err
	}
	bridge, err := b.routes.LinkByName(bridgeName)
	if err != nil {
		return nil, err
	}
	tap, link, err := b.ensureTap(p)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && tap != nil {
			err = errors.Join(err, tap.Close())
		}
	}()
	// Let in before it is up, and after whoever had the address is out.
	if err := b.admit(bridge, link, s); err != nil {
		return nil, err
	}
	if err := b.plug(bridge, link); err != nil {
		return nil, err
	}
	return tap, b.announce(bridge, link, s)
}

// ensureTap makes the instance's tap, or opens the one that it has.
func (b *Bridge) ensureTap(p Port) (*os.File, netlink.Link, error) {
	name := tapName(p.ID)
	link, err := b.routes.LinkByName(name)
	if err != nil && !isNotFound(err) {
		return nil, nil, err
	}
	if err == nil {
		if owner, ok := tapOwner(link); ok && owner != p.ID {
			return nil, nil, fleet.Errorf(fleet.KindInternal, "tap %s belongs to instance %s", name, owner)
		}
		if tuntap, ok := link.(*netlink.Tuntap); !ok || tuntap.Flags&netlink.TUNTAP_VNET_HDR == 0 {
			b.log.WithField("tap", name).Warn("replacing an interface that is no tap of ours")
			if err := b.deleteLink(link); err != nil {
				return nil, nil, err
			}
		}
	}
	var tap *os.File
	if err := b.ns.do(func() (err error) { tap, err = openTap(name, p.UID); return err }); err != nil {
		return nil, nil, err
	}
	if link, err = b.routes.LinkByName(name); err == nil {
		err = b.routes.LinkSetAlias(link, string(p.ID))
	}
	if err != nil {
		if tap != nil {
			err = errors.Join(err, tap.Close())
		}
		return nil, nil, fmt.Errorf("naming the tap: %w", err)
	}
	return tap, link, nil
}

// admit lets the port send as s, as nothing else, and nobody else as s.
func (b *Bridge) admit(bridge, tap netlink.Link, s sender) error {
	senders, err := b.filter.senders()
	if err != nil {
		return err
	}
	var out []sender
	admitted := false
	for _, have := range senders {
		switch {
		case have == s:
			admitted = true
		case have.tap == s.tap || have.ip == s.ip || have.mac == s.mac:
			out = append(out, have)
			if have.tap != s.tap {
				b.log.WithFields(map[string]any{"address": have.ip, "from": have.tap, "to": s.tap}).Info("address taken over by another port")
			}
		}
	}
	in := []sender{s}
	if admitted {
		in = nil
	}
	if err := b.filter.change(out, in); err != nil {
		return err
	}
	for _, old := range out {
		if err := b.forget(bridge, old); err != nil {
			return err
		}
	}
	return nil
}

// plug puts the tap on the bridge: cut off from the other ports, and reached
// only by frames that are for it.
func (b *Bridge) plug(bridge, tap netlink.Link) error {
	if err := b.routes.LinkSetMaster(tap, bridge); err != nil {
		if errors.Is(err, unix.EXFULL) {
			return fleet.Errorf(fleet.KindCapacity, "the bridge has its %d ports already", MaxPorts)
		}
		return fmt.Errorf("putting the tap on the bridge: %w", err)
	}
	if err := errors.Join(
		b.routes.LinkSetIsolated(tap, true),
		b.routes.LinkSetLearning(tap, false),
		b.routes.LinkSetFlood(tap, false),
	); err != nil {
		return fmt.Errorf("isolating the tap: %w", err)
	}
	if err := b.routes.LinkSetUp(tap); err != nil {
		return fmt.Errorf("setting the tap up: %w", err)
	}
	return nil
}

// announce tells the bridge and the host where the guest is, once and for all:
// nobody has to ask, so the first packet goes straight out, and no guest can
// answer in another's place.
func (b *Bridge) announce(bridge, tap netlink.Link, s sender) error {
	if err := b.routes.NeighSet(forwardingEntry(tap, s)); err != nil {
		return fmt.Errorf("telling the bridge the guest's port: %w", err)
	}
	if err := b.routes.NeighSet(neighbour(bridge, s)); err != nil {
		return fmt.Errorf("telling the host the guest's hardware address: %w", err)
	}
	return nil
}

// forwardingEntry is a static one: NUD_PERMANENT would mean the bridge itself.
func forwardingEntry(tap netlink.Link, s sender) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: tap.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER,
		State: netlink.NUD_NOARP | netlink.NUD_REACHABLE, HardwareAddr: s.hardwareAddr()}
}

func neighbour(bridge netlink.Link, s sender) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: bridge.Attrs().Index, Family: unix.AF_INET, State: netlink.NUD_PERMANENT,
		IP: net.IP(s.ip.AsSlice()), HardwareAddr: s.hardwareAddr()}
}

// forget undoes announce for a sender that is out already.
func (b *Bridge) forget(bridge netlink.Link, s sender) error {
	if err := b.routes.NeighDel(neighbour(bridge, s)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forgetting the guest's hardware address: %w", err)
	}
	tap, err := b.routes.LinkByName(s.tap)
	if isNotFound(err) {
		return nil // and its forwarding entry with it
	}
	if err == nil {
		err = b.routes.NeighDel(forwardingEntry(tap, s))
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("forgetting the guest's port: %w", err)
	}
	return nil
}

// Detach implements Network.
func (b *Bridge) Detach(ctx context.Context, id fleet.InstanceID) error {
	if err := b.lock(ctx); err != nil {
		return err
	}
	defer b.mu.Unlock()
	if err := b.detach(id); err != nil {
		return fmt.Errorf("detaching instance %s from the network: %w", id, err)
	}
	return nil
}

// detach deletes the tap last: as long as it is there, List names it.
func (b *Bridge) detach(id fleet.InstanceID) error {
	name := tapName(id)
	senders, err := b.filter.senders()
	if err != nil {
		return err
	}
	var own []sender
	for _, s := range senders {
		if s.tap == name {
			own = append(own, s)
		}
	}
	if err := b.filter.change(own, nil); err != nil {
		return err
	}
	bridge, err := b.routes.LinkByName(bridgeName)
	if err != nil && !isNotFound(err) {
		return err
	}
	if err == nil {
		for _, s := range own {
			if err := b.forget(bridge, s); err != nil {
				return err
			}
		}
	}
	link, err := b.routes.LinkByName(name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return b.deleteLink(link)
}
