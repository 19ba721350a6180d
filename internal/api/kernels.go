package api

import (
	"context"
	"net/http"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// Kernels keeps releases of kernels that come as archives.
type Kernels interface {
	// List returns those that are here.
	List() ([]fleet.KernelRelease, error)
	// Add fetches one, checks its SHA-256, and has new images built with it.
	Add(ctx context.Context, kind fleet.KernelKind, url, sha256 string) (fleet.KernelRelease, error)
}

func (s *server) listKernels(w http.ResponseWriter, _ *http.Request) error {
	releases, err := s.Kernels.List()
	if err != nil {
		return err
	}
	items := make([]client.Kernel, len(releases))
	for i, r := range releases {
		items[i] = wireKernel(r)
	}
	return writeJSON(w, http.StatusOK, client.Page[client.Kernel]{Items: items})
}

// addKernel is idempotent without a key: the digest says what comes.
func (s *server) addKernel(w http.ResponseWriter, r *http.Request) error {
	var in client.AddKernel
	m, _, err := decodeBody(r, &in, "application/json")
	if err == nil {
		err = m.noNull()
	}
	if err != nil {
		return err
	}
	if _, err := s.idempotencyKey(r, nil); err != nil {
		return err
	}
	infoOf(r).waited = true
	release, err := s.Kernels.Add(r.Context(), fleet.KernelKind(in.Kind), in.URL, in.SHA256)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, wireKernel(release))
}

func wireKernel(r fleet.KernelRelease) client.Kernel {
	return client.Kernel{Kind: string(r.Kind), SHA256: r.SHA256, URL: r.URL, Current: r.Current, CreatedAt: r.CreatedAt}
}
