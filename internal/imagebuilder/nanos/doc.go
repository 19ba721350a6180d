// Package nanos builds images for the Nanos unikernel (nanos.org): one process
// in one address space, without fork.
//
// An image is one bootable raw disk for BIOS, the same for all tenants: boot
// code from the release, 4 KiB into which the kernel writes its last words, a small
// file system with kernel and modules (bootfs), and the root file system, whose root tuple is the
// kernel's manifest. See package tfs for the format. What an image is made from besides the
// package is a release directory as nanos.org publishes it: boot.img, kernel.img, klibs.
//
// A tenant's disk is a qcow2 overlay over it, in which a record at the end of the
// root file system's log sets environment, arguments and address, and a
// configuration volume of a few KiB with hosts and resolv.conf. The image boots without
// them as well: with the package's own arguments, and an address by DHCP.
//
// All that persists lies on one volume, a TFS without a partition table, which the
// kernel mounts by label at one directory of ours. The persistent directories
// themselves are symbolic links into it, and what the image holds below them is where the
// volume will be mounted, so that the program finds the same with a volume and without.
// Package and release may change what persists: the volume keeps each directory by its path.
//
// WriteUEFI makes a disk for machines without BIOS of an image. ReadExit reads what the
// kernel left on a disk when its program failed, Evidence what a console log says of what
// the kernel lacks; SpecialiseTraced makes a boot that says all of it. The kernel takes a flag of mmap that it does
// not honour, for which MariaDB loses data: guard.go keeps programs from believing it.
//
// Nanos has no users, no modes and no time stamps of ours: every file is root's.
//
// A failure leaves nothing outside of the directory that the caller gave, and is
// KindUnavailable where the release is at fault and fleet.ReasonImageBuild where the package is.
package nanos
