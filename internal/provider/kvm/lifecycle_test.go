package kvm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

func TestLife(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.spec("serve")
	st := s.ensure(spec)
	require.Equal(t, fleet.PowerOn, st.Power)
	require.Equal(t, []fleet.Endpoint{{Port: 8080, Protocol: fleet.ProtocolTCP, Address: "127.0.0.1:8080"}}, st.Endpoints)
	st = s.await(spec, healthy)
	require.Equal(t, 1, st.Restarts)
	pid := s.pid(spec)
	require.Equal(t, pid, s.pid(spec))
	sid, err := unix.Getsid(pid)
	require.NoError(t, err)
	require.Equal(t, pid, sid, "Ctrl-C must not reach it")

	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	require.NoError(t, err)
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		require.NoError(t, err)
		require.NotContains(t, target, "pipe:", "a pipe of whoever started the provisioner would stay open")
	}

	// The same again changes nothing.
	s.ensure(spec)
	require.Equal(t, pid, s.pid(spec))

	st, err = s.Power(t.Context(), ref(spec), fleet.PowerOff)
	require.NoError(t, err)
	require.Equal(t, fleet.PowerPending, st.Power)
	_, err = s.Power(t.Context(), ref(spec), fleet.PowerOff)
	require.NoError(t, err)
	st = s.await(spec, isOff)
	require.Empty(t, st.Exit.Reason)
	require.Zero(t, st.Exit.Code)
	require.Error(t, unix.Kill(pid, 0), "it is reaped")
	ports, err := s.net.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, ports)

	_, err = s.Power(t.Context(), ref(spec), fleet.PowerOn)
	require.NoError(t, err)
	require.Nil(t, s.await(spec, healthy).Exit)
	require.NoError(t, s.Delete(t.Context(), ref(spec)))
	require.NoDirExists(t, filepath.Join(s.instanceDir, string(spec.ID)))
	_, err = s.Observe(t.Context(), ref(spec))
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	body, err := os.ReadFile(s.instanceJournal.path(string(spec.ID)))
	require.NoError(t, err)
	require.NotContains(t, string(body), "hunter2", "a tombstone keeps no secrets")
}

func TestPowerOnWhileStopping(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.spec("stubborn")
	s.ensure(spec)
	s.await(spec, healthy)
	pid := s.pid(spec)
	_, err := s.Power(t.Context(), ref(spec), fleet.PowerOff)
	require.NoError(t, err)
	st, err := s.Power(t.Context(), ref(spec), fleet.PowerOn)
	require.NoError(t, err)
	require.Equal(t, fleet.PowerPending, st.Power)
	s.await(spec, healthy)
	require.NotEqual(t, pid, s.pid(spec), "it was stopped, by force after the grace, and started again")
}

func TestExits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		behaviour, signal string
		reason            fleet.Reason
		code              int
		words             string
	}{
		{behaviour: "exit-3", reason: fleet.ReasonProgramExited, code: 3, words: "the last words"},
		{behaviour: "gone-unheard", reason: fleet.ReasonProgramExited, code: 4, words: "runs gone-unheard"},
		{behaviour: "crash-loop", reason: fleet.ReasonCrashLoop, code: 1, words: "runs crash-loop"},
		{behaviour: "panic", reason: fleet.ReasonGuestPanic, code: -1, words: "Kernel panic"},
		{behaviour: "refuse", reason: fleet.ReasonProvider, code: -1, words: "cannot set up guest memory"},
	} {
		t.Run(c.behaviour, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			spec := s.spec(c.behaviour)
			s.ensure(spec)
			st := s.await(spec, isOff)
			require.NotNil(t, st.Exit)
			require.Equal(t, c.reason, st.Exit.Reason)
			require.Equal(t, c.code, st.Exit.Code)
			require.NotZero(t, st.Exit.At)
			require.Contains(t, strings.Join(st.Exit.LastLines, "\n"), c.words)
			require.LessOrEqual(t, len(st.Exit.LastLines), maxLastLines)
			require.Equal(t, fleet.PowerOff, s.journalled(spec).Want, "it does not spin")
			s.reopen()
			st = s.observe(spec)
			require.Equal(t, fleet.PowerOff, st.Power)
			require.Equal(t, c.reason, st.Exit.Reason)
		})
	}
}

func TestStubbornGuestIsKilled(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.spec("stubborn")
	s.ensure(spec)
	s.await(spec, healthy)
	_, err := s.Power(t.Context(), ref(spec), fleet.PowerOff)
	require.NoError(t, err)
	st := s.await(spec, isOff)
	require.Equal(t, &fleet.Exit{Code: -1, Signal: "SIGKILL", At: st.Exit.At, LastLines: st.Exit.LastLines}, st.Exit)
}

