package nanos

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

// release is a release directory, read.
type release struct {
	boot, kernel []byte
	// efi is the loader for machines without BIOS; nil where the release has none.
	efi    []byte
	klibs  map[string][]byte
	digest string
	// stamp says what the files looked like when they were read.
	stamp string
}

// Bounds on the files of a release, which are held in memory.
const (
	maxBoot   = 1 << 20
	maxKernel = 64 << 20
	maxKlibs  = 64 << 20
	maxFiles  = 256
)

// The record that says where stage 2 of the boot code lies: base, length and
// type, directly before the partition table.
const (
	regionAt     = 0x1aa
	regionType   = 12
	partitionsAt = 0x1be
	signatureAt  = 510
)

const kernelName, bootName, efiName, klibsDir = "kernel.img", "boot.img", "bootx64.efi", "klibs"

// stampOf tells whether a release directory is still as it was, without reading the files.
func stampOf(dir string) (stamp string, klibs []string, err error) {
	names := []string{bootName, kernelName}
	if _, err := os.Stat(filepath.Join(dir, efiName)); err == nil {
		names = append(names, efiName)
	}
	entries, err := os.ReadDir(filepath.Join(dir, klibsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", nil, err
	}
	for _, e := range entries {
		klibs = append(klibs, e.Name())
		names = append(names, filepath.Join(klibsDir, e.Name()))
	}
	if len(names) > maxFiles {
		return "", nil, fmt.Errorf("%s holds more than %d files", filepath.Join(dir, klibsDir), maxFiles)
	}
	var b strings.Builder
	b.WriteString(dir + "\n")
	for _, n := range names {
		info, err := os.Stat(filepath.Join(dir, n))
		if err != nil {
			return "", nil, err
		}
		if !info.Mode().IsRegular() {
			return "", nil, fmt.Errorf("%s is no regular file", filepath.Join(dir, n))
		}
		fmt.Fprintf(&b, "%s %d %s\n", n, info.Size(), info.ModTime().UTC().Format(time.RFC3339Nano))
	}
	return b.String(), klibs, nil
}

// load returns the release, read again only when a file has changed.
func (k *Kernel) load() (*release, error) {
	dir := k.o.dir()
	if dir == "" {
		return nil, fleet.Errorf(fleet.KindUnavailable, "there is no Nanos release here: fetch one with `cloudctl kernel add nanos`, or name its directory with --nanos-dir or NANOS_DIR")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	stamp, klibs, err := stampOf(dir)
	if err != nil {
		return nil, unavailable(err)
	}
	if k.have != nil && k.have.stamp == stamp {
		return k.have, nil
	}
	r := &release{stamp: stamp, klibs: map[string][]byte{}}
	h := sha256.New()
	read := func(name string, limit int64) (b []byte) {
		if err == nil {
			b, err = readBounded(filepath.Join(dir, name), limit)
		}
		sum := sha256.Sum256(b)
		fmt.Fprintf(h, "%s\x00%x\n", name, sum)
		return b
	}
	r.boot, r.kernel = read(bootName, maxBoot), read(kernelName, maxKernel)
	if strings.Contains(stamp, efiName+" ") {
		r.efi = read(efiName, maxBoot)
	}
	room := int64(maxKlibs)
	for _, n := range klibs {
		r.klibs[n] = read(filepath.Join(klibsDir, n), room)
		room -= int64(len(r.klibs[n]))
	}
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return nil, unavailable(err)
	}
	fmt.Fprintf(h, "%s\n", format)
	r.digest = hex.EncodeToString(h.Sum(nil))
	k.have = r
	return r, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, fmt.Errorf("%s has more than %d MiB", path, limit>>20)
	}
	return b, err
}

// check tells whether boot code and kernel are what they should be.
func (r *release) check() error {
	if len(r.boot) < 1024 || len(r.boot)%512 != 0 || r.boot[signatureAt] != 0x55 || r.boot[signatureAt+1] != 0xaa {
		return fmt.Errorf("%s is no boot code for a disk", bootName)
	}
	length, kind := binary.LittleEndian.Uint64(r.boot[regionAt+8:]), binary.LittleEndian.Uint32(r.boot[regionAt+16:])
	if kind != regionType || length != uint64(len(r.boot)-512) {
		return fmt.Errorf("%s does not say its own length", bootName)
	}
	if len(r.kernel) < 4 || string(r.kernel[:4]) != "\x7fELF" {
		return fmt.Errorf("%s is no ELF file", kernelName)
	}
	return nil
}

func unavailable(err error) error {
	return fleet.Errorf(fleet.KindUnavailable, "reading the Nanos release, a directory with %s, %s and %s that --nanos-dir or NANOS_DIR names: %w", bootName, kernelName, klibsDir, err)
}
