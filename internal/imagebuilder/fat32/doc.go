// Package fat32 writes FAT32 volumes: the EFI system partitions of bootable
// disks. It does not read or change one that is there.
//
// The format is Microsoft's "FAT: General Overview of On-Disk Format" (version
// 1.03), which the UEFI specification (13.3) refers to. Sectors are 512 bytes
// and clusters one sector, so that the smallest volume with enough clusters is
// 33 MiB: firmware takes a volume with fewer than 65,525 clusters for FAT16,
// whatever its boot sector says. A volume grows as its files do.
//
// Names are 8.3 and upper-case, which is all that firmware needs (\EFI\BOOT\BOOTX64.EFI):
// no long names are written.
//
// The same files give the same bytes: times are the format's own beginning
// (1980-01-01), and nothing is taken from the machine. Contents are streamed; of
// the allocation tables only a piece is in memory at a time.
package fat32
