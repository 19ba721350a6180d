package api

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"dormouse/internal/fleet"
)

// fakeImages has images with one file each.
type fakeImages struct {
	images  []fleet.Image
	built   []string
	content string
	// fails after the first byte of a file.
	breaks   bool
	inUse    fleet.ImageID
	kernels  []fleet.KernelRelease
	exported fleet.ImageExport
	traced   fleet.TraceOptions
	evidence []string
}

func newFakeImages() *fakeImages { return &fakeImages{content: "hello"} }

func (f *fakeImages) Images(context.Context) ([]fleet.Image, error) { return f.images, nil }

func (f *fakeImages) Image(id fleet.ImageID) (fleet.Image, error) {
	for _, i := range f.images {
		if i.ID == id {
			return i, nil
		}
	}
	return fleet.Image{}, fleet.Errorf(fleet.KindNotFound, "there is no image %s", id)
}

func (f *fakeImages) ImageOf(_ context.Context, p fleet.Package) (fleet.ImageID, error) {
	return fleet.ImageID(strings.Repeat("e", 60) + p.Version[:1] + "000"), nil
}

func (f *fakeImages) Ensure(ctx context.Context, p fleet.Package) (fleet.ImageID, error) {
	id, err := f.ImageOf(ctx, p)
	f.built = append(f.built, p.Name+"@"+p.Version)
	f.images = append(f.images, fleet.Image{ID: id, State: fleet.ImageReady, PackageName: p.Name})
	return id, err
}

func (f *fakeImages) RemoveImage(_ context.Context, id fleet.ImageID) error {
	if id == f.inUse {
		return fleet.Errorf(fleet.KindNotAccepted, "an instance runs it")
	}
	if _, err := f.Image(id); err != nil {
		return err
	}
	f.images = slices.DeleteFunc(f.images, func(i fleet.Image) bool { return i.ID == id })
	return nil
}

func (f *fakeImages) ListFiles(_ context.Context, id fleet.ImageID, path string, digests bool, visit func(fleet.ImageFile) error) error {
	if _, err := f.Image(id); err != nil {
		return err
	}
	if path == "/none" {
		return fleet.Errorf(fleet.KindNotFound, "nothing there")
	}
	file := fleet.ImageFile{Path: "/a", Kind: "file", SizeBytes: int64(len(f.content))}
	if digests {
		file.SHA256 = "abc"
	}
	if err := visit(file); err != nil || f.breaks {
		return errors.Join(err, errors.New("damaged"))
	}
	return visit(fleet.ImageFile{Path: "/b", Kind: "symlink", Target: "a"})
}

func (f *fakeImages) CopyFile(_ context.Context, id fleet.ImageID, path string, size func(int64), w io.Writer) error {
	if _, err := f.Image(id); err != nil {
		return err
	}
	if path != "/a" {
		return fleet.Errorf(fleet.KindNotFound, "nothing there")
	}
	size(int64(len(f.content)))
	_, err := io.WriteString(w, f.content)
	return err
}

func (f *fakeImages) Provenance(id fleet.ImageID) ([]byte, error) {
	_, err := f.Image(id)
	return []byte(`{"_type":"x"}`), err
}

// List and Add implement Kernels: it has what was added.
func (f *fakeImages) List() ([]fleet.KernelRelease, error) { return f.kernels, nil }

func (f *fakeImages) Add(_ context.Context, kind fleet.KernelKind, url, sha256 string) (fleet.KernelRelease, error) {
	if kind != fleet.KernelNanos {
		return fleet.KernelRelease{}, fleet.InvalidField("kind", "only nanos")
	}
	f.kernels = append(f.kernels, fleet.KernelRelease{Kind: kind, URL: url, SHA256: sha256, Current: true})
	return f.kernels[len(f.kernels)-1], nil
}

func (f *fakeImages) BillOfMaterials(_ context.Context, id fleet.ImageID, w io.Writer) error {
	if _, err := f.Image(id); err != nil {
		return err
	}
	_, err := io.WriteString(w, `{"bomFormat":"CycloneDX"}`)
	return err
}

func (f *fakeImages) Export(_ context.Context, id fleet.ImageID, o fleet.ImageExport, begin func(string), w io.Writer) error {
	if _, err := f.Image(id); err != nil {
		return err
	}
	if o.Format != "ova" {
		return fleet.InvalidField("format", "no such format")
	}
	begin("web-1.ova")
	f.exported = o
	_, err := io.WriteString(w, "disk")
	if f.breaks {
		err = errors.Join(err, errors.New("the disk is full"))
	}
	return err
}

func (f *fakeImages) Trace(_ context.Context, p fleet.Package, o fleet.TraceOptions) (fleet.TraceReport, error) {
	if p.Version == "2" {
		return fleet.TraceReport{}, fleet.Errorf(fleet.KindNotAccepted, "kernel linux has no trace")
	}
	f.traced = o
	return fleet.TraceReport{Evidence: f.evidence, Exit: &fleet.Exit{Code: 1}, Lines: []string{"open() = -ENOSYS"}}, nil
}
