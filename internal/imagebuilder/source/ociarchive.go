package source

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Members of an archive that say of which form it is.
const (
	ociIndexName    = "index.json"    // OCI image layout
	ociLayoutName   = "oci-layout"    // OCI image layout
	dockerIndexName = "manifest.json" // `docker save`
)

// isImageArchive tells whether a tree holds a container image.
func isImageArchive(t *Tree) bool {
	_, index := t.entries[ociIndexName]
	_, layout := t.entries[ociLayoutName]
	_, docker := t.entries[dockerIndexName]
	return index && layout || docker
}

// archivedImage finds the image in an OCI image layout or in what `docker save`
// writes; newer Dockers write one that is both.
func archivedImage(ctx context.Context, t *Tree) (*ociImage, error) {
	_, index := t.entries[ociIndexName]
	_, layout := t.entries[ociLayoutName]
	if !index || !layout {
		return dockerImage(t)
	}
	raw, err := t.small(ociIndexName)
	if err != nil {
		return nil, err
	}
	img, err := image(ctx, treeBlobs{t}, raw, sha256Of(raw))
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, invalid("%s is malformed: %w", ociIndexName, err)
	}
	for _, d := range m.Manifests {
		for _, key := range []string{"io.containerd.image.name", "org.opencontainers.image.ref.name"} {
			if ref := d.Annotations[key]; ref != "" && img.name == "" {
				img.name, img.version = nameOf(ref)
				if !strings.ContainsAny(ref, "/:") { // most tools write the tag only
					img.name, img.version = "", ref
				}
			}
		}
	}
	return img, nil
}

// nameOf splits a reference into the last part of its repository, and its tag.
func nameOf(ref string) (image, tag string) {
	r, err := name.ParseReference(ref, name.WithDefaultTag(""))
	if err != nil {
		return "", ""
	}
	repository := r.Context().RepositoryStr()
	for i := len(repository) - 1; i >= 0; i-- {
		if repository[i] == '/' {
			repository = repository[i+1:]
			break
		}
	}
	if t, ok := r.(name.Tag); ok {
		tag = t.TagStr()
	}
	return repository, tag
}

// treeBlobs are the blobs of an OCI image layout.
type treeBlobs struct{ t *Tree }

func (b treeBlobs) manifest(_ context.Context, digest v1.Hash) ([]byte, error) {
	return b.t.small("blobs/" + digest.Algorithm + "/" + digest.Hex)
}

func (b treeBlobs) blob(_ context.Context, digest v1.Hash) (io.ReadCloser, error) {
	r, err := b.t.part("blobs/" + digest.Algorithm + "/" + digest.Hex)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(r), nil
}

// part opens a member of an archive that another one names.
func (t *Tree) part(name string) (*io.SectionReader, error) {
	r, err := t.Open(name)
	if err != nil {
		return nil, invalid("the image's archive lacks a part, save it again with all that belongs to it: %w", err)
	}
	return r, nil
}

func (t *Tree) small(name string) ([]byte, error) {
	r, err := t.part(name)
	if err != nil {
		return nil, err
	}
	if r.Size() > maxOCIManifest {
		return nil, invalid("%s in the image's archive has %d bytes, more than %d", name, r.Size(), maxOCIManifest)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, storageError("reading the image's archive again", err)
	}
	return raw, nil
}

var digestName = regexp.MustCompile(`^(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json)?$`)

// dockerImage reads manifest.json of `docker save` (Docker image specification
// v1.2, "Combined Image JSON + Filesystem Changeset Format").
func dockerImage(t *Tree) (*ociImage, error) {
	raw, err := t.small(dockerIndexName)
	if err != nil {
		return nil, err
	}
	var images []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(raw, &images); err != nil {
		return nil, invalid("%s in the image's archive is malformed: %w", dockerIndexName, err)
	}
	if len(images) != 1 {
		return nil, invalid("the archive holds %d images: save one of them only (docker save IMAGE:TAG)", len(images))
	}
	m := images[0]
	if len(m.Layers) > maxLayers {
		return nil, invalid("the image has %d layers, more than %d: squash it", len(m.Layers), maxLayers)
	}
	img := &ociImage{}
	if len(m.RepoTags) > 0 {
		img.name, img.version = nameOf(m.RepoTags[0])
	}
	r, err := t.part(m.Config)
	if err != nil {
		return nil, err
	}
	if r.Size() > maxOCIConfig {
		return nil, invalid("the image's configuration has more than %d MiB", maxOCIConfig>>20)
	}
	if img.config, err = io.ReadAll(r); err != nil {
		return nil, storageError("reading the image's archive again", err)
	}
	if parts := digestName.FindStringSubmatch(m.Config); parts != nil {
		if err := checked("the image's configuration", img.config, v1.Hash{Algorithm: "sha256", Hex: parts[1]}); err != nil {
			return nil, err
		}
	}
	for _, layer := range m.Layers {
		img.layers = append(img.layers, ociLayer{open: func(context.Context) (io.ReadCloser, error) {
			r, err := t.part(layer)
			if err != nil {
				return nil, err
			}
			return io.NopCloser(r), nil
		}})
	}
	return img, nil
}
