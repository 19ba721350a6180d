package nanos

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestSpecialiseTraced(t *testing.T) {
	t.Parallel()
	dir := fakeRelease(t)
	k := New(Options{Dir: dir})
	p := app(t)
	p.Manifest.Klibs = []string{"shmem"}
	image := mustBuild(t, k, p)
	_, err := k.Specialise(context.Background(), image, fleet.Tenant{Trace: true}, t.TempDir())
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
	require.ErrorContains(t, err, "no module strace")
	require.NoError(t, os.WriteFile(filepath.Join(dir, klibsDir, traceKlib), []byte("klib strace"), 0o644))
	_, err = k.Specialise(context.Background(), image, fleet.Tenant{Trace: true}, t.TempDir())
	require.ErrorContains(t, err, "another Nanos release")

	image = mustBuild(t, k, p)
	files, err := k.Specialise(context.Background(), image, fleet.Tenant{Trace: true, Hostname: "one"}, t.TempDir())
	require.NoError(t, err)
	root, _ := tenantRoot(t, image, files)
	require.Equal(t, []any{"rootfs", "t"}, []any{root.Root.Get("klibs"), root.Root.Get("debugsyscalls")})
	require.Equal(t, "klib strace", text(t, root, "klib/strace"))
	require.Equal(t, "klib shmem", text(t, root, "klib/shmem"))
	require.Equal(t, "one\n", text(t, root, "etc/hostname"))
}

// The first boot of a program, traced, says what it missed.
func TestBootTraced(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: realRelease(t)})
	image := guestImage(t, k, `{"Name":"guest","Version":"1","Program":"/bin/guest"}`, nil)
	files, err := k.Specialise(context.Background(), image, fleet.Tenant{Trace: true, Args: []string{"want"}}, t.TempDir())
	require.NoError(t, err)
	m := start(t, "net=10.0.2.0/24", "10.0.2.15", overlayDisks(image, files)...)
	m.wait()
	require.Contains(t, Evidence(m.log.Bytes()), "Nanos has no system call shmget")
}
