package client

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
)

// Packages are the methods on packages. Where an ID is taken, name@version or
// a name (its newest version) does as well.
type Packages struct{ c *Client }

// NewPackage is a package to be uploaded.
type NewPackage struct {
	// Name and Version are as the package's manifest says, or as the server chooses, if empty.
	Name, Version string
	// Content is a gzipped tar archive. It is read as it is sent, not kept. An
	// io.Seeker is rewound when the upload has to be repeated; for another
	// reader set Reopen, or the upload is tried once.
	Content io.Reader
	// Reopen returns the content again from its start. With it, Content may be nil.
	Reopen func() (io.ReadCloser, error)
}

// Create uploads a package. One with the same name, version and content that
// is there already is returned as it is; other content is a conflict.
func (s *Packages) Create(ctx context.Context, in NewPackage, options ...RequestOption) (Package, error) {
	r, err := change(http.MethodPost, "/packages", nil, options)
	if err != nil {
		return Package{}, err
	}
	r.query = url.Values{}
	set(r.query, "name", in.Name)
	set(r.query, "version", in.Version)
	// As long as the caller likes: an upload takes the time that it takes.
	r.timeout = -1
	seeker, seekable := in.Content.(io.Seeker)
	switch {
	case in.Reopen != nil:
		r.open = in.Reopen
	case in.Content == nil:
		return Package{}, fmt.Errorf("uploading a package: give its Content")
	case seekable:
		start, err := seeker.Seek(0, io.SeekCurrent)
		if err != nil {
			return Package{}, fmt.Errorf("uploading a package: finding its start: %w", err)
		}
		r.open = func() (io.ReadCloser, error) {
			_, err := seeker.Seek(start, io.SeekStart)
			return io.NopCloser(in.Content), err
		}
	default:
		r.attempts = 1
		r.open = func() (io.ReadCloser, error) { return io.NopCloser(in.Content), nil }
	}
	var out Package
	err = s.c.do(ctx, r, &out)
	return out, err
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
