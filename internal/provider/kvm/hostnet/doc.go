// Package hostnet is the network of a KVM host: it gives each instance a port,
// lets the host reach the guests, and keeps the guests from one another, from
// the host's own network and from any address or MAC that is not theirs.
//
// There are two implementations. Bridge, for root, is a bridge with a tap per
// instance in a network namespace of our own (docs/decisions/0002 has the
// reasons). User, for everybody else, is QEMU's user networking with forwarded
// loopback ports. Detect tells which of them this machine can have. Neither
// offers egress yet.
//
// Bridge keeps no state of its own: the kernel has it all. A tap's alias is the
// ID of its instance, and the set "ports" of the table "dormouse" (bridge
// family) holds who may send as what; that set is the truth about which address
// a port has. Its chain drops by default, so a port that is half made, and a
// namespace whose rules were just made anew, pass nothing. Every change is one
// that Attach makes again, so a crash between two of them is mended by the next
// Attach, or undone by the next Detach. User keeps its allocations in one file
// that is replaced atomically.
//
// An address belongs to one port at a time. Attach takes it from the port of
// another instance that has it (an installation's next instance inherits the
// address of its predecessor); that port passes nothing until it is attached
// again.
//
// The package starts no hypervisor and knows no installation.
package hostnet
