// Package stock makes a bootable linux guest out of the distribution's own
// kernel package, without installing it.
//
// scripts/fetch-kernel.sh leaves the package (on Ubuntu two: the image and its
// modules) in a directory; Unpack takes the kernel and the few modules that a
// guest needs out of it, and BuildInitrd packs those modules with our init into
// an initrd. A kernel directory looks like this:
//
//	<dir>/<release>/vmlinuz       as the package has it
//	<dir>/<release>/vmlinux       the same, unpacked, where QEMU can start it so (PVH)
//	<dir>/<release>/modules/*.ko  uncompressed, by the kernel's name for them
//	<dir>/<release>/order         how init loads them, see ModuleOrder
//	<dir>/<release>/kernel.json   Kernel, with a digest of all of the above
//
// Which modules: the virtio drivers, squashfs and ext4, and for disks that boot
// elsewhere the drivers of the machines there as far as the package has them; less
// what the kernel has built in (modules.builtin), plus what those depend on. The packages have no
// modules.dep (depmod makes it at installation), so dependencies are read from
// where depmod reads them: the .modinfo section of each module.
//
// Invariants: a kernel directory appears whole or not at all (it is renamed into
// place), its digest depends on nothing but the package, and the same directory
// and init give the same initrd, byte for byte. Nothing that a package holds is
// run, and paths in it are never used as paths on this machine.
//
// Failures are fleet errors: KindNotFound where there is no kernel, KindInvalid
// where a package is broken or is not a kernel's.
package stock
