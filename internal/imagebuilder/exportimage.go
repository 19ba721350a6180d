package imagebuilder

import (
	"cmp"
	"context"
	"errors"
	"io"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/export"
	"dormouse/internal/imagebuilder/source"
)

// exportMemoryMiB is the memory of an exported machine whose package asks for none.
const exportMemoryMiB = 256

// Export writes an image as a disk that boots by itself, in a format that a
// hypervisor or cloud takes (see package export). begin is called before the
// first byte with what the file should be called. KindNotFound: there is no such
// image here; KindInvalid: the format, or what it is asked to be, can't be;
// KindNotAccepted: images of that kernel don't boot by themselves.
func (b *Builder) Export(ctx context.Context, id fleet.ImageID, o fleet.ImageExport, begin func(fileName string), w io.Writer) (err error) {
	format, err := export.ParseFormat(o.Format)
	if err != nil {
		return err
	}
	rec, err := b.record(id)
	if err != nil {
		return err
	}
	k, err := b.kernel(rec.Kernel)
	if err != nil {
		return err
	}
	d, ok := k.(Disker)
	if !ok {
		return fleet.Errorf(fleet.KindNotAccepted, "images of the kernel %s do not boot by themselves", rec.Kernel)
	}
	src, err := source.Open(b.packagePath(rec.PackageDigest), rec.PackageDigest, b.limits)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	p := fleet.Package{Name: src.Name, Version: src.Version, Digest: rec.PackageDigest, Kernel: rec.Kernel, Manifest: src.Manifest}
	work, err := b.acquireWorkDir(ctx, "export-"+fleet.NewID())
	if err != nil {
		return storageError("making room for the export", err)
	}
	defer func() { err = errors.Join(err, storageError("removing the work directory", work.release())) }()
	disk, err := d.Disk(ctx, b.imagePath(id), p, DiskOptions{VolumeMiB: o.VolumeMiB, UEFI: o.UEFI}, work.path)
	if err != nil {
		return storageError("making the disk", err)
	}
	name := p.Name + "-" + source.MendName(p.Version)
	return export.Export(ctx, disk, format, &firstByte{w: w, begin: func() { begin(format.FileName(name)) }}, export.Options{
		WorkDir: work.path, Name: name[:min(len(name), 63)],
		MemoryMiB: cmp.Or(o.MemoryMiB, p.Manifest.MinMemoryMiB, exportMemoryMiB), VCPUs: cmp.Or(o.VCPUs, 1),
	})
}

// firstByte tells of the first byte that is written.
type firstByte struct {
	w     io.Writer
	begin func()
}

// Write implements io.Writer.
func (f *firstByte) Write(p []byte) (int, error) {
	if f.begin != nil {
		f.begin()
		f.begin = nil
	}
	return f.w.Write(p)
}
