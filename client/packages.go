package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime/multipart"
	"net/http"
	"net/url"
)

// Packages are the methods on packages. Where an ID is taken, name@version or
// a name (its newest version) does as well.
type Packages struct{ c *Client }

// NewPackage is a package to be made: of Content, of OCI or of Deb.
type NewPackage struct {
	// Name and Version are as the package's manifest says, or as the server chooses, if empty.
	Name, Version string
	// Content is a program for Linux, or a tar, also by gzip or zstd, of a
	// directory with package.manifest or of a container image. It is read as it is
	// sent, not kept. An io.Seeker is rewound when the upload has to be repeated;
	// for another reader set Reopen, or the upload is tried once.
	Content io.Reader
	// Reopen returns the content again from its start. With it, Content may be nil.
	Reopen func() (io.ReadCloser, error)
	// Disk: Content is a disk (qcow2, raw, vmdk or OVA) that is imported as it is, and
	// boots what is on it.
	Disk bool
	// FileName is what the content's file is called; a program without a better name is called so.
	FileName string
	// OCI is an image in a registry, which the server pulls: registry/name:tag or registry/name@sha256:….
	OCI string
	// Deb names packages of Debian's, which the server fetches with what they depend on.
	Deb []string
	// Overlay returns, from its start each time, the tar of a directory with
	// package.manifest that is laid over the source; nil where there is none.
	Overlay func() (io.ReadCloser, error)
	// Kernel is what images of the package boot; empty is what its manifest asks for.
	Kernel string
	// Force has it admitted with a warning where the kernel surely can't run it.
	Force bool
	// Signature is an Ed25519 signature of SignedText, in base64: for servers that take signed sources only.
	Signature string
}

// SignedText is what a source's signature is of: the SHA-256 (hex) of Content as it
// is sent, or of the image in a registry, and of what Overlay returns; "" for nothing.
func SignedText(source, overlay string) string {
	return "dormouse package\nsource " + source + "\noverlay " + overlay + "\n"
}

// Create makes a package. One with the same name, version and content that
// is there already is returned as it is; other content is a conflict.
func (s *Packages) Create(ctx context.Context, in NewPackage, options ...RequestOption) (Package, error) {
	r, err := change(http.MethodPost, "/packages", nil, options)
	if err != nil {
		return Package{}, err
	}
	r.query = url.Values{}
	for name, value := range map[string]string{"name": in.Name, "version": in.Version, "filename": in.FileName, "oci": in.OCI, "kernel": in.Kernel, "signature": in.Signature} {
		set(r.query, name, value)
	}
	for _, name := range in.Deb {
		r.query.Add("deb", name)
	}
	if in.Disk {
		r.query.Set("disk", "true")
	}
	if in.Force {
		r.query.Set("force", "true")
	}
	// As long as the caller likes: an upload takes the time that it takes.
	r.timeout = -1
	if err := in.stream(&r); err != nil {
		return Package{}, err
	}
	var out Package
	err = s.c.do(ctx, r, &out)
	return out, err
}

// stream sets what the request sends.
func (in NewPackage) stream(r *request) error {
	r.streamType = "application/octet-stream"
	if in.OCI != "" || len(in.Deb) > 0 {
		if in.Content != nil || in.Reopen != nil {
			return errors.New("making a package: give its Content, or OCI or Deb, not both")
		}
		r.open = in.Overlay
		return nil
	}
	seeker, seekable := in.Content.(io.Seeker)
	switch {
	case in.Reopen != nil:
		r.open = in.Reopen
	case in.Content == nil:
		return errors.New("uploading a package: give its Content")
	case seekable:
		start, err := seeker.Seek(0, io.SeekCurrent)
		if err != nil {
			return fmt.Errorf("uploading a package: finding its start: %w", err)
		}
		r.open = func() (io.ReadCloser, error) {
			_, err := seeker.Seek(start, io.SeekStart)
			return io.NopCloser(in.Content), err
		}
	default:
		r.attempts = 1
		r.open = func() (io.ReadCloser, error) { return io.NopCloser(in.Content), nil }
	}
	if in.Overlay != nil {
		boundary := rand.Text()
		r.streamType = "multipart/form-data; boundary=" + boundary
		source := r.open
		r.open = func() (io.ReadCloser, error) { return form(boundary, in.Overlay, source), nil }
	}
	return nil
}

// form streams overlay and source as a form. Closing it ends the streaming.
func form(boundary string, overlay, source func() (io.ReadCloser, error)) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		form := multipart.NewWriter(w)
		err := form.SetBoundary(boundary)
		for _, part := range []struct {
			name string
			open func() (io.ReadCloser, error)
		}{{"overlay", overlay}, {"source", source}} {
			if err == nil {
				err = addPart(form, part.name, part.open)
			}
		}
		if err == nil {
			err = form.Close()
		}
		_ = w.CloseWithError(err) // always nil
	}()
	return r
}

func addPart(form *multipart.Writer, name string, open func() (io.ReadCloser, error)) error {
	to, err := form.CreateFormFile(name, name)
	if err != nil {
		return err
	}
	from, err := open()
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, from.Close())
}

// Get returns a package by ID, name@version or name.
func (s *Packages) Get(ctx context.Context, id string) (Package, error) {
	return get[Package](ctx, s.c, nil, "packages", id)
}

// List returns one page of packages.
func (s *Packages) List(ctx context.Context, q ListPage) (Page[Package], error) {
	return get[Page[Package]](ctx, s.c, q.values(), "packages")
}

// All goes through all pages from q.Cursor on. An error ends it.
func (s *Packages) All(ctx context.Context, q ListPage) iter.Seq2[Package, error] {
	return all(q.Cursor, func(cursor string) (Page[Package], error) {
		q.Cursor = cursor
		return s.List(ctx, q)
	})
}

// Delete removes a package at once. It is not accepted while an installation wants or runs it.
func (s *Packages) Delete(ctx context.Context, id string, options ...RequestOption) error {
	path, err := pathOf("packages", id)
	if err != nil {
		return err
	}
	return s.c.remove(ctx, path, options)
}

// TracePackage is the body of POST /api/v1/packages/{id}/trace.
type TracePackage struct {
	// Seconds is how long the machine runs at most; the server's own if 0.
	Seconds int `json:"seconds,omitempty"`
	// MemoryMiB is its memory; what the package asks for if 0.
	MemoryMiB int `json:"memory_mib,omitempty"`
}

// Trace is what a traced boot told.
type Trace struct {
	// Evidence is what the kernel lacked for the program, and how it ended badly.
	Evidence []string `json:"evidence"`
	// Exit tells how it ended by itself; nil where it ran until the time was over.
	Exit *Exit `json:"exit,omitempty"`
	// Lines are the last of its console, the trace among them, oldest first.
	Lines []string `json:"lines,omitempty"`
}

// Trace boots a package once in a throw-away machine, with its kernel's trace of
// system calls, and waits for what that tells.
func (s *Packages) Trace(ctx context.Context, id string, in TracePackage, options ...RequestOption) (Trace, error) {
	var out Trace
	path, err := pathOf("packages", id, "trace")
	if err != nil {
		return out, err
	}
	r, err := change(http.MethodPost, path, in, options)
	if err != nil {
		return out, err
	}
	r.timeout = -1 // it takes as long as was asked for, and waits for others
	err = s.c.do(ctx, r, &out)
	return out, err
}
