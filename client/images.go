package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// Images are the methods on images: what packages are built into. Where an ID
// is taken, the first 8 or more digits of one do as well, and so does a package
// (NAME@VERSION), which stands for the image that it has now.
type Images struct{ c *Client }

// Image is what a package and a kernel are built into, on the server's host.
type Image struct {
	ID string `json:"id"`
	// State is building, ready or failed.
	State          string `json:"state"`
	Kernel         string `json:"kernel,omitempty"`
	KernelDigest   string `json:"kernel_digest,omitempty"`
	PackageName    string `json:"package_name,omitempty"`
	PackageVersion string `json:"package_version,omitempty"`
	PackageDigest  string `json:"package_digest,omitempty"`
	BuilderVersion string `json:"builder_version,omitempty"`
	// SizeBytes counts a file that images share in each of them.
	SizeBytes int64 `json:"size_bytes"`
	// CreatedAt is when the build ended, UsedAt when it was last asked for or booted.
	CreatedAt time.Time `json:"created_at,omitzero"`
	UsedAt    time.Time `json:"used_at,omitzero"`
	// StartedAt, DoneBytes and TotalBytes are of a build that has not succeeded.
	StartedAt  time.Time `json:"started_at,omitzero"`
	DoneBytes  int64     `json:"done_bytes,omitempty"`
	TotalBytes int64     `json:"total_bytes,omitempty"`
	// Log are the last lines of its build; lists have none.
	Log []string `json:"log,omitempty"`
	// Detail says why the build failed.
	Detail string `json:"detail,omitempty"`
}

// BuildImage is the body of POST /api/v1/images.
type BuildImage struct {
	// Package is an ID, NAME@VERSION, or a name, whose newest version is built.
	Package string `json:"package"`
}

// ImageFile is one entry of an image's root file system.
type ImageFile struct {
	Path string `json:"path"`
	// Kind is directory, file or symlink.
	Kind string `json:"kind"`
	Mode uint32 `json:"mode"`
	// SizeBytes is a file's length.
	SizeBytes int64 `json:"size_bytes"`
	// Target is where a symbolic link points.
	Target string `json:"target,omitempty"`
	// SHA256 of a file's content, in hex; empty where it was not asked for.
	SHA256 string `json:"sha256,omitempty"`
}

// List returns one page of images, in the order of their IDs.
func (s *Images) List(ctx context.Context, q ListPage) (Page[Image], error) {
	return get[Page[Image]](ctx, s.c, q.values(), "images")
}

// All goes through all pages from q.Cursor on. An error ends it.
func (s *Images) All(ctx context.Context, q ListPage) iter.Seq2[Image, error] {
	return all(q.Cursor, func(cursor string) (Page[Image], error) {
		q.Cursor = cursor
		return s.List(ctx, q)
	})
}

// Get returns an image.
func (s *Images) Get(ctx context.Context, id string) (Image, error) {
	return get[Image](ctx, s.c, nil, "images", id)
}

// Build builds the image of a package where it is not there yet, and waits for
// it. The build goes on when ctx ends; asking again finds it.
func (s *Images) Build(ctx context.Context, in BuildImage, options ...RequestOption) (Image, error) {
	var out Image
	r, err := change(http.MethodPost, "/images", in, options)
	if err != nil {
		return out, err
	}
	r.timeout = -1 // it takes what it takes
	err = s.c.do(ctx, r, &out)
	return out, err
}

// Delete removes an image. It is not accepted while an instance runs it. What
// is needed again is built again.
func (s *Images) Delete(ctx context.Context, id string, options ...RequestOption) error {
	path, err := pathOf("images", id)
	if err != nil {
		return err
	}
	return s.c.remove(ctx, path, options)
}

// FileOptions say what Files lists.
type FileOptions struct {
	// Path lists what lies there and below; all where empty.
	Path string
	// Digests adds the SHA-256 of every file's content.
	Digests bool
}

// Files goes through the root file system of an image, in the order of paths.
// An error ends it.
func (s *Images) Files(ctx context.Context, id string, o FileOptions) iter.Seq2[ImageFile, error] {
	query := url.Values{}
	set(query, "path", o.Path)
	if o.Digests {
		query.Set("digests", "true")
	}
	return func(yield func(ImageFile, error) bool) {
		body, err := s.open(ctx, query, id, "files")
		if err != nil {
			yield(ImageFile{}, err)
			return
		}
		defer body.Close()
		for lines := json.NewDecoder(body); ; {
			var f ImageFile
			err := lines.Decode(&f)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(ImageFile{}, fmt.Errorf("reading the list of files: %w", err))
				return
			}
			if !yield(f, nil) {
				return
			}
		}
	}
}

// Content returns the content of a regular file of an image. The caller closes it.
func (s *Images) Content(ctx context.Context, id, path string) (io.ReadCloser, error) {
	return s.open(ctx, url.Values{"path": {path}}, id, "content")
}

// Provenance returns how an image came about: an in-toto statement (SLSA provenance).
func (s *Images) Provenance(ctx context.Context, id string) (json.RawMessage, error) {
	return get[json.RawMessage](ctx, s.c, nil, "images", id, "provenance")
}

// BillOfMaterials returns what an image is made of: a CycloneDX document. The caller closes it.
func (s *Images) BillOfMaterials(ctx context.Context, id string) (io.ReadCloser, error) {
	return s.open(ctx, nil, id, "sbom")
}

// ExportImage says as what an image is exported.
type ExportImage struct {
	// Format is raw, qcow2, vmdk, vhd, vhdx, ova or gce-tar.gz.
	Format string
	// MemoryMiB and VCPUs are the machine's where the format describes one; 0 is
	// what the package asks for, and one.
	MemoryMiB, VCPUs int
	// VolumeMiB is how large the file system for persistent directories is, where the disk has one.
	VolumeMiB int
	// UEFI has a disk start by UEFI that otherwise starts by BIOS only (kernel nanos).
	UEFI bool
}

// Export returns an image as a disk that boots by itself. The caller closes it.
// One that ends with an error is not whole.
func (s *Images) Export(ctx context.Context, id string, o ExportImage) (io.ReadCloser, error) {
	query := url.Values{"format": {o.Format}}
	for name, n := range map[string]int{"memory_mib": o.MemoryMiB, "vcpus": o.VCPUs, "volume_mib": o.VolumeMiB} {
		if n != 0 {
			setNumber(query, name, int64(n))
		}
	}
	if o.UEFI {
		query.Set("uefi", "true")
	}
	return s.open(ctx, query, id, "export")
}

// open returns an answer as it comes.
func (s *Images) open(ctx context.Context, query url.Values, id, what string) (io.ReadCloser, error) {
	path, err := pathOf("images", id, what)
	if err != nil {
		return nil, err
	}
	return s.c.stream(ctx, request{method: http.MethodGet, path: path, query: query})
}
