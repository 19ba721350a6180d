package kvm_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/nanos"
	"dormouse/internal/imagebuilder/source"
	"dormouse/internal/provider/kvm"
	"dormouse/internal/provider/kvm/hostnet"
)

// sleeper is a real guest that is put to sleep.
type sleeper struct {
	*bench
	t       *testing.T
	spec    fleet.InstanceSpec
	changed chan struct{}
	phases  chan kvm.WakePhases
	// last is its last status, and counted what it has counted.
	last    fleet.InstanceStatus
	counted int
}

// goesOn checks that the guest is where it was: its memory and its volume.
func (s *sleeper) goesOn() {
	s.t.Helper()
	s.counted++
	require.Equal(s.t, strconv.Itoa(s.counted), s.get(s.t, s.last, "/count"))
	require.Equal(s.t, "kept", s.get(s.t, s.last, "/value"))
	s.get(s.t, s.last, "/set?text=kept") // which a frozen guest could not
}

// wake wakes it by a visit and returns how long the first answer took.
func (s *sleeper) wake() time.Duration {
	s.t.Helper()
	began := time.Now()
	var err error
	s.last, err = s.p.Wake(s.t.Context(), s.spec.ID)
	require.NoError(s.t, err)
	s.get(s.t, s.last, "/now")
	took := time.Since(began)
	p := <-s.phases
	require.Equal(s.t, s.last.Start, p.Start)
	s.t.Logf("first answer after %v (queue %v, restore %v, ready %v)", took, p.Queue, p.Restore, p.Ready)
	return took
}

func (s *sleeper) resumes() {
	s.t.Helper()
	s.wake()
	require.Empty(s.t, s.last.ColdReason)
	require.Equal(s.t, fleet.StartResumed, s.last.Start)
	require.True(s.t, s.last.Woken)
	s.goesOn()
}

// newSleeper starts a guest on a network of that mode, with the provider as change wants it.
func newSleeper(t *testing.T, mode string, change func(*sleeper)) *sleeper {
	t.Helper()
	files, err := imageOf()
	require.NoError(t, err)
	return newSleeperOf(t, t.TempDir(), mode, images{files}, change)
}

func newSleeperOf(t *testing.T, dir, mode string, of kvm.Images, change func(*sleeper)) *sleeper {
	t.Helper()
	s := &sleeper{t: t, changed: make(chan struct{}, 1000), phases: make(chan kvm.WakePhases, 1000)}
	s.bench = newBenchOf(t, dir, mode, of, func(fleet.InstanceID) { s.changed <- struct{}{} })
	s.options.OnWake = func(_ fleet.InstanceID, p kvm.WakePhases) { s.phases <- p }
	s.spec = s.bench.spec(t, "sleeper")
	change(s)
	s.reopen(t)
	volume := fleet.VolumeSpec{ID: fleet.VolumeID(fleet.NewID()), ClusterID: "cluster", Epoch: 1, SizeMiB: 32, Kernel: s.spec.Kernel}
	_, err := s.p.EnsureVolume(t.Context(), volume)
	require.NoError(t, err)
	s.spec.Volume = &fleet.VolumeRef{ID: volume.ID, Epoch: 1}
	_, err = s.p.Ensure(t.Context(), s.spec)
	require.NoError(t, err)
	s.last = s.healthy()
	s.get(t, s.last, "/set?text=kept")
	return s
}

func (s *sleeper) ref() fleet.InstanceRef { return fleet.InstanceRef{ID: s.spec.ID, Epoch: 1} }

func (s *sleeper) healthy() fleet.InstanceStatus {
	s.t.Helper()
	deadline := time.After(time.Minute)
	for {
		st, err := s.p.Observe(s.t.Context(), s.ref())
		require.NoError(s.t, err)
		if st.Health == fleet.HealthHealthy {
			return st
		}
		select {
		case <-s.changed:
		case <-deadline:
			require.FailNow(s.t, "timeout", "%+v", st)
		}
	}
}

func (s *sleeper) suspend() fleet.InstanceStatus {
	s.t.Helper()
	st, err := s.p.Suspend(s.t.Context(), s.ref(), fleet.SuspendOptions{})
	require.NoError(s.t, err)
	require.True(s.t, st.Asleep)
	require.Equal(s.t, fleet.PowerOff, st.Power)
	return st
}

