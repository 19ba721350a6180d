package kvm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// layered is a volume with data, of which tests write through qemu-io what a guest would.
type layered struct {
	*stage
	v    *volume
	spec fleet.VolumeSpec
	ref  fleet.VolumeRef
}

func newLayered(t *testing.T) *layered {
	s := newStage(t)
	l := &layered{stage: s, spec: s.volumeSpec(32)}
	l.ref = volumeRef(l.spec)
	_, err := s.EnsureVolume(t.Context(), l.spec)
	require.NoError(t, err)
	l.v = s.volume(l.spec.ID)
	return l
}

func (l *layered) reopen() {
	l.t.Helper()
	l.stage.reopen()
	l.v = l.stage.volume(l.spec.ID)
}

// io runs a command of qemu-io on the volume and what lies over it.
func (l *layered) io(command string) error {
	l.t.Helper()
	image := fmt.Sprintf(`json:{"driver":"raw","file":{"driver":"file","filename":%q}}`, l.v.path())
	if _, err := os.Stat(l.v.overlayPath()); err == nil {
		image = fmt.Sprintf(`json:{"driver":"qcow2","file":{"driver":"file","filename":%q},"backing":{"driver":"raw","file":{"driver":"file","filename":%q}}}`, l.v.overlayPath(), l.v.path())
	}
	out, err := exec.Command("qemu-io", "-c", command, image).CombinedOutput()
	if err == nil && strings.Contains(string(out), "failed") {
		err = fmt.Errorf("%s", out)
	}
	return err
}

// write writes a pattern where the file system has nothing.
func (l *layered) write(pattern int) {
	l.t.Helper()
	require.NoError(l.t, l.io(fmt.Sprintf("write -P %d 30M 1M", pattern)))
}

func (l *layered) has(pattern int) {
	l.t.Helper()
	require.NoError(l.t, l.io(fmt.Sprintf("read -P %d 30M 1M", pattern)))
}

func requireKind(t *testing.T, kind fleet.ErrorKind, err error) {
	t.Helper()
	require.Equal(t, kind, fleet.KindOf(err), "%v", err)
}

func TestOverlayIsDroppedOrCommitted(t *testing.T) {
	t.Parallel()
	l := newLayered(t)
	l.write(1)
	require.NoError(t, l.BeginOverlay(t.Context(), l.ref))
	l.has(1)
	l.write(2)
	require.NoError(t, l.BeginOverlay(t.Context(), l.ref))
	l.has(2)
	generation := l.v.rec.Generation
	require.NoError(t, l.DropOverlay(t.Context(), l.ref))
	l.has(1)
	require.Greater(t, l.v.rec.Generation, generation, "no saved memory goes on from it")

	require.NoError(t, l.BeginOverlay(t.Context(), l.ref))
	l.has(1)
	l.write(3)
	l.reopen()
	l.has(3)
	require.NoError(t, l.CommitOverlay(t.Context(), l.ref))
	require.NoFileExists(t, l.v.overlayPath())
	l.has(3)
	require.Equal(t, 32, fsMiB(t, l.v.path()))
	require.NoError(t, l.DeleteVolume(t.Context(), l.ref))
	requireEmpty(t, l.stage)
}

// Whatever was done when a provider was killed, the next goes on from there.
func TestOverlayWorkIsCut(t *testing.T) {
	t.Parallel()
	l := newLayered(t)
	l.write(1)
	cut := func(state overlayState) {
		t.Helper()
		require.NoError(t, l.v.setOverlay(state))
		l.reopen()
	}
	// Begin and Drop, between file and journal.
	require.NoError(t, l.BeginOverlay(t.Context(), l.ref))
	l.write(2)
	cut(overlayNone)
	require.NoFileExists(t, l.v.overlayPath(), "the journal does not name it")
	l.has(1)
	require.NoError(t, l.DropOverlay(t.Context(), l.ref))

	// Commit, after it has begun.
	require.NoError(t, l.BeginOverlay(t.Context(), l.ref))
	l.write(3)
	cut(overlayCommitting)
	l.has(3)
	requireKind(t, fleet.KindConflict, l.DropOverlay(t.Context(), l.ref))
	requireKind(t, fleet.KindConflict, l.BeginOverlay(t.Context(), l.ref))
	require.NoError(t, l.CommitOverlay(t.Context(), l.ref))
	l.has(3)

	// After all but the removal.
	require.NoError(t, l.BeginOverlay(t.Context(), l.ref))
	l.write(4)
	require.NoError(t, l.v.setOverlay(overlayCommitting))
	require.NoError(t, l.v.lock(t.Context()))
	require.NoError(t, l.v.commitOffline(t.Context()))
	l.v.unlock()
	require.FileExists(t, l.v.overlayPath())
	cut(overlayCommitted)
	require.NoFileExists(t, l.v.overlayPath())
	require.Equal(t, overlayNone, l.v.rec.Overlay)
	l.has(4)
}