func TestAdoption(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.spec("serve")
	s.ensure(spec)
	s.await(spec, healthy)
	pid := s.pid(spec)
	s.reopen()
	require.Equal(t, fleet.PowerOn, s.observe(spec).Power)
	s.await(spec, healthy)
	require.Equal(t, pid, s.pid(spec))

	// Cut between QEMU's start and the journal: found by its name.
	require.NoError(t, s.Close())
	rec := s.journalled(spec)
	rec.Process, rec.Starting = nil, true
	require.NoError(t, s.instanceJournal.save(string(spec.ID), rec))
	s.open()
	s.await(spec, healthy)
	require.Equal(t, pid, s.pid(spec))

	// The PID alone is nothing: another start time is another process.
	require.NoError(t, s.Close())
	rec = s.journalled(spec)
	rec.Process.PID, rec.Process.StartTicks = os.Getpid(), 1
	require.NoError(t, s.instanceJournal.save(string(spec.ID), rec))
	s.open()
	s.await(spec, healthy)
	require.Equal(t, pid, s.pid(spec))
}

func TestHostLost(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.spec("serve")
	s.ensure(spec)
	s.await(spec, healthy)
	require.NoError(t, unix.Kill(s.pid(spec), unix.SIGKILL))
	st := s.await(spec, isOff)
	require.Equal(t, fleet.ReasonHostLost, st.Exit.Reason)
	require.Equal(t, "SIGKILL", st.Exit.Signal)
	require.Equal(t, fleet.PowerOn, s.journalled(spec).Want)

	// As after the host's reboot.
	s.reopen()
	s.await(spec, healthy)

	// The machine ends while nobody looks.
	pid := s.pid(spec)
	require.NoError(t, s.Close())
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	awaitDeath(t, pid)
	s.o.Resume = false
	s.open()
	st = s.observe(spec)
	require.Equal(t, fleet.PowerOff, st.Power)
	require.Equal(t, fleet.ReasonHostLost, st.Exit.Reason)
	s.o.Resume = true
	s.reopen()
	s.await(spec, healthy)
}

func awaitDeath(t *testing.T, pid int) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := identify(pid)
		return err != nil
	}, 10*time.Second, 5*time.Millisecond)
}

func TestCutStopAndDeleteGoOn(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	stopped, deleted := s.spec("serve"), s.spec("serve")
	for _, spec := range []fleet.InstanceSpec{stopped, deleted} {
		s.ensure(spec)
		s.await(spec, healthy)
	}
	pid := s.pid(deleted)
	require.NoError(t, s.Close())
	rec := s.journalled(stopped)
	rec.Want = fleet.PowerOff
	require.NoError(t, s.instanceJournal.save(string(stopped.ID), rec))
	rec = s.journalled(deleted)
	rec.Deleting = true
	require.NoError(t, s.instanceJournal.save(string(deleted.ID), rec))

	// And leftovers that no journal names.
	stray := filepath.Join(s.instanceDir, fleet.NewID())
	require.NoError(t, os.Mkdir(stray, 0o700))
	temp := s.instanceJournal.path("x") + tempSuffix
	half := filepath.Join(s.volumeDir, fleet.NewID()+".raw"+tempSuffix)
	for _, file := range []string{temp, half} {
		require.NoError(t, os.WriteFile(file, []byte("half"), 0o600))
	}
	s.open()
	_, err := s.Observe(t.Context(), ref(deleted))
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	awaitDeath(t, pid)
	require.NoDirExists(t, filepath.Join(s.instanceDir, string(deleted.ID)))
	require.Empty(t, s.await(stopped, isOff).Exit.Reason)
	for _, left := range []string{stray, temp, half} {
		require.NoFileExists(t, left)
	}
}

func TestShutdownKeepsWhatIsWanted(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.spec("serve")
	s.ensure(spec)
	s.await(spec, healthy)
	pid := s.pid(spec)
	require.NoError(t, s.Shutdown(t.Context()))
	awaitDeath(t, pid)
	rec := s.journalled(spec)
	require.Equal(t, fleet.PowerOn, rec.Want)
	require.Empty(t, rec.Exit.Reason)
	s.open()
	s.await(spec, healthy)
}

func TestDeepDataDirectory(t *testing.T) {
	t.Parallel()
	s := newStageIn(t, filepath.Join(t.TempDir(), strings.Repeat("deep/", 40), "kvm"))
	spec := s.spec("serve")
	s.ensure(spec)
	s.await(spec, healthy)
	s.reopen()
	s.await(spec, healthy)
}

func TestSecondProviderIsKeptOut(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	_, err := New(t.Context(), s.o)
	require.ErrorContains(t, err, "another provisioner")
}
