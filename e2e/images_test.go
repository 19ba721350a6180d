package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// TestImageIsBuiltOnce: a hundred ask two processes for one image at once. Then
// the builder is killed in the middle of builds, as often as DORMOUSE_E2E_KILLS says (3).
func TestImageIsBuiltOnce(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "shared")
	e := suite.Own(t, harness.Options{Args: []string{"--image-dir", dir}})
	require.NoError(t, e.Start(t.Context()))
	pkg := upload(t, e, suite.Workspace(t, "1.0.0"))
	second, err := e.Beside(t.Context(), "--image-dir", dir)
	require.NoError(t, err)

	var g errgroup.Group
	images := make([]client.Image, 100)
	for n := range images {
		c := []*client.Client{e.Client, second.Client}[n%2]
		g.Go(func() (err error) {
			images[n], err = c.Images.Build(t.Context(), client.BuildImage{Package: pkg})
			return err
		})
	}
	require.NoError(t, g.Wait())
	require.NoError(t, second.End())
	image := images[0]
	for _, i := range images {
		require.Equal(t, image.ID, i.ID)
		require.Equal(t, "ready", i.State)
	}
	log, err := os.ReadFile(e.LogPath())
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(log), "built an image"), "in both processes together")
	requireOnly(t, dir, image.ID)
	whole := ctl(t, e, "-o", "json", "image", "ls", pkg, "--digests").Stdout

	kills := 3
	if text := os.Getenv("DORMOUSE_E2E_KILLS"); text != "" {
		kills, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	for range kills {
		killBuilding(t, e, dir, pkg, image.ID)
		require.NoError(t, e.Start(t.Context()))
		left, err := os.ReadDir(filepath.Join(dir, "tmp"))
		require.NoError(t, err)
		require.Empty(t, left)
		built, err := e.Client.Images.Build(t.Context(), client.BuildImage{Package: pkg})
		require.NoError(t, err)
		require.Equal(t, image.ID, built.ID)
		requireOnly(t, dir, image.ID)
		require.Equal(t, whole, ctl(t, e, "-o", "json", "image", "ls", pkg, "--digests").Stdout)
	}
	t.Logf("killed %d times while an image was built", kills)
}

// killBuilding removes the image, asks for it, and kills the provisioner when
// the build has begun.
func killBuilding(t *testing.T, e *harness.Environment, dir, pkg, id string) {
	t.Helper()
	for {
		require.NoError(t, e.Client.Images.Delete(t.Context(), id))
		answered := make(chan error, 1)
		go func() {
			_, err := e.Client.Images.Build(t.Context(), client.BuildImage{Package: pkg})
			answered <- err
		}()
		work := filepath.Join(dir, "tmp", "image-"+id, "kernel")
		for begun := false; !begun; {
			_, err := os.Stat(work)
			begun = err == nil
			select {
			case err := <-answered: // too fast for us
				require.NoError(t, err)
				begun = true
			case <-time.After(100 * time.Microsecond):
			}
		}
		if _, err := os.Stat(work); err == nil {
			require.NoError(t, e.End(syscall.SIGKILL))
			return
		}
	}
}

// requireOnly sees that the store holds that image and nothing half made.
func requireOnly(t *testing.T, dir, id string) {
	t.Helper()
	for name, want := range map[string][]string{"images": {id}, "tmp": nil} {
		entries, err := os.ReadDir(filepath.Join(dir, name))
		require.NoError(t, err)
		var names []string
		for _, entry := range entries {
			names = append(names, entry.Name())
		}
		require.Equal(t, want, names, name)
	}
}
