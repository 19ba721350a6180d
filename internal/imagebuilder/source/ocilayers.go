package source

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"dormouse/internal/fleet"
)

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
	if layer.size > l.limits.Bytes {
		return v1.Hash{}, tooManyBytes(l.limits.Bytes)
	}
	r, err := layer.open(ctx)
	if err != nil {
		return v1.Hash{}, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	limit := l.limits.Bytes
	if layer.digest.Hex != "" {
		limit = layer.size
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
		return nil, invalid("the image is for %s/%s: build it for linux/amd64 (docker buildx build --platform linux/amd64)", short(config.OS), short(config.Architecture))
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
		b.origins = append(b.origins, Origin{Type: OriginOCI, Name: cmp.Or(img.name, o.Name, "image"), Version: img.version, Digest: digest.Hex})
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
