package source

import (
	"errors"
	"syscall"

	"dormouse/internal/fleet"
)

// Limits bound what one package may hold. Zero fields take the default.
type Limits struct {
	// Members is how many files, directories and links a package or the image
	// made from it may have, directories that are only implied included.
	Members int
	// Bytes bounds the decompressed archive, and likewise the sum of the sizes
	// of all files of the image (each hard link and hole counted in full).
	Bytes int64
	// NameBytes bounds the sum of the lengths of all names and link targets.
	NameBytes int64
	// ManifestBytes bounds package.manifest.
	ManifestBytes int64
}

// The default limits.
const (
	DefaultMembers       = 200_000
	DefaultBytes         = 4 << 30
	DefaultNameBytes     = 64 << 20
	DefaultManifestBytes = 256 << 10
)

// Lengths that Linux can't exceed (limits.h: PATH_MAX, NAME_MAX).
const (
	maxPath = 4095
	maxName = 255
)

func (l Limits) withDefaults() Limits {
	if l.Members <= 0 {
		l.Members = DefaultMembers
	}
	if l.Bytes <= 0 {
		l.Bytes = DefaultBytes
	}
	if l.NameBytes <= 0 {
		l.NameBytes = DefaultNameBytes
	}
	if l.ManifestBytes <= 0 {
		l.ManifestBytes = DefaultManifestBytes
	}
	return l
}

func tooManyMembers(limit int) error {
	return fleet.Errorf(fleet.KindInvalid, "the package has more than %d files, directories and links: leave out what the program does not need", limit)
}

func tooManyBytes(limit int64) error {
	return fleet.Errorf(fleet.KindInvalid, "the package holds more than %d MiB unpacked: leave out what the program does not need", limit>>20)
}

// storageError gives a failed write to the spool its kind.
func storageError(doing string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fleet.Errorf(fleet.KindCapacity, "%s: the disk is full, free some space in the data directory: %w", doing, err)
	}
	return fleet.Errorf(fleet.KindInternal, "%s: %w", doing, err)
}