func TestOverlayRefusals(t *testing.T) {
	t.Parallel()
	l := newLayered(t)
	ctx := t.Context()
	old := l.ref
	old.Epoch--
	calls := map[string]func(fleet.VolumeRef) error{
		"Begin":  func(r fleet.VolumeRef) error { return l.BeginOverlay(ctx, r) },
		"Commit": func(r fleet.VolumeRef) error { return l.CommitOverlay(ctx, r) },
		"Drop":   func(r fleet.VolumeRef) error { return l.DropOverlay(ctx, r) },
	}
	for name, call := range calls {
		requireKind(t, fleet.KindFenced, call(old))
		requireKind(t, fleet.KindInvalid, call(fleet.VolumeRef{ID: "../x", Epoch: 5}))
		unknown := call(fleet.VolumeRef{ID: fleet.VolumeID(fleet.NewID()), Epoch: 5})
		if name == "Drop" {
			require.NoError(t, unknown)
		} else {
			requireKind(t, fleet.KindNotFound, unknown)
		}
	}
	foreign := l.volumeSpec(32)
	foreign.Kernel = fleet.KernelNanos
	_, err := l.EnsureVolume(ctx, foreign)
	require.NoError(t, err)
	requireKind(t, fleet.KindPermanent, l.BeginOverlay(ctx, volumeRef(foreign)))

	require.NoError(t, l.BeginOverlay(ctx, l.ref))
	larger := l.spec
	larger.SizeMiB = 64
	_, err = l.EnsureVolume(ctx, larger)
	requireKind(t, fleet.KindConflict, err)

	// A higher epoch is remembered by whatever call brings it.
	next := l.ref
	next.Epoch++
	require.NoError(t, l.BeginOverlay(ctx, next))
	l.reopen()
	requireKind(t, fleet.KindFenced, l.CommitOverlay(ctx, l.ref))

	// A machine that is about to be started goes first.
	release := l.v.want()
	requireKind(t, fleet.KindUnavailable, l.CommitOverlay(ctx, next))
	release()
	require.NoError(t, l.CommitOverlay(ctx, next))
}

// A machine gets the overlay as the same disk, and nobody takes it from there.
func TestMachineOnOverlay(t *testing.T) {
	t.Parallel()
	l := newLayered(t)
	require.NoError(t, l.BeginOverlay(t.Context(), l.ref))
	spec := l.stage.spec("serve")
	spec.Volume = &l.ref
	l.ensure(spec)
	l.await(spec, healthy)
	cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(l.pid(spec)), "cmdline"))
	require.NoError(t, err)
	args := strings.ReplaceAll(string(cmdline), "\x00", " ")
	require.Contains(t, args, "node-name=volume,filename=/dev/fdset/5,discard=unmap,cache.direct=off,cache.no-flush=off -add-fd fd=")
	require.Contains(t, args, ",set=8 -blockdev driver=file,node-name=layer0-file,filename=/dev/fdset/8,discard=unmap "+
		"-blockdev driver=qcow2,node-name=layer0,file=layer0-file,backing=volume,discard=unmap -device virtio-blk-pci,drive=layer0,serial=dm-volume,disable-legacy=on,addr=0x5 ")
	requireKind(t, fleet.KindConflict, l.DropOverlay(t.Context(), l.ref))
	require.NoError(t, l.BeginOverlay(t.Context(), l.ref))
	require.NoError(t, syscall.Kill(l.pid(spec), syscall.SIGKILL))
	l.await(spec, isOff)
	require.NoError(t, l.DropOverlay(t.Context(), l.ref))
}

// A full disk is said, and the overlay stays.
func TestOverlayOnAFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a small file system can be mounted by root only")
	}
	dir := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m,mode=755"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
	s := newStageIn(t, filepath.Join(dir, "kvm"))
	l := &layered{stage: s, spec: s.volumeSpec(32)}
	l.ref = volumeRef(l.spec)
	_, err := s.EnsureVolume(t.Context(), l.spec)
	require.NoError(t, err)
	l.v = s.volume(l.spec.ID)
	require.NoError(t, l.BeginOverlay(t.Context(), l.ref))
	l.write(5)
	full := filepath.Join(dir, "full")
	f, err := os.Create(full)
	require.NoError(t, err)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	require.NoError(t, f.Close())
	requireKind(t, fleet.KindCapacity, l.CommitOverlay(t.Context(), l.ref))
	require.FileExists(t, l.v.overlayPath())
	l.has(5)
	require.NoError(t, os.Remove(full))
	require.NoError(t, l.CommitOverlay(t.Context(), l.ref))
	l.has(5)
}
