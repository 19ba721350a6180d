// Package qcow2 writes and reads copy-on-write overlays in QEMU's qcow2 format,
// version 3 (docs/interop/qcow2.txt in QEMU's sources): no more of it than an
// image needs that many tenants share.
//
// An overlay does not name what lies below it. Whoever opens it says so, with
// QEMU as the option backing=NODE of its blockdev; a path in a file that a guest
// writes to would be a path that a guest could choose. Create writes the few clusters that differ from the
// base, and leaves holes where a file system can. Open reads an overlay that a QEMU
// has written to, without compression, encryption, snapshots of its own or an external data
// file: what it does not know it refuses, and every offset is checked.
//
// The package knows nothing of what is on the disk.
package qcow2