func (s *sleeper) file(name string) string {
	return filepath.Join(s.options.DataDir, "instances", string(s.spec.ID), name)
}

func TestSleepReal(t *testing.T) {
	t.Parallel()
	mode, detail := hostnet.Detect(t.Context())
	t.Log(mode, detail)
	modes := []string{hostnet.ModeUser}
	if mode == hostnet.ModeBridge {
		modes = append(modes, mode)
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			s := newSleeper(t, mode, func(*sleeper) {})
			for n := range 4 {
				s.goesOn()
				began := time.Now()
				asleep := s.suspend()
				t.Logf("asleep after %v: %+v", time.Since(began), *asleep.Saved)
				require.Empty(t, asleep.ColdReason)
				require.Equal(t, fleet.TierWarm, asleep.Saved.Tier)
				if n == 1 {
					s.bench.reopen(t)
				}
				s.resumes()
			}
			now, err := strconv.ParseInt(s.get(t, s.last, "/now"), 10, 64)
			require.NoError(t, err)
			require.WithinDuration(t, time.Now(), time.UnixMilli(now), 2*time.Second)

			// Called off while it is saved: it runs on, and is not frozen.
			for n := range 5 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*40*time.Millisecond)
				_, err = s.p.Suspend(ctx, s.ref(), fleet.SuspendOptions{})
				cancel()
				if err == nil {
					s.resumes()
					continue
				}
				s.goesOn()
			}

			// What is damaged is not tried.
			s.suspend()
			require.NoError(t, os.Truncate(s.file("state"), 1000))
			s.wake()
			require.Contains(t, s.last.ColdReason, "damaged")
			require.Equal(t, fleet.StartBooted, s.last.Start)
			s.counted = 0
			s.goesOn()
		})
	}
}

func TestPackedReal(t *testing.T) {
	t.Parallel()
	mode, _ := hostnet.Detect(t.Context())
	s := newSleeper(t, mode, func(s *sleeper) { s.options.PackAfter = time.Millisecond })
	for range 3 {
		s.goesOn()
		require.Empty(t, s.suspend().ColdReason)
		var st fleet.InstanceStatus
		require.Eventually(t, func() bool {
			var err error
			st, err = s.p.Observe(t.Context(), s.ref())
			return err == nil && st.Saved.Tier == fleet.TierPacked
		}, time.Minute, time.Millisecond)
		t.Logf("packed into %d MiB", st.Saved.Bytes>>20)
		require.NoFileExists(t, s.file("ram"))
		s.resumes()
	}
}

// A disk that is full while a machine is saved harms nobody.
func TestSleepOnFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a small file system can be mounted by root only")
	}
	dir := t.TempDir()
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=190m,mode=755"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
	files, err := imageOf()
	require.NoError(t, err)
	mode, _ := hostnet.Detect(t.Context())
	s := newSleeperOf(t, dir, mode, images{files}, func(*sleeper) {})
	s.goesOn()
	// What the guest writes has its room: this is about the sleep.
	volume, err := os.OpenFile(filepath.Join(s.options.DataDir, "volumes", string(s.spec.Volume.ID)+".raw"), os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, errors.Join(unix.Fallocate(int(volume.Fd()), 0, 0, 32<<20), volume.Close()))
	full, err := os.Create(filepath.Join(dir, "full"))
	require.NoError(t, err)
	for err == nil {
		_, err = full.Write(make([]byte, 4096))
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	_, err = s.p.Suspend(t.Context(), s.ref(), fleet.SuspendOptions{})
	require.Equal(t, fleet.KindCapacity, fleet.KindOf(err), "%v", err)
	var e *fleet.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, fleet.ReasonNotSaved, e.Reason)
	require.NoFileExists(t, s.file("state"))
	require.NoError(t, errors.Join(full.Close(), os.Remove(full.Name())))
	s.goesOn()
	s.suspend()
	s.resumes()
}

// nanosImages has one image of a unikernel.
type nanosImages struct {
	*nanos.Kernel
	dir string
}

func (n nanosImages) Files(context.Context, fleet.ImageID) (fleet.ImageFiles, error) {
	files, err := n.Kernel.Files(n.dir)
	files.ID = "test"
	return files, err
}

