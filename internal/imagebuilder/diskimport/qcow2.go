package diskimport

import "encoding/binary"

// Incompatible features of a qcow2 image (QEMU's docs/interop/qcow2.txt).
const (
	featureDirty    = 1 << 0
	featureCorrupt  = 1 << 1
	featureExternal = 1 << 2
	featureZstd     = 1 << 3
	featureL2       = 1 << 4
)

// lookQCOW2 reads an image's header and returns the disk's size.
func lookQCOW2(head []byte) (int64, error) {
	be := binary.BigEndian
	if len(head) < 72 {
		return 0, invalid("the qcow2 image is cut off")
	}
	version := be.Uint32(head[4:])
	if version != 2 && version != 3 {
		return 0, invalid("it is a qcow2 image of version %d: 2 and 3 are known", version)
	}
	if be.Uint64(head[8:]) != 0 || be.Uint32(head[16:]) != 0 {
		return 0, invalid("the qcow2 image has a backing file: make it whole with `qemu-img convert -O qcow2`")
	}
	if be.Uint32(head[32:]) != 0 {
		return 0, invalid("the qcow2 image is encrypted: decrypt it with `qemu-img convert`")
	}
	if bits := be.Uint32(head[20:]); bits < 9 || bits > 21 {
		return 0, invalid("the qcow2 image is damaged: it has clusters of 2^%d bytes", bits)
	}
	if version == 3 {
		if len(head) < 104 {
			return 0, invalid("the qcow2 image is cut off")
		}
		features := be.Uint64(head[72:])
		switch {
		case features&featureCorrupt != 0:
			return 0, invalid("the qcow2 image is marked as corrupt: mend it with `qemu-img check -r all`")
		case features&featureExternal != 0:
			return 0, invalid("the content of the qcow2 image lies in another file: make it whole with `qemu-img convert -O qcow2`")
		case features&^(featureDirty|featureZstd|featureL2) != 0:
			return 0, invalid("the qcow2 image has features that are not known here (%#x)", features)
		}
	}
	size := be.Uint64(head[24:])
	if size > 1<<62 {
		return 0, invalid("the qcow2 image is damaged: it claims %d bytes", size)
	}
	return int64(size), nil
}
