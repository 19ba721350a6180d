package nanos

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
	"dormouse/internal/imagebuilder/tfs"
)

// klogBytes is the area before the first partition into which the kernel writes its last words.
const klogBytes = 4096

// Room in a file system for writing, in bytes.
const (
	// logReserve is what the kernel sets aside before its first write, for extents
	// of the log to come; without it every write is ENOSPC.
	logReserve = 2 * tfs.LogSectors * tfs.SectorSize
	// imageRoom is what can be written to an image as it is: enough to try it.
	imageRoom = 256 << 10
	// tenantRoom is what a tenant may write besides the image where the package does not say how much.
	tenantRoom = 64 << 20
	// maxRootBytes is below what a partition table can say (2 TiB), and what an overlay can hold.
	maxRootBytes = 512 << 30
)

// bootLogSectors is the log of bootfs: it names a few files.
const bootLogSectors = 16

// writeDisk writes boot code, bootfs and root file system to an empty file.
func writeDisk(ctx context.Context, f *os.File, r *release, m fleet.Manifest, p *plan, attrs []tfs.Attr) (*build, []byte, error) {
	if m.RootBytes < 0 || m.RootBytes > maxRootBytes {
		return nil, nil, fleet.Failure(fleet.ReasonImageBuild, "the root file system of %d bytes is more than %d GiB: make BaseVolumeSz smaller", m.RootBytes, maxRootBytes>>30)
	}
	bootAt := int64(len(r.boot)) + klogBytes
	bootSectors, err := writeBootfs(f, bootAt, r, m.Klibs)
	if err != nil {
		return nil, nil, err
	}
	rootAt := bootAt + bootSectors*tfs.SectorSize
	w, err := tfs.NewWriter(offsetWriter(f, rootAt), tfs.Options{})
	if err != nil {
		return nil, nil, err
	}
	for _, i := range p.items {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		switch i.kind {
		case source.Directory:
			err = w.Dir(i.path)
		case source.Symlink:
			err = w.Symlink(i.path, i.target)
		case source.File:
			err = w.File(i.path, i.size, i.open())
		}
		if err != nil {
			return nil, nil, err
		}
	}
	state, err := w.Finish(attrs...)
	if err != nil {
		return nil, nil, err
	}
	names, err := state.Names()
	if err != nil {
		return nil, nil, err
	}
	used := state.Sectors() * tfs.SectorSize
	root := max(used+logReserve+imageRoom, (m.RootBytes+tfs.SectorSize-1)/tfs.SectorSize*tfs.SectorSize)
	b := &build{RootOffset: rootAt, TenantBytes: rootAt + root, Log: *state, Program: m.Program, Persist: m.Persist, Klibs: wanted(m.Klibs), Release: r.digest}
	if m.RootBytes == 0 {
		b.TenantBytes = rootAt + used + tenantRoom
	}
	b.EtcIndex, _ = state.Directory(p.etc)
	b.RootIndex, _ = state.Directory("")
	if err := f.Truncate(rootAt + root); err != nil {
		return nil, nil, err
	}
	boot := bytes.Clone(r.boot)
	putPartition(boot, 0, partBootfs, bootAt, bootSectors*tfs.SectorSize)
	putPartition(boot, 1, partRootfs, rootAt, root)
	_, err = f.WriteAt(boot, 0)
	return b, names, err
}

// writeBootfs writes kernel and modules, and returns how many sectors they take.
func writeBootfs(f *os.File, at int64, r *release, klibs []string) (int64, error) {
	w, err := tfs.NewWriter(offsetWriter(f, at), tfs.Options{LogSectors: bootLogSectors})
	if err != nil {
		return 0, err
	}
	if err := w.File("kernel", int64(len(r.kernel)), bytes.NewReader(r.kernel)); err != nil {
		return 0, err
	}
	for _, name := range wanted(klibs) {
		if err := w.File("klib/"+name, int64(len(r.klibs[name])), bytes.NewReader(r.klibs[name])); err != nil {
			return 0, err
		}
	}
	s, err := w.Finish()
	if err != nil {
		return 0, err
	}
	return s.Sectors(), nil
}

// wanted returns the modules in order, each once.
func wanted(klibs []string) []string {
	set := map[string]bool{}
	for _, k := range klibs {
		set[k] = true
	}
	return slices.Sorted(maps.Keys(set))
}

// Partitions (src/kernel/storage.h): an EFI system partition in front shifts the others by one.
const (
	partBootfs = 0x83
	partRootfs = 0x83
	partEFI    = 0xef
)

// partition is an entry of the partition table, in bytes.
type partition struct {
	kind          byte
	offset, bytes int64
}

// putPartition writes an entry whose old-style addresses (cylinder, head,
// sector) say that it has none: nobody here reads them.
func putPartition(mbr []byte, index int, kind byte, offset, length int64) {
	e := mbr[partitionsAt+16*index:]
	copy(e, []byte{0x80, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff})
	if index > 0 {
		e[0] = 0
	}
	binary.LittleEndian.PutUint32(e[8:], uint32(offset/512))
	binary.LittleEndian.PutUint32(e[12:], uint32(length/512))
}

// layout is where things lie on a disk.
type layout struct {
	klog       int64
	boot, root partition
}

// readLayout reads the partition table. The root file system reaches to the end
// of the disk, whatever the table says, as the kernel has it.
func readLayout(disk io.ReaderAt, size int64) (*layout, error) {
	mbr := make([]byte, 512)
	if _, err := io.ReadFull(io.NewSectionReader(disk, 0, 512), mbr); err != nil {
		return nil, fmt.Errorf("reading the partition table: %w", err)
	}
	if mbr[signatureAt] != 0x55 || mbr[signatureAt+1] != 0xaa {
		return nil, damaged("the disk has no partition table")
	}
	var parts []partition
	for i := range 4 {
		e := mbr[partitionsAt+16*i:]
		parts = append(parts, partition{e[4], 512 * int64(binary.LittleEndian.Uint32(e[8:])), 512 * int64(binary.LittleEndian.Uint32(e[12:]))})
	}
	l := &layout{klog: parts[0].offset - klogBytes}
	if parts[0].kind == partEFI {
		parts = parts[1:]
	}
	l.boot, l.root = parts[0], parts[1]
	if l.klog < 512 || l.boot.kind == 0 || l.root.kind == 0 || l.boot.offset < klogBytes || l.boot.bytes > size-l.boot.offset || l.root.offset >= size || l.root.offset < l.boot.offset {
		return nil, damaged("the partitions do not lie on the disk")
	}
	l.root.bytes = size - l.root.offset
	return l, nil
}

func damaged(format string, args ...any) error {
	return fleet.Errorf(fleet.KindPermanent, "the image is damaged: "+format, args...)
}