func (n nanosImages) Specialise(ctx context.Context, _ fleet.ImageID, t fleet.Tenant, dir string) (fleet.TenantFiles, error) {
	return n.Kernel.Specialise(ctx, n.dir, t, dir)
}

func (n nanosImages) FormatVolume(ctx context.Context, _ fleet.ImageID, persist []string, volume *os.File) error {
	return n.Kernel.FormatVolume(ctx, n.dir, persist, volume)
}

// nanosPackage is the guest's program as a package.
func nanosPackage(t *testing.T, manifest fleet.Manifest) *source.Package {
	t.Helper()
	program := filepath.Join(t.TempDir(), "guest")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", program, "dormouse/internal/provider/kvm/testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	body, err := os.ReadFile(program)
	require.NoError(t, err)
	about := fmt.Appendf(nil, `{"Name":"app","Version":"1","Program":%q,"Persist":["/data"]}`, manifest.Program)
	var archive bytes.Buffer
	z := gzip.NewWriter(&archive)
	w := tar.NewWriter(z)
	for name, body := range map[string][]byte{source.ManifestName: about, "sysroot/bin/guest": body, "sysroot/data/value": []byte("image")} {
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(body))}))
		_, err := w.Write(body)
		require.NoError(t, err)
	}
	require.NoError(t, errors.Join(w.Close(), z.Close()))
	p, err := source.ReadArchive(t.Context(), &archive, source.Options{SpoolDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func TestSleepNanos(t *testing.T) {
	t.Parallel()
	release := os.Getenv("NANOS_DIR")
	if release == "" {
		t.Skip("NANOS_DIR names no release of Nanos: no unikernel was put to sleep")
	}
	kernel := nanos.New(nanos.Options{Dir: release})
	digest, err := kernel.Digest(t.Context())
	require.NoError(t, err)
	p := nanosPackage(t, fleet.Manifest{Program: "/bin/guest"})
	dir := t.TempDir()
	require.NoError(t, kernel.Build(t.Context(), imagebuilder.BuildInput{
		Package: fleet.Package{Name: p.Name, Manifest: p.Manifest}, KernelDigest: digest, Tree: p.Tree,
	}, dir))
	mode, _ := hostnet.Detect(t.Context())
	s := newSleeperOf(t, t.TempDir(), mode, nanosImages{kernel, dir}, func(s *sleeper) { s.spec.Kernel = fleet.KernelNanos })
	for range 3 {
		s.goesOn()
		asleep := s.suspend()
		require.Empty(t, asleep.ColdReason)
		s.resumes()
	}
	s.suspend()
	require.NoError(t, os.Truncate(s.file("state"), 1000))
	s.wake()
	require.Contains(t, s.last.ColdReason, "damaged")
	s.counted = 0
	require.Equal(t, "1", s.get(t, s.last, "/count"))
}

// A provisioner that goes away at any moment of a sleep or a wake leaves a guest
// that runs or one that sleeps, and nothing of its memory is lost.
func TestCutReal(t *testing.T) {
	t.Parallel()
	mode, _ := hostnet.Detect(t.Context())
	s := newSleeper(t, mode, func(*sleeper) {})
	cut := func(begin func(*kvm.Provider)) fleet.InstanceStatus {
		done, p := make(chan struct{}), s.p
		go func() {
			defer close(done)
			begin(p)
		}()
		<-time.After(rand.N(400 * time.Millisecond))
		s.bench.reopen(t)
		<-done
		st, err := s.p.Observe(t.Context(), s.ref())
		require.NoError(t, err)
		return st
	}
	asleep := 0
	for range 8 {
		st := cut(func(p *kvm.Provider) { _, _ = p.Suspend(t.Context(), s.ref(), fleet.SuspendOptions{}) })
		if st.Asleep {
			asleep++
			require.Equal(t, fleet.TierWarm, st.Saved.Tier)
			st = cut(func(p *kvm.Provider) { _, _ = p.Wake(t.Context(), s.spec.ID) })
		}
		require.Empty(t, st.ColdReason)
		var err error
		s.last, err = s.p.Wake(t.Context(), s.spec.ID)
		require.NoError(t, err)
		require.Empty(t, s.last.ColdReason)
		s.goesOn()
	}
	t.Log("cut asleep", asleep, "times of 8")
}
