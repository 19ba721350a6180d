package hostnet

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
)

// DefaultPool is the CIDR that a bridge leases from where none is given.
const DefaultPool = "10.77.0.0/16"

// MaxPorts is how many instances one bridge takes: the kernel's limit.
const MaxPorts = 1023

// Options configure a network. Each field says which implementation reads it.
type Options struct {
	// Name is the network namespace of a Bridge, as `ip netns` shows it: one
	// for each data directory (NameFor), so that two provisioners on one
	// machine never meet. Required.
	Name string
	// Pool is the IPv4 CIDR of a Bridge, from /8 to /29; DefaultPool where
	// empty. Its first address is the gateway. It may be the same as a network
	// that the machine has a route to.
	Pool string
	// StateDir is where a User keeps its allocations, in user-network.json. It
	// must exist. Required.
	StateDir string
	// FirstPort and LastPort bound the loopback ports of a User. 0 is 20000 and
	// 29999, below the range from which Linux takes ports for outgoing
	// connections.
	FirstPort, LastPort int
	// Log may be nil.
	Log logrus.FieldLogger
}

func (o Options) logger() logrus.FieldLogger {
	if o.Log != nil {
		return o.Log
	}
	quiet := logrus.New()
	quiet.SetLevel(logrus.PanicLevel)
	return quiet
}

// NameFor returns the namespace that belongs to a data directory: always the
// same one for the same absolute path.
func NameFor(dataDir string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(dataDir)))
	return "dormouse-" + hex.EncodeToString(sum[:5])
}

// parsePool checks a pool and returns it with its gateway.
func parsePool(pool string) (netip.Prefix, netip.Addr, error) {
	if pool == "" {
		pool = DefaultPool
	}
	prefix, err := netip.ParsePrefix(pool)
	if err != nil {
		return prefix, netip.Addr{}, fleet.Errorf(fleet.KindInvalid, "address pool %q: give an IPv4 network such as %s", pool, DefaultPool)
	}
	if !prefix.Addr().Is4() || prefix.Bits() < 8 || prefix.Bits() > 29 || prefix != prefix.Masked() {
		return prefix, netip.Addr{}, fleet.Errorf(fleet.KindInvalid,
			"address pool %q: give the network address of an IPv4 network from /8 to /29, such as %s", pool, DefaultPool)
	}
	return prefix, prefix.Addr().Next(), nil
}

// guestAddress checks that a port's address is one that a guest of the pool may have.
func guestAddress(pool netip.Prefix, gateway netip.Addr, address string) (netip.Addr, error) {
	prefix, err := netip.ParsePrefix(address)
	if err != nil {
		return netip.Addr{}, fleet.InvalidField("address", "address %q: give it with a prefix length, as in %s/%d", address, gateway.Next(), pool.Bits())
	}
	addr := prefix.Addr()
	switch {
	case !pool.Contains(addr) || prefix.Bits() != pool.Bits():
		return addr, fleet.InvalidField("address", "address %s is not of the pool %s", address, pool)
	case addr == gateway || addr == pool.Addr() || !pool.Contains(addr.Next()):
		return addr, fleet.InvalidField("address", "address %s is the pool's gateway, network or broadcast address", address)
	}
	return addr, nil
}

// guestMAC checks that a hardware address is one that a guest may have.
func guestMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || [6]byte(mac) == [6]byte{} {
		return nil, fleet.InvalidField("mac", "hardware address %q: give six bytes in hex, no multicast address, such as 52:54:00:12:34:56", s)
	}
	return mac, nil
}

func checkPort(p Port) error {
	if !fleet.ValidID(string(p.ID)) {
		return fleet.InvalidField("id", "instance ID %q is none", p.ID)
	}
	for _, port := range p.Ports {
		if port < 1 || port > 65535 {
			return fleet.InvalidField("ports", "guest port %d: give one from 1 to 65535", port)
		}
	}
	return nil
}

// dialTarget checks what DialContext is given: TCP to a literal IPv4 address.
func dialTarget(network, address string) (netip.AddrPort, error) {
	target, err := netip.ParseAddrPort(address)
	if err != nil || !target.Addr().Is4() || target.Port() == 0 {
		return target, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("address %q is no literal IPv4 address with a port", address)}
	}
	if network != "tcp" && network != "tcp4" {
		return target, &net.OpError{Op: "dial", Net: network, Err: net.UnknownNetworkError(network)}
	}
	return target, nil
}
