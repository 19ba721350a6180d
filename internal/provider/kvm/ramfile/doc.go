// Package ramfile packs the memory of a guest that sleeps, a sparse file, and
// the state of its devices, a small one, into one file, and unpacks it again.
//
// Both files are cut into chunks of 1 MiB. Each is compressed (zstd, RFC 8878)
// and sealed on its own, so that both directions use all cores and need the
// memory of a few chunks per core. Holes and pages of zeros take no room, and
// are holes after unpacking.
//
// # Format, version 1
//
// All numbers are little endian.
//
//	header  8 bytes   "DMRAMFIL"
//	        uint32    version
//	        uint32    flags: 1 = sealed by the caller's key
//	        uint64    size of the memory in bytes
//	        uint64    size of the state in bytes
//	        32 bytes  salt, random for each file
//	chunks  those of the memory and of the state that are not all zeros, in any order
//	table   for each chunk of the memory, then of the state:
//	          uint64  offset in this file
//	          uint32  length, 0 for a chunk of zeros only
//	        16 bytes  tag
//
// The header tells how long the table is, and the table's end is the file's.
//
// A chunk is, before compression, a bitmap of its pages (4 KiB; bit 0 of byte 0
// is the first) and the pages whose bit is set.
//
// # Sums and secrecy
//
// Chunks are encrypted and the table is authenticated by AES-256-GCM (NIST SP
// 800-38D) under a key of this file only: HKDF-SHA256 (RFC 5869) of the caller's
// key and the salt, with the whole header as info. The nonce is the position. So
// nothing can be changed, moved, cut off or taken from another file without
// notice. A file is not stopped from being replaced by an older whole one of the
// same key: who uses a state once removes its file.
//
// Without a key of the caller's a public one stands in for it. The tags are then
// checksums (of 128 bits) that whoever can write the file can make, and nothing
// is secret. One way of writing serves both.
//
// # What it must not do
//
// It believes no size that it reads: the caller says how much may come out. It
// syncs nothing; what must survive a power cut is for the caller to sync.
package ramfile
