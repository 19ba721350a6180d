package qcow2

import (
	"encoding/binary"
	"errors"
)

const (
	magic        = "QFI\xfb"
	version      = 3
	headerLength = 104
	// ClusterBits gives clusters of 4 KiB: what a guest's page cache writes, so that nothing has
	// to be read from the base for it, and a small overlay where most is tables.
	ClusterBits = 12
	// MaxSize is the largest disk that Create makes, in bytes: its first table has 4 MiB.
	MaxSize = 1 << 40

	// MaxMark bounds a mark, in bytes.
	MaxMark = 1 << 10
	// markType is our header extension: a number that nobody else has, which QEMU
	// keeps as an extension that it does not know.
	markType = 0x444d5355

	offsetMask     = 0x00fffffffffffe00
	copiedFlag     = 1 << 63
	compressedFlag = 1 << 62
	zeroFlag       = 1

	incompatDirty = 1 << 0 // reference counts may be wrong; nothing that matters for reading
)

// ErrDamaged is wrapped by the errors about what an overlay holds.
var ErrDamaged = errors.New("the qcow2 file is damaged or of a kind that can't be read")

// header is the beginning of the file; big-endian.
type header struct {
	Magic                 [4]byte
	Version               uint32
	BackingOffset         uint64
	BackingSize           uint32
	ClusterBits           uint32
	Size                  uint64
	Crypt                 uint32
	L1Size                uint32
	L1Offset              uint64
	RefcountOffset        uint64
	RefcountClusters      uint32
	Snapshots             uint32
	SnapshotsOffset       uint64
	Incompatible          uint64
	Compatible, Autoclear uint64
	RefcountOrder         uint32
	Length                uint32
}

func clusters(bytes, clusterSize int64) int64 { return (bytes + clusterSize - 1) / clusterSize }

func putUint64s(b []byte, values []uint64) {
	for i, v := range values {
		binary.BigEndian.PutUint64(b[8*i:], v)
	}
}
