// Package linux builds images for the linux kernel: the package's tree as a
// read-only squashfs that all tenants share, beside the kernel and the initrd
// that boot it.
//
// An image's directory holds
//
//	root.squashfs   the package's tree, with the mount points that the guest's init needs
//	kernel, initrd  the kernel and initrd as they were when the image was built
//	cmdline         the kernel's command line, less what the provider adds
//
// kernel and initrd are hard links to the files of the kernel directory where
// the file system allows it, so that a thousand images hold one kernel, and
// an image still boots what it was built with after the kernel has been
// replaced (by rename, as package stock does; never in place).
//
// The squashfs is made by mksquashfs, the well-kept tool, from a tar on its
// standard input: no file of the package is ever unpacked on the host, and no
// link of it can be followed there. It has the same bytes for the same tree.
// What mksquashfs can't read it would leave out and go on; so the inodes in the
// result are counted, and a build that lost any is an error.
package linux
