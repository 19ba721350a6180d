package kvm

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm/hostnet"
)

// splitNetwork is two networks that never meet: that of the instances and that of
// their clones. It is known by the address which is meant, and no two ports have one ID.
type splitNetwork struct {
	hostnet.Network
	clones hostnet.Network
}

// joinNetworks returns the networks as one. User networking cuts every machine off
// from all others, so that one is enough.
func joinNetworks(main, clones hostnet.Network) (hostnet.Network, error) {
	if clones == nil {
		if main.Pool() != "" {
			return main, nil
		}
		clones = main
	}
	if main.Pool() == "" && clones.Pool() == "" {
		return splitNetwork{Network: main, clones: main}, nil
	}
	pools := [2]netip.Prefix{}
	for n, network := range []hostnet.Network{main, clones} {
		var err error
		if pools[n], err = netip.ParsePrefix(network.Pool()); err != nil {
			return nil, errors.New("the instances' network and that of clones must be of one kind")
		}
	}
	if pools[0].Overlaps(pools[1]) {
		return nil, errors.New("the instances' network and that of clones have addresses in common: " + main.Pool() + " and " + clones.Pool())
	}
	return splitNetwork{main, clones}, nil
}

// two tells whether there are two in fact.
func (n splitNetwork) two() bool { return n.clones != n.Network }

// has tells whether an address is a clone's.
func (n splitNetwork) has(at netip.Addr) bool {
	pool, err := netip.ParsePrefix(n.clones.Pool())
	return err == nil && pool.Contains(at)
}

// Attach implements hostnet.Network.
func (n splitNetwork) Attach(ctx context.Context, p hostnet.Port) (hostnet.Attachment, error) {
	if at, err := netip.ParsePrefix(p.Address); err == nil && n.has(at.Addr()) {
		return n.clones.Attach(ctx, p)
	}
	return n.Network.Attach(ctx, p)
}

// Detach implements hostnet.Network.
func (n splitNetwork) Detach(ctx context.Context, id fleet.InstanceID) error {
	err := n.Network.Detach(ctx, id)
	if n.two() {
		err = errors.Join(err, n.clones.Detach(ctx, id))
	}
	return err
}

// List implements hostnet.Network.
func (n splitNetwork) List(ctx context.Context) ([]fleet.InstanceID, error) {
	ids, err := n.Network.List(ctx)
	if err != nil || !n.two() {
		return ids, err
	}
	more, err := n.clones.List(ctx)
	if err != nil {
		return nil, err
	}
	ids = append(ids, more...)
	slices.Sort(ids)
	return ids, nil
}

// DialContext implements hostnet.Network.
func (n splitNetwork) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if at, err := netip.ParseAddrPort(address); err == nil && n.has(at.Addr()) {
		return n.clones.DialContext(ctx, network, address)
	}
	return n.Network.DialContext(ctx, network, address)
}
