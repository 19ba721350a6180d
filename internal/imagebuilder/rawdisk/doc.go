// Package rawdisk is the kernel of disks that were imported as they are: an
// image of it is the disk itself, and whatever is on it starts by itself.
//
// An installation keeps what its guest writes to the disk. Its volume is
// therefore no disk beside the first one but a qcow2 overlay over the image, which
// all installations share: FormatVolume writes it, empty, and marks it with the disk
// that it belongs to. Over another disk it would be nonsense, so that another image is refused.
//
// A volume must have room for every byte of the disk, so that a guest never
// finds its disk full before its file system is. Where it has more, the disk is
// longer, as on a cloud: what is on it grows into that when it starts (growpart).
//
// The guest learns its name, its address and its environment as clouds tell
// them: from a volume with the label cidata, for cloud-init's data source NoCloud
// (cloudinit.readthedocs.io, "NoCloud"). A guest that does not look there
// must ask by DHCP, which only the network of the kind user answers.
//
// The package does not read what is on the disk but its first sector.
package rawdisk
