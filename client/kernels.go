package client

import (
	"context"
	"net/http"
	"time"
)

// Kernels are the methods on releases of kernels that come as archives.
type Kernels struct{ c *Client }

// Kernel is a release of a kernel, on the server's host.
type Kernel struct {
	// Kind is what packages name it by, such as nanos.
	Kind   string `json:"kind"`
	SHA256 string `json:"sha256"`
	URL    string `json:"url"`
	// Current: new images are built with it.
	Current   bool      `json:"current"`
	CreatedAt time.Time `json:"created_at"`
}

// AddKernel is the body of POST /api/v1/kernels.
type AddKernel struct {
	Kind string `json:"kind"`
	// URL is the archive's address (http or https), SHA256 what it must have.
	URL    string `json:"url"`
	SHA256 string `json:"sha256"`
}

// List returns the releases that are there.
func (s *Kernels) List(ctx context.Context) (Page[Kernel], error) {
	return get[Page[Kernel]](ctx, s.c, nil, "kernels")
}

// Add has the server fetch a release, check its SHA-256, and build new images with it.
func (s *Kernels) Add(ctx context.Context, in AddKernel, options ...RequestOption) (Kernel, error) {
	var out Kernel
	r, err := change(http.MethodPost, "/kernels", in, options)
	if err != nil {
		return out, err
	}
	r.timeout = -1 // a download takes what it takes
	err = s.c.do(ctx, r, &out)
	return out, err
}
