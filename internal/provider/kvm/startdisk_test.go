package kvm

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
)

// diskSpec is an instance of a kernel that boots from its disk, whose guest does so.
func (s *stage) diskSpec(does string) fleet.InstanceSpec {
	spec := s.spec("disk")
	spec.Kernel, spec.Manifest.Args, spec.Manifest.Restart = fleet.KernelNanos, []string{does}, fleet.RestartNever
	return spec
}

// A guest without a channel is ready when its probe says so, gets a fresh disk at
// every start, and ends by the power button.
func TestDiskGuestLives(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.diskSpec("serve")
	s.ensure(spec)
	s.await(spec, healthy)
	_, err := s.Power(t.Context(), ref(spec), fleet.PowerOff)
	require.NoError(t, err)
	require.Empty(t, s.await(spec, isOff).Exit.Reason, "it was asked to end")
	overlay := filepath.Join(s.instanceDir, string(spec.ID), tenantDir, "overlay")
	body, err := os.ReadFile(overlay)
	require.NoError(t, err)
	require.Contains(t, string(body), "used", "the guest writes to it")
	_, err = s.Power(t.Context(), ref(spec), fleet.PowerOn)
	require.NoError(t, err)
	s.await(spec, healthy)
	_, err = s.Power(t.Context(), ref(spec), fleet.PowerOff)
	require.NoError(t, err)
	s.await(spec, isOff)
	lines, err := s.instance(spec.ID).console().lastBoot()
	require.NoError(t, err)
	require.Contains(t, strings.Join(lines, "\n"), "fake disk: name at", "what the first boot wrote is gone")
	require.NoError(t, s.Delete(t.Context(), ref(spec)))
	require.NoFileExists(t, overlay)
}

func TestDiskGuestExits(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for does, code := range map[string]int{"exit-0": 0, "exit-3": 3, "exit-127": 127} {
		spec := s.diskSpec(does)
		s.ensure(spec)
		st := s.await(spec, isOff)
		require.Equal(t, fleet.ReasonProgramExited, st.Exit.Reason, does)
		require.Equal(t, code, st.Exit.Code, does)
	}
}

// What init does in linux guests the host does for those that have none.
func TestDiskGuestIsRestarted(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.diskSpec("exit-3")
	spec.Manifest.Restart = fleet.RestartOnFailure
	s.ensure(spec)
	st := s.await(spec, isOff)
	require.Equal(t, fleet.ReasonCrashLoop, st.Exit.Reason)
	require.Equal(t, 3, st.Exit.Code)
	require.Equal(t, guest.LoopEnds, s.journalled(spec).Boots)
	require.Equal(t, fleet.PowerOff, s.journalled(spec).Want)

	well := s.diskSpec("exit-0")
	well.Manifest.Restart = fleet.RestartOnFailure
	s.ensure(well)
	require.Equal(t, fleet.ReasonProgramExited, s.await(well, isOff).Exit.Reason)
	require.Equal(t, 1, s.journalled(well).Boots)
}

// One that is switched off between two starts stays off.
func TestDiskGuestIsSwitchedOffBetweenStarts(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.diskSpec("exit-3")
	spec.Manifest.Restart = fleet.RestartAlways
	s.ensure(spec)
	st := s.await(spec, func(st fleet.InstanceStatus) bool { return st.Power == fleet.PowerPending })
	require.Nil(t, st.Exit, "it has not ended for good")
	require.NotZero(t, st.Restarts)
	_, err := s.Power(t.Context(), ref(spec), fleet.PowerOff)
	require.NoError(t, err)
	s.await(spec, isOff)
	boots := s.journalled(spec).Boots
	s.reopen()
	s.await(spec, isOff)
	require.Equal(t, boots, s.journalled(spec).Boots)
	require.NoError(t, s.Delete(t.Context(), ref(spec)))
}

