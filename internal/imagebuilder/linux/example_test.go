package linux_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/linux"
)

// The example is packaged, uploaded and built as a user would, twice and in two
// places, and gives the same package and image.
func TestExample(t *testing.T) {
	t.Parallel()
	pkg, kernel := t.TempDir(), t.TempDir()
	out, err := exec.Command("../../../scripts/package-workspace.sh", pkg, "1.2.3").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, name := range []string{"vmlinuz", "initrd"} {
		require.NoError(t, os.WriteFile(filepath.Join(kernel, name), []byte(name), 0o600))
	}
	archive, err := exec.Command("tar", "-C", pkg, "-cz", ".").Output()
	require.NoError(t, err)
	log := logrus.New()
	log.SetOutput(io.Discard)

	var ids []fleet.ImageID
	var roots [][]byte
	for range 2 {
		b, err := imagebuilder.New(imagebuilder.Options{
			Dir: t.TempDir(), Log: log,
			Kernels: []imagebuilder.Kernel{linux.New(linux.Options{KernelPath: filepath.Join(kernel, "vmlinuz"), InitrdPath: filepath.Join(kernel, "initrd")})},
		})
		require.NoError(t, err)
		t.Cleanup(b.Close)
		p, err := b.Import(context.Background(), bytes.NewReader(archive), imagebuilder.ImportOptions{})
		require.NoError(t, err)
		require.Equal(t, []string{"workspace", "1.2.3", "/workspace"}, []string{p.Name, p.Version, p.Manifest.Program})
		require.Empty(t, p.Warnings)
		same, err := b.ImportDir(context.Background(), pkg, imagebuilder.ImportOptions{})
		require.NoError(t, err)
		require.Equal(t, p, same)
		id, err := b.Ensure(context.Background(), p)
		require.NoError(t, err)
		files, err := b.Files(context.Background(), id)
		require.NoError(t, err)
		root, err := os.ReadFile(files.RootPath)
		require.NoError(t, err)
		ids, roots = append(ids, id), append(roots, root)
	}
	require.Equal(t, ids[0], ids[1])
	require.True(t, bytes.Equal(roots[0], roots[1]), "two builders made different files")
}
