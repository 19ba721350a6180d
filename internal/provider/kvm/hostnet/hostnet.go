package hostnet

import (
	"context"
	"net"
	"os"

	"dormouse/internal/fleet"
)

// Network connects instances to the host and lets the host reach them. All
// methods may be called concurrently.
type Network interface {
	// Pool is the CIDR that addresses are leased from. It is "" where loopback
	// ports are forwarded instead (user networking).
	Pool() string

	// Attach gives the instance a port, or repairs the one that it has. It is
	// idempotent by p.ID. The caller closes the attachment's TapFD once the
	// hypervisor runs.
	Attach(ctx context.Context, p Port) (Attachment, error)

	// Spare returns a port like those that Attach gives, for a hypervisor whose
	// guest never runs: it leads nowhere, and is gone with its descriptor, which the
	// caller closes. It has neither endpoints nor addresses.
	Spare(ctx context.Context) (Attachment, error)

	// Detach takes the instance's port away. It returns nil if it is gone
	// already.
	Detach(ctx context.Context, id fleet.InstanceID) error

	// List names the instances that have a port now, in ascending order.
	List(ctx context.Context) ([]fleet.InstanceID, error)

	// DialContext connects to an endpoint of an attachment. The address is a
	// literal IPv4 address with a port.
	DialContext(ctx context.Context, network, address string) (net.Conn, error)

	// Close releases handles and leaves the network as it is.
	Close() error

	// Remove takes the whole network away: all ports, the bridge and the
	// namespace.
	Remove(ctx context.Context) error
}

// Port says what an instance needs from the network.
type Port struct {
	// ID is the instance that the port belongs to.
	ID fleet.InstanceID
	// MAC is the guest's hardware address, such as "52:54:00:12:34:56".
	MAC string
	// Address is the guest's address as a CIDR, from the pool. It is "" for
	// user networking.
	Address string
	// Ports are the guest's TCP ports that the host has to reach.
	Ports []int
	// UID owns the tap, so that a hypervisor without privileges may use it.
	UID int
}

// Attachment is what the hypervisor is started with and how the guest is
// reached.
type Attachment struct {
	// TapFD is an open queue of the instance's tap; nil for user networking.
	// The caller closes it after the hypervisor has started.
	TapFD *os.File
	// NetdevArgs returns the value of QEMU's -netdev option with the id net0.
	// The argument is the number that TapFD has in QEMU; user networking
	// ignores it.
	NetdevArgs func(fd int) string
	// Endpoints maps a guest port to the host:port to give DialContext.
	Endpoints map[int]string
	// GuestAddress is the guest's address as a CIDR.
	GuestAddress string
	// Gateway is the guest's default gateway, an address without a prefix.
	Gateway string
}
