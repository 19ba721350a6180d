package imagebuilder

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

// Read implements Reader: fakeKernel's images are tars.
func (k *fakeKernel) Read(_ context.Context, dir string, visit func(source.Entry, io.Reader) error) error {
	f, err := os.Open(filepath.Join(dir, "root"))
	if err != nil {
		return err
	}
	defer f.Close()
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := visit(source.Entry{Path: h.Name, Kind: source.File, Mode: uint32(h.Mode), Size: h.Size}, tr); err != nil {
			return err
		}
	}
}

func TestCatalogue(t *testing.T) {
	t.Parallel()
	k := &fakeKernel{digest: "k", started: make(chan struct{}), resume: make(chan struct{})}
	dir := t.TempDir()
	b := open(t, dir, k)
	p := importApp(t, b, "1")
	want, err := b.ImageOf(t.Context(), p)
	require.NoError(t, err)
	_, err = b.Image(want)
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))

	built := make(chan error, 1)
	go func() {
		_, err := b.Ensure(context.Background(), p)
		built <- err
	}()
	<-k.started
	i, err := b.Image(want)
	require.NoError(t, err)
	require.Equal(t, fleet.ImageBuilding, i.State)
	require.Equal(t, []string{"app", "1"}, []string{i.PackageName, i.PackageVersion})
	require.EqualValues(t, 64, i.TotalBytes)
	require.Zero(t, i.DoneBytes)
	require.Contains(t, i.Log[0], "opened the package")
	// Another process sees that it is being built.
	elsewhere := open(t, dir, &fakeKernel{digest: "k"})
	images, err := elsewhere.Images(t.Context())
	require.NoError(t, err)
	require.Equal(t, []fleet.Image{{ID: want, State: fleet.ImageBuilding}}, images)

	k.resume <- struct{}{}
	require.NoError(t, <-built)
	images, err = b.Images(t.Context())
	require.NoError(t, err)
	require.Len(t, images, 1)
	i = images[0]
	require.Equal(t, fleet.ImageReady, i.State)
	require.Equal(t, p.Digest, i.PackageDigest)
	require.WithinDuration(t, time.Now(), i.CreatedAt, time.Minute)
	require.Greater(t, i.SizeBytes, int64(64))
	require.Zero(t, i.TotalBytes)

	var found []fleet.ImageFile
	add := func(f fleet.ImageFile) error { found = append(found, f); return nil }
	require.NoError(t, b.ListFiles(t.Context(), want, "/", true, add))
	require.Len(t, found, 1)
	require.Equal(t, "/app", found[0].Path)
	require.Len(t, found[0].SHA256, 64)
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(b.ListFiles(t.Context(), want, "/ap", false, add)))
	var out bytes.Buffer
	var size int64
	require.NoError(t, b.CopyFile(t.Context(), want, "/app", func(n int64) { size = n }, &out))
	require.EqualValues(t, out.Len(), size)
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(b.CopyFile(t.Context(), want, "/nothing", nil, &out)))

	body, err := b.Provenance(want)
	require.NoError(t, err)
	var s statement
	require.NoError(t, json.Unmarshal(body, &s))
	require.Equal(t, p.Digest, s.Predicate.BuildDefinition.ResolvedDependencies[0].Digest["sha256"])
	sum, err := new(Digests).File(filepath.Join(dir, "images", string(want), "root"))
	require.NoError(t, err)
	require.Equal(t, []subject{{Name: "root", Digest: map[string]string{"sha256": sum}}}, s.Subject)

	require.NoError(t, b.RemoveImage(t.Context(), want))
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(b.RemoveImage(t.Context(), want)))
	require.Empty(t, inDir(t, dir, "images"))
}

// What is said of a build that failed goes with the next one.
func TestCatalogueOfFailures(t *testing.T) {
	t.Parallel()
	k := &fakeKernel{digest: "k", fail: fleet.Failure(fleet.ReasonImageBuild, "no luck")}
	b := open(t, t.TempDir(), k)
	p := importApp(t, b, "1")
	_, err := b.Ensure(t.Context(), p)
	require.Error(t, err)
	images, err := b.Images(t.Context())
	require.NoError(t, err)
	require.Len(t, images, 1)
	require.Equal(t, fleet.ImageFailed, images[0].State)
	require.Contains(t, images[0].Detail, "no luck")
	k.fail = nil
	id, err := b.Ensure(t.Context(), p)
	require.NoError(t, err)
	i, err := b.Image(id)
	require.NoError(t, err)
	require.Equal(t, fleet.ImageReady, i.State)
	require.Empty(t, i.Detail)
	require.NoError(t, b.RemoveImage(t.Context(), id))
	images, err = b.Images(t.Context())
	require.NoError(t, err)
	require.Empty(t, images)
}

func TestCollect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir, &fakeKernel{digest: "k"})
	old := time.Now().Add(-2 * time.Hour)
	ids := map[string]fleet.ImageID{}
	for _, v := range []string{"used", "idle", "fresh", "asked"} {
		id, err := b.Ensure(t.Context(), importApp(t, b, v))
		require.NoError(t, err)
		ids[v] = id
		if v != "fresh" {
			require.NoError(t, os.Chtimes(b.imagePath(id), old, old))
		}
	}
	asked := 0
	removed, err := b.Collect(t.Context(), func(id fleet.ImageID) bool {
		if id == ids["asked"] {
			if asked++; asked == 2 { // between the first look and the last, somebody wants it
				have, err := b.touch(id)
				require.NoError(t, err)
				require.True(t, have)
			}
		}
		return id == ids["used"]
	}, time.Hour)
	require.NoError(t, err)
	require.Equal(t, []fleet.ImageID{ids["idle"]}, removed)
	require.ElementsMatch(t, []string{string(ids["used"]), string(ids["fresh"]), string(ids["asked"])}, inDir(t, dir, "images"))
	require.Empty(t, inDir(t, dir, "tmp"))
	i, err := b.Image(ids["used"])
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), i.UsedAt, time.Minute, "others see that it is used")
	id, err := b.Ensure(t.Context(), importApp(t, b, "idle"))
	require.NoError(t, err)
	require.Equal(t, ids["idle"], id, "it is built again")
}
