// Package diskimport takes disks that exist already, as other tools left them, and
// makes raw disks of them as they are: qcow2, vmdk, raw, and the OVA packages of
// hypervisors.
//
// What comes in is hostile. What a file is, its first bytes say, here and once: it is
// never left to a tool that looks for more, because a raw disk's guest writes the
// first bytes, and because some formats name further files, which would be this
// machine's. So a disk with a backing file, or whose data lies in other files, is
// refused, also where the tool would not have followed it. Sizes are bounded before anything is
// unpacked; nothing in a package is used as a path; a failure leaves nothing.
//
// qemu-img (package qemuimg) reads the formats, from the one file that it is given.
package diskimport
