package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Bounds on what a container image consists of besides its layers' content.
const (
	maxOCIManifest = 4 << 20 // as registries and containerd have it
	maxOCIConfig   = 8 << 20
	maxLayers      = 512
	maxIndexed     = 1024
	maxIndexDepth  = 4
)

// blobs is where an image's parts come from. What it returns is not believed:
// its callers compare digests.
type blobs interface {
	// manifest returns the manifest or index of that digest.
	manifest(ctx context.Context, digest v1.Hash) ([]byte, error)
	// blob returns a config or layer. The caller closes it.
	blob(ctx context.Context, digest v1.Hash) (io.ReadCloser, error)
}

// ociImage is an image that has been found.
type ociImage struct {
	// name and version are what the image is called, as far as is known.
	name, version string
	config        []byte
	layers        []ociLayer
}

type ociLayer struct {
	// digest and size are of the layer as stored; zero where the format does not tell.
	digest v1.Hash
	size   int64
	open   func(ctx context.Context) (io.ReadCloser, error)
}

// lies is the error for content that is not what its digest says.
func lies(what string, want v1.Hash) error {
	return invalid("%s is not what its digest %s says: the archive or the registry is damaged or lies; get the image anew", what, want)
}

func sha256Of(raw []byte) v1.Hash {
	sum := sha256.Sum256(raw)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// checked reads a small part of an image and compares it with its digest.
func checked(what string, raw []byte, want v1.Hash) error {
	if want.Algorithm != "sha256" {
		return invalid("%s has a digest of the kind %q: only sha256 is known here", what, want.Algorithm)
	}
	if sha256Of(raw) != want {
		return lies(what, want)
	}
	return nil
}

// platform tells what images must be for. amd64 says nothing of a variant:
// those beyond v1 may use instructions that the host has not.
func platformFits(p *v1.Platform) bool {
	return p.OS == "linux" && p.Architecture == "amd64"
}

// found is a manifest that fits, and the index entry that led to it.
type found struct {
	manifest v1.Manifest
	digest   v1.Hash
	variant  string
}

// resolve finds the image for linux/amd64 in a manifest or index. others
// collects what else there is.
func resolve(ctx context.Context, from blobs, raw []byte, digest v1.Hash, platform *v1.Platform, depth int, others *[]string) ([]found, error) {
	var kind struct {
		Manifests json.RawMessage `json:"manifests"`
		Config    json.RawMessage `json:"config"`
		Layers    json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return nil, invalid("the image's manifest %s is no JSON: %w", digest, err)
	}
	if kind.Manifests == nil {
		if kind.Config == nil || kind.Layers == nil {
			return nil, invalid("the image's manifest %s names neither layers nor other manifests: images of the old schema 1 are not read, push it anew", digest)
		}
		f := found{digest: digest}
		m, err := v1.ParseManifest(bytes.NewReader(raw))
		if err != nil {
			return nil, invalid("the image's manifest %s is malformed: %w", digest, err)
		}
		f.manifest = *m
		if platform != nil {
			f.variant = platform.Variant
		}
		return []found{f}, nil
	}
	if depth >= maxIndexDepth {
		return nil, invalid("the image's indexes lie more than %d deep in one another: push it anew", maxIndexDepth)
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, invalid("the image's index %s is malformed: %w", digest, err)
	}
	if len(index.Manifests) > maxIndexed {
		return nil, invalid("the image's index names %d manifests, more than %d", len(index.Manifests), maxIndexed)
	}
	var all []found
	for _, d := range index.Manifests {
		if d.Annotations["vnd.docker.reference.type"] != "" {
			continue // an attestation about another entry
		}
		if d.Platform != nil && !platformFits(d.Platform) {
			*others = append(*others, d.Platform.String())
			continue
		}
		raw, err := from.manifest(ctx, d.Digest)
		if err != nil {
			return nil, err
		}
		if err := checked("the image's manifest", raw, d.Digest); err != nil {
			return nil, err
		}
		more, err := resolve(ctx, from, raw, d.Digest, d.Platform, depth+1, others)
		if err != nil {
			return nil, err
		}
		for _, f := range more {
			if !slices.ContainsFunc(all, func(have found) bool { return have.digest == f.digest }) {
				all = append(all, f)
			}
		}
	}
	if depth > 0 || len(all) < 2 {
		return all, nil
	}
	// Several at the top: of one image for several machines, or several images.
	plain := slices.DeleteFunc(slices.Clone(all), func(f found) bool { return f.variant != "" && f.variant != "v1" })
	if len(plain) == 1 {
		return plain, nil
	}
	return all, nil
}

// image reads what resolve found in a manifest or index.
func image(ctx context.Context, from blobs, raw []byte, digest v1.Hash) (*ociImage, error) {
	var others []string
	all, err := resolve(ctx, from, raw, digest, nil, 0, &others)
	if err != nil {
		return nil, err
	}
	switch {
	case len(all) == 0 && len(others) > 0:
		slices.Sort(others)
		return nil, invalid("there is no image for linux/amd64, only for %s: build it for linux/amd64 (docker buildx build --platform linux/amd64)", short(strings.Join(slices.Compact(others), ", ")))
	case len(all) == 0:
		return nil, invalid("the image's index names no image")
	case len(all) > 1:
		return nil, invalid("there are %d images for linux/amd64: save one of them only", len(all))
	}
	m := all[0].manifest
	if len(m.Layers) > maxLayers {
		return nil, invalid("the image has %d layers, more than %d: squash it", len(m.Layers), maxLayers)
	}
	img := &ociImage{}
	if img.config, err = readBlob(ctx, from, m.Config); err != nil {
		return nil, err
	}
	for _, d := range m.Layers {
		if d.Digest.Algorithm != "sha256" || d.Size < 0 {
			return nil, invalid("the image's manifest names a layer by %q with %d bytes: only sha256 is known here", d.Digest, d.Size)
		}
		img.layers = append(img.layers, ociLayer{digest: d.Digest, size: d.Size, open: func(ctx context.Context) (io.ReadCloser, error) {
			return from.blob(ctx, d.Digest)
		}})
	}
	return img, nil
}

func readBlob(ctx context.Context, from blobs, d v1.Descriptor) (_ []byte, err error) {
	r, err := from.blob(ctx, d.Digest)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	raw, err := io.ReadAll(io.LimitReader(r, maxOCIConfig+1))
	if err != nil {
		return nil, readError(err)
	}
	if len(raw) > maxOCIConfig {
		return nil, invalid("the image's configuration has more than %d MiB", maxOCIConfig>>20)
	}
	return raw, checked("the image's configuration", raw, d.Digest)
}
