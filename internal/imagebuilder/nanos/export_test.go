package nanos

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
)

func TestDisk(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: fakeRelease(t)})
	image := mustBuild(t, k, pack(t, `{"Name":"app","Version":"1","Program":"/bin/app"}`, map[string]string{"sysroot/bin/app": "\x7fELF and more"}))
	b, err := readBuild(image)
	require.NoError(t, err)
	whole, err := os.ReadFile(filepath.Join(image, diskName))
	require.NoError(t, err)
	path, err := k.Disk(context.Background(), image, fleet.Package{}, imagebuilder.DiskOptions{}, t.TempDir())
	require.NoError(t, err)
	disk, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Len(t, disk, int(b.TenantBytes))
	require.Equal(t, whole, disk[:len(whole)])
	require.Equal(t, make([]byte, len(disk)-len(whole)), disk[len(whole):])

	_, err = os.Stat(filepath.Join(image, efiName))
	dir := t.TempDir()
	path, uefi := k.Disk(context.Background(), image, fleet.Package{}, imagebuilder.DiskOptions{UEFI: true}, dir)
	if err != nil {
		require.Equal(t, fleet.KindUnavailable, fleet.KindOf(uefi), "a release without a loader")
		return
	}
	require.NoError(t, uefi)
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Greater(t, info.Size(), b.TenantBytes+32<<20)
	root, err := os.Open(path)
	require.NoError(t, err)
	defer root.Close()
	_, err = OpenRoot(root, info.Size())
	require.NoError(t, err)
}