// A volume belongs to the file system of one kernel.
func TestDiskGuestVolume(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	volume := s.volumeSpec(32)
	volume.Kernel = fleet.KernelNanos
	_, err := s.EnsureVolume(t.Context(), volume)
	require.NoError(t, err)
	spec := s.diskSpec("serve")
	spec.Volume, spec.Manifest.Persist = &fleet.VolumeRef{ID: volume.ID}, []string{"/data"}
	s.ensure(spec)
	for _, power := range []fleet.Power{fleet.PowerOff, fleet.PowerOn} {
		_, err = s.Power(t.Context(), ref(spec), power)
		require.NoError(t, err)
		st := s.await(spec, func(st fleet.InstanceStatus) bool { return st.Power == power })
		if power == fleet.PowerOff {
			require.Contains(t, strings.Join(st.Exit.LastLines, "\n"), "persists [/data]")
		}
	}
	body, err := os.ReadFile(s.volume(volume.ID).path())
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(body), "formatted"))
	require.Contains(t, string(body[:64]), "again", "at every start, before the guest has it")

	volume.Kernel = ""
	_, err = s.EnsureVolume(t.Context(), volume)
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	require.ErrorContains(t, err, "has the file system of the kernel nanos")
	require.NoError(t, s.Delete(t.Context(), ref(spec)))
	linux := s.spec("serve")
	linux.Volume = spec.Volume
	_, err = s.Ensure(t.Context(), linux)
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	require.NoDirExists(t, filepath.Join(s.instanceDir, string(linux.ID)))

	volume.Kernel, volume.SizeMiB = fleet.KernelNanos, 64
	st, err := s.EnsureVolume(t.Context(), volume)
	require.NoError(t, err)
	require.Equal(t, 64, st.SizeMiB)
}

// What a disk that was imported as it is is written lies on its volume, which is
// the overlay itself; its words on the console are not init's.
func TestForeignGuest(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	volume := s.volumeSpec(32)
	volume.Kernel = fleet.KernelDisk
	_, err := s.EnsureVolume(t.Context(), volume)
	require.NoError(t, err)
	spec := s.spec("bios")
	spec.Kernel, spec.Manifest.Program, spec.Manifest.Persist = fleet.KernelDisk, "", []string{"/"}
	_, err = s.Ensure(t.Context(), spec)
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	require.ErrorContains(t, err, "has no volume")
	require.NoError(t, s.Delete(t.Context(), ref(spec)))

	spec.ID, spec.Volume = fleet.InstanceID(fleet.NewID()), &fleet.VolumeRef{ID: volume.ID}
	s.ensure(spec)
	s.await(spec, healthy)
	pid := s.pid(spec)
	cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	require.NoError(t, err)
	args := strings.ReplaceAll(string(cmdline), "\x00", " ")
	require.Contains(t, args, "driver=raw,node-name=overlay,file=overlay-file,size=33554432,discard=unmap -blockdev driver=qcow2,node-name=root,file=overlay,backing=base,discard=unmap")
	require.Contains(t, args, "addr=0x3,bootindex=0,werror=report,rerror=report")
	for _, not := range []string{"-no-reboot", "virtserialport", "isa-debug-exit", "dm-volume", "-bios"} {
		require.NotContains(t, args, not)
	}
	for _, power := range []fleet.Power{fleet.PowerOff, fleet.PowerOn} {
		_, err = s.Power(t.Context(), ref(spec), power)
		require.NoError(t, err)
		s.await(spec, func(st fleet.InstanceStatus) bool { return st.Power == power })
	}
	s.await(spec, healthy)
	body, err := os.ReadFile(s.volume(volume.ID).path())
	require.NoError(t, err)
	require.Len(t, body, 32<<20)
	require.Equal(t, "formatted", string(body[:9]))
	require.Equal(t, "again", string(body[16:21]))
	require.Equal(t, "used", string(body[128:132]))
	_, err = s.Power(t.Context(), ref(spec), fleet.PowerOff)
	require.NoError(t, err)
	s.await(spec, isOff)
	lines, err := s.instance(spec.ID).console().lastBoot()
	require.NoError(t, err)
	require.Contains(t, strings.Join(lines, "\n"), "used", "the second boot sees what the first has written")
	require.NoError(t, s.Delete(t.Context(), ref(spec)))
	require.FileExists(t, s.volume(volume.ID).path())
}

