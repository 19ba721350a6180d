package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"dormouse/internal/fleet"
)

// PullTimeout bounds a pull from a registry as a whole.
const PullTimeout = 30 * time.Minute

// Pull makes a package of an image in a registry: NAME:TAG or NAME@DIGEST, as
// Docker names them. It asks without credentials, and by plain HTTP only
// loopback's registries. What comes is compared with the digests that lead to
// it. A reference or image at fault is KindInvalid, a registry that can't be
// reached KindUnavailable. The caller closes the Package.
func Pull(ctx context.Context, ref string, o Options) (*Package, error) {
	return o.read(ctx, func(s *spool, o Options) (*base, error) {
		within, cancel := context.WithTimeout(ctx, PullTimeout)
		defer cancel()
		careful := newTransport(o.Limits)
		defer careful.inner.CloseIdleConnections()
		img, err := pull(within, ref, careful)
		var b *base
		if err == nil {
			b, err = img.base(within, s, o)
		}
		if err != nil && within.Err() != nil && ctx.Err() == nil {
			return nil, fleet.Errorf(fleet.KindUnavailable, "pulling %s took longer than %s: try again, or save the image and send the archive: %w", ref, PullTimeout, err)
		}
		return b, err
	})
}

// pull finds the image; its layers are fetched when they are read.
func pull(ctx context.Context, ref string, careful *carefulTransport) (*ociImage, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, fleet.InvalidField("oci", "%q is no image reference, write registry/name:tag or registry/name@sha256:…: %w", ref, err)
	}
	if careful.loopback = isLoopback(r.Context().RegistryStr()); careful.loopback {
		if r, err = name.ParseReference(ref, name.Insecure); err != nil {
			return nil, fleet.InvalidField("oci", "%q is no image reference: %w", ref, err)
		}
	}
	puller, err := remote.NewPuller(remote.WithContext(ctx), remote.WithTransport(careful), remote.WithAuth(authn.Anonymous), remote.WithUserAgent("dormouse"))
	if err != nil {
		return nil, registryError(ref, err)
	}
	from := &registryBlobs{repository: r.Context(), puller: puller, ref: ref}
	top, err := puller.Get(ctx, r)
	if err != nil {
		return nil, registryError(ref, err)
	}
	digest := top.Digest
	if d, ok := r.(name.Digest); ok {
		if digest, err = v1.NewHash(d.DigestStr()); err != nil {
			return nil, fleet.InvalidField("oci", "%q is no image reference: %w", ref, err)
		}
	}
	if err := checked("the image's manifest", top.Manifest, digest); err != nil {
		return nil, err
	}
	img, err := image(ctx, from, top.Manifest, digest)
	if err != nil {
		return nil, err
	}
	img.name, img.version = nameOf(ref)
	if img.version == "" {
		img.version = "latest"
		if _, ok := r.(name.Digest); ok {
			img.version = digest.Hex[:12]
		}
	}
	return img, nil
}

// registryBlobs are the blobs of a repository.
type registryBlobs struct {
	repository name.Repository
	puller     *remote.Puller
	ref        string
}

func (b *registryBlobs) manifest(ctx context.Context, digest v1.Hash) ([]byte, error) {
	d, err := b.puller.Get(ctx, b.repository.Digest(digest.String()))
	if err != nil {
		return nil, registryError(b.ref, err)
	}
	return d.Manifest, nil
}

func (b *registryBlobs) blob(ctx context.Context, digest v1.Hash) (io.ReadCloser, error) {
	layer, err := b.puller.Layer(ctx, b.repository.Digest(digest.String()))
	if err != nil {
		return nil, registryError(b.ref, err)
	}
	r, err := layer.Compressed()
	if err != nil {
		return nil, registryError(b.ref, err)
	}
	return registryReader{r, b.ref}, nil
}

// registryReader gives errors of a body their kind.
type registryReader struct {
	io.ReadCloser
	ref string
}

func (r registryReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = registryError(r.ref, err)
	}
	return n, err
}

// registryError gives what a registry answered a kind and advice.
func registryError(ref string, err error) error {
	var typed *fleet.Error
	var answer *transport.Error
	switch {
	case errors.As(err, &typed):
		return typed
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("pulling %s: %w", ref, err)
	case errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound:
		return fleet.InvalidField("oci", "the registry has no image %s that all may read: check its name and tag", ref)
	case errors.As(err, &answer) && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden):
		return fleet.InvalidField("oci", "the registry gives %s only to those who log in: save the image (docker save) and send the archive", ref)
	case strings.Contains(err.Error(), "error verifying"), strings.Contains(err.Error(), "does not match"):
		return fleet.Errorf(fleet.KindInvalid, "the registry of %s sends something else than the digest says, it is damaged or lies: %w", ref, err)
	}
	return fleet.Errorf(fleet.KindUnavailable, "asking the registry of %s: %w", ref, err)
}
