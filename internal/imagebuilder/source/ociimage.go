package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"dormouse/internal/fleet"
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
		return nil, invalid("there is no image for linux/amd64, only for %s: build it for linux/amd64 (docker buildx build --platform linux/amd64)", strings.Join(slices.Compact(others), ", "))
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

// hashing remembers the digest of what is read through it.
type hashing struct {
	r io.Reader
	h hash.Hash
	n int64
}

func newHashing(r io.Reader) *hashing { return &hashing{r: r, h: sha256.New()} }

func (h *hashing) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.h.Write(p[:n]) // never fails
	h.n += int64(n)
	return n, err
}

func (h *hashing) sum() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.h.Sum(nil))}
}

// addLayer reads a layer, compares both its digests, applies it, and returns its digest as stored.
func (l *layered) addLayer(ctx context.Context, layer ociLayer, diffID v1.Hash, origin int, left *int64) (_ v1.Hash, err error) {
	r, err := layer.open(ctx)
	if err != nil {
		return v1.Hash{}, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	limit := l.limits.Bytes
	if layer.digest.Hex != "" {
		limit = min(limit, layer.size)
	}
	stored := newHashing(io.LimitReader(r, limit+1))
	err = l.addPlain(ctx, stored, diffID, origin, left)
	if layer.digest.Hex == "" {
		return stored.sum(), err
	}
	// What is not what it should be is damaged in other ways as well: this is the better word.
	if err != nil && fleet.KindOf(err) != fleet.KindInvalid {
		return v1.Hash{}, err
	}
	if _, rest := io.Copy(io.Discard, stored); rest != nil && err == nil {
		err = readError(rest)
	}
	if stored.n != layer.size || stored.sum() != layer.digest {
		return v1.Hash{}, lies("a layer", layer.digest)
	}
	return layer.digest, err
}

func (l *layered) addPlain(ctx context.Context, stored io.Reader, diffID v1.Hash, origin int, left *int64) error {
	in, err := decompressed(stored)
	if err != nil {
		return err
	}
	defer in.close()
	bounded := &boundedReader{r: in.r, left: *left}
	plain := newHashing(bounded)
	err = l.add(ctx, plain, origin)
	if err == nil {
		_, err = io.Copy(io.Discard, plain) // what follows the tar's end is of the digest as well
	}
	*left = bounded.left
	if err != nil {
		return readError(err)
	}
	if _, err := io.Copy(io.Discard, in.r); err != nil {
		return readError(err)
	}
	if diffID.Hex != "" && plain.sum() != diffID {
		return lies("the content of a layer", diffID)
	}
	return nil
}

// base makes the image's file system and manifest.
func (img *ociImage) base(ctx context.Context, s *spool, o Options) (*base, error) {
	config, err := v1.ParseConfigFile(bytes.NewReader(img.config))
	if err != nil {
		return nil, invalid("the image's configuration is malformed: %w", err)
	}
	if p := (&v1.Platform{OS: config.OS, Architecture: config.Architecture}); !platformFits(p) {
		return nil, invalid("the image is for %s/%s: build it for linux/amd64 (docker buildx build --platform linux/amd64)", config.OS, config.Architecture)
	}
	ids := config.RootFS.DiffIDs
	if len(ids) != len(img.layers) {
		return nil, invalid("the image's configuration names %d layers, its manifest %d: build it anew", len(ids), len(img.layers))
	}
	l := newLayered(s, o.Limits)
	b := &base{name: MendName(img.name), version: MendVersion(img.version)}
	left := 2*o.Limits.Bytes + int64(o.Limits.Members)*1024
	for i, layer := range img.layers {
		digest, err := l.addLayer(ctx, layer, ids[i], i+1, &left)
		if err != nil {
			return nil, layerError(i, len(img.layers), err)
		}
		b.origins = append(b.origins, Origin{Type: OriginOCI, Name: img.name, Version: img.version, Digest: digest.Hex})
	}
	if b.image, err = l.tree(); err != nil {
		return nil, err
	}
	more, err := b.configure(config.Config, o)
	b.warnings = append(l.warnings(config.Config.User), more...)
	return b, err
}

func layerError(i, n int, err error) error {
	return fmt.Errorf("the image's layer %d of %d: %w", i+1, n, err)
}