func TestForeignGuestNeedsFirmware(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	volume := s.volumeSpec(32)
	volume.Kernel = fleet.KernelDisk
	_, err := s.EnsureVolume(t.Context(), volume)
	require.NoError(t, err)
	spec := s.spec("uefi")
	spec.Kernel, spec.Volume = fleet.KernelDisk, &fleet.VolumeRef{ID: volume.ID}
	firmware := filepath.Join(t.TempDir(), "OVMF.fd")
	s.Provider.o.Firmware = []string{"/does/not/exist", firmware}
	_, err = s.Ensure(t.Context(), spec)
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
	require.ErrorContains(t, err, "apt-get install ovmf")
	require.NoError(t, os.WriteFile(firmware, []byte("code"), 0o644))
	s.ensure(spec)
	s.await(spec, healthy)
	_, err = s.Power(t.Context(), ref(spec), fleet.PowerOff)
	require.NoError(t, err)
	s.await(spec, isOff)
	lines, err := s.instance(spec.ID).console().lastBoot()
	require.NoError(t, err)
	require.Regexp(t, `firmware [0-9]+`, strings.Join(lines, "\n"))
}

// Whatever such a guest writes to its console, it is not init that says it.
func TestForeignGuestsWordsAreItsOwn(t *testing.T) {
	t.Parallel()
	status := unix.WaitStatus(0)
	words := ending{shutdown: "guest-shutdown", status: &status, console: []string{guest.GoneLine + `{"event":"gone","reason":"stopped","code":7}`}}
	require.Empty(t, words.exit().Reason)
	words.foreign = true
	require.Equal(t, fleet.ReasonProgramExited, words.exit().Reason)
	require.Equal(t, -1, words.exit().Code)
}

func TestDiskArguments(t *testing.T) {
	t.Parallel()
	m := machine{ID: "x", Type: pinnedMachine, Accel: AccelTCG, MemoryMiB: 64, Root: 4, Overlay: 5, Config: 6, Volume: 7, Netdev: "user,id=net0", DebugExit: true}
	args := strings.Join(m.arguments(), " ")
	require.Contains(t, args, "-add-fd fd=4,set=3 -add-fd fd=5,set=6 -blockdev driver=file,node-name=base-file,filename=/dev/fdset/3,read-only=on "+
		"-blockdev driver=raw,node-name=base,file=base-file,read-only=on -blockdev driver=file,node-name=overlay-file,filename=/dev/fdset/6 "+
		"-blockdev driver=qcow2,node-name=root,file=overlay-file,backing=base -device virtio-blk-pci,drive=root,serial=dm-root,disable-legacy=on,addr=0x3,bootindex=0")
	require.Contains(t, args, "-device isa-debug-exit,iobase=0x501,iosize=0x4")
	require.NotContains(t, args, "-kernel")
	require.NotContains(t, args, "-append")
}

// A trace leaves nothing, whether its guest ends or not, and whoever is killed meanwhile.
func TestTrace(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	report, err := s.Trace(t.Context(), s.diskSpec("exit-3"), time.Minute)
	require.NoError(t, err)
	require.Equal(t, 3, report.Exit.Code)
	require.Contains(t, strings.Join(report.Lines, "\n"), "do exit-3")
	report, err = s.Trace(t.Context(), s.diskSpec("serve"), 50*time.Millisecond)
	require.NoError(t, err)
	require.Nil(t, report.Exit)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Trace(ctx, s.diskSpec("serve"), time.Minute)
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
	nothing := func() {
		t.Helper()
		for _, dir := range []string{s.instanceDir, s.instanceJournal.dir} {
			entries, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, entries, dir)
		}
		s.Provider.mu.Lock()
		defer s.Provider.mu.Unlock()
		require.Empty(t, s.instances)
	}
	nothing()

	cut := s.diskSpec("serve")
	cut.Trace, cut.ClusterID = true, traceCluster
	s.ensure(cut)
	pid := s.pid(cut)
	s.reopen()
	require.Error(t, unix.Kill(pid, 0), "its machine is ended")
	require.NoDirExists(t, filepath.Join(s.instanceDir, string(cut.ID)))
	require.False(t, s.UsesImage("disk"))
}
