package source

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"dormouse/internal/fleet"
)

// DiskName is the one file in the image of a package for fleet.KernelDisk: a
// qcow2 image of its own, whatever it came as.
const DiskName = "disk.qcow2"

// LayDisk writes a disk to the new file path as DiskName wants it, and returns
// the lower-case hex SHA-256 of what it came as.
type LayDisk func(ctx context.Context, path string) (digest string, err error)

// FromDisk makes a package of a disk that exists already, for fleet.KernelDisk.
// o.Overlay may bring keys, and is read to its end before lay is called. The
// caller closes the Package.
func FromDisk(ctx context.Context, lay LayDisk, o Options) (*Package, error) {
	return o.read(ctx, func(s *spool, o Options) (_ *base, err error) {
		dir, err := os.MkdirTemp(o.SpoolDir, "disk-")
		if err != nil {
			return nil, storageError("taking the disk", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		file := filepath.Join(dir, DiskName)
		digest, err := lay(ctx, file)
		if err != nil {
			return nil, err
		}
		f, err := os.Open(file)
		if err != nil {
			return nil, storageError("taking the disk", err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return nil, storageError("taking the disk", err)
		}
		if info.Size() > o.Limits.Bytes {
			return nil, invalid("the disk holds more than %d MiB, compressed: leave out what is not needed", o.Limits.Bytes>>20)
		}
		offset, n, err := s.store(ctx, f, info.Size())
		if err != nil {
			return nil, err
		}
		name := path.Base(strings.ReplaceAll(o.FileName, "\\", "/"))
		b := &base{image: newTree(s.f), disk: true, name: MendName(strings.TrimSuffix(name, path.Ext(name))), version: digest[:min(12, len(digest))]}
		b.image.put(&Entry{Path: DiskName, Kind: File, Mode: 0o644, Size: n, Origin: 1, offset: offset})
		b.origins = []Origin{{Type: OriginFile, Name: cmp.Or(b.name, "disk"), Version: b.version, Digest: digest}}
		keys := map[string]json.RawMessage{}
		set(keys, "Kernel", fleet.KernelDisk)
		b.manifest, err = json.Marshal(keys)
		return b, err
	})
}

// layOverDisk returns the manifest of both. Files can't be put on a disk that is
// taken as it is.
func (v *overlay) layOverDisk(_ *Tree, manifest []byte, _ Limits, p *Package) ([]byte, error) {
	if v.m.Kernel != "" && v.m.Kernel != fleet.KernelDisk {
		return nil, fleet.InvalidField("Kernel", "Kernel is %s, and a disk starts what is on it: leave Kernel out", v.m.Kernel)
	}
	p.warnIdle([]idleKey{{"Program", v.m.Program != ""}, {"Files", len(v.m.Files) > 0}, {"Dirs", len(v.m.Dirs) > 0}, {"MapDirs", len(v.m.MapDirs) > 0}})
	if _, ok := v.pkg.entries[sysroot]; ok {
		p.addWarnings([]string{fmt.Sprintf("%s: nothing is put on a disk that is imported as it is", sysroot)})
	}
	laid, err := laidManifest(v.raw, v.m, "")
	if err != nil {
		return nil, err
	}
	return mergeManifests(manifest, laid)
}

// idleKey is a key of a manifest that a disk has no use for.
type idleKey struct {
	name  string
	given bool
}

func (p *Package) warnIdle(keys []idleKey) {
	for _, key := range keys {
		if key.given {
			p.addWarnings([]string{fmt.Sprintf("%s: the key %s has no effect with the kernel %s", ManifestName, key.name, fleet.KernelDisk)})
		}
	}
}

// settleDisk does what settle does for a package that is a disk. What the guest
// writes to its disk stays: the disk itself is what persists.
func (p *Package) settleDisk(m *ParsedManifest) error {
	if e, ok := p.Tree.entries[DiskName]; !ok || e.Kind != File || p.Tree.Len() != 2 {
		return fleet.InvalidField("Kernel", "Kernel is %s, and the package is no disk: import one with --disk, or name another kernel", fleet.KernelDisk)
	}
	if len(m.Persist) > 0 {
		return fleet.InvalidField("Persist", "Persist names %s, but of a disk all persists: leave Persist and Mounts out", m.Persist[0])
	}
	p.warnIdle([]idleKey{
		{"Args", len(m.Args) > 0}, {"Dir", m.Dir != ""}, {"User", m.User != ""}, {"BaseVolumeSz", m.RootBytes != 0},
		{"Klibs", len(m.Klibs) > 0}, {"ManifestPassthrough", len(m.Passthrough) > 0},
	})
	m.Args, m.Dir, m.User, m.RootBytes, m.Klibs, m.Passthrough = nil, "", "", 0, nil, nil
	p.Manifest, p.Kernel = m.normalised(""), fleet.KernelDisk
	p.Manifest.Persist = []string{"/"}
	return nil
}
