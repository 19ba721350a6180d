// Package gpt writes the partition table of disks that boot by UEFI: a GUID
// partition table, both copies of it, and the protective MBR before it. It does
// not read tables, and what the partitions hold is the caller's.
//
// The format is the UEFI specification's, chapter 5. Sectors are 512 bytes and
// partitions begin at whole MiB, as every partitioner has them. GUIDs are given
// or derived from content by Derive, never random, so that the same disk has the
// same bytes.
package gpt
