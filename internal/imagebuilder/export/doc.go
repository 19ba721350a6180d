// Package export turns a raw disk that boots into the formats in which clouds and
// hypervisors take it. It knows nothing of what is on the disk, but for whether
// firmware starts it by UEFI or as a BIOS does.
//
//	raw         the disk itself
//	qcow2       QEMU, libvirt, OpenStack, Proxmox
//	vmdk        VMware; stream-optimised, the only kind that ESX and vSphere import
//	vhd         Azure, old Hyper-V: of fixed size, a whole number of MiB
//	vhdx        Hyper-V
//	ova         VMware, VirtualBox: vmdk with a descriptor of the machine
//	gce-tar.gz  Compute Engine: disk.raw, a whole number of GiB, in a tar of GNU's old format
//
// qemu-img writes the formats of disks (package qemuimg), in a private directory;
// archives are streamed. Whatever happens, nothing but what was written to the caller's
// writer stays. Exports of the same disk boot the same, but are not the same
// bytes: qemu-img draws identifiers by lot.
package export
