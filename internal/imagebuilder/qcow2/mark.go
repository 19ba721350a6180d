package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// maxExtensions bounds the header's extensions that are looked at, and their
// bytes: QEMU writes a table of the features' names, and keeps a mark.
const (
	maxExtensions     = 16
	maxExtensionBytes = 4 << 10
)

// Mark returns what CreateLayout kept in an overlay's header; nil where there is
// none. A file that Open would refuse is an error that wraps ErrDamaged.
func Mark(overlay io.ReaderAt) ([]byte, error) {
	if _, err := Open(overlay, zeros{}); err != nil {
		return nil, err
	}
	var length [4]byte
	if _, err := overlay.ReadAt(length[:], 100); err != nil {
		return nil, fmt.Errorf("reading the overlay's header: %w", err)
	}
	at := int64(binary.BigEndian.Uint32(length[:]))
	for range maxExtensions {
		var head [8]byte
		if _, err := overlay.ReadAt(head[:], at); err != nil {
			if errors.Is(err, io.EOF) {
				err = ErrDamaged
			}
			return nil, fmt.Errorf("reading the overlay's header: %w", err)
		}
		kind, n := binary.BigEndian.Uint32(head[:]), int64(binary.BigEndian.Uint32(head[4:]))
		switch {
		case kind == 0:
			return nil, nil
		case n > maxExtensionBytes || kind == markType && n > MaxMark:
			return nil, fmt.Errorf("reading the overlay's header: %w: an extension of %d bytes", ErrDamaged, n)
		case kind == markType:
			mark := make([]byte, n)
			if _, err := overlay.ReadAt(mark, at+8); err != nil {
				return nil, fmt.Errorf("reading the overlay's header: %w: %w", ErrDamaged, err)
			}
			return mark, nil
		}
		at += 8 + (n+7)/8*8
	}
	return nil, fmt.Errorf("reading the overlay's header: %w: more than %d extensions", ErrDamaged, maxExtensions)
}

// zeros is a base that is not read.
type zeros struct{}

// ReadAt implements io.ReaderAt.
func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}
