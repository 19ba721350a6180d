package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// guest reads what the fake guest has in its memory.
func (s *stage) guest(spec fleet.InstanceSpec) (g fakeGuest) {
	s.t.Helper()
	body, err := os.ReadFile(s.file(spec, ramName))
	require.NoError(s.t, err)
	require.NoError(s.t, json.Unmarshal(body[:fakeMemoryBytes], &g))
	return g
}

func (s *stage) file(spec fleet.InstanceSpec, name string) string {
	return filepath.Join(s.instanceDir, string(spec.ID), name)
}

func (s *stage) started(behaviour string) fleet.InstanceSpec {
	s.t.Helper()
	spec := s.spec(behaviour)
	volume := s.volumeSpec(16)
	_, err := s.EnsureVolume(s.t.Context(), volume)
	require.NoError(s.t, err)
	spec.Volume = &fleet.VolumeRef{ID: volume.ID}
	s.ensure(spec)
	s.await(spec, healthy)
	return spec
}

func (s *stage) suspend(spec fleet.InstanceSpec) fleet.InstanceStatus {
	s.t.Helper()
	st, err := s.Suspend(s.t.Context(), ref(spec), fleet.SuspendOptions{})
	require.NoError(s.t, err)
	require.True(s.t, st.Asleep)
	require.Equal(s.t, fleet.PowerOff, st.Power)
	require.Nil(s.t, st.Exit)
	s.requireNoProcess(spec)
	return st
}

func (s *stage) requireNoProcess(spec fleet.InstanceSpec) {
	s.t.Helper()
	found, err := qemuProcesses()
	require.NoError(s.t, err)
	require.Empty(s.t, found[string(spec.ID)])
	require.Empty(s.t, found[string(spec.ID)+verifySuffix])
}

func (s *stage) wake(spec fleet.InstanceSpec) fleet.InstanceStatus {
	s.t.Helper()
	st, err := s.Wake(s.t.Context(), spec.ID)
	require.NoError(s.t, err)
	require.Equal(s.t, fleet.PowerOn, st.Power)
	require.False(s.t, st.Asleep)
	require.NoFileExists(s.t, s.file(spec, stateName))
	return st
}

// runsOn checks that the machine was not harmed by a sleep that came to nothing.
func (s *stage) runsOn(spec fleet.InstanceSpec, pid int) {
	s.t.Helper()
	require.Equal(s.t, pid, s.pid(spec))
	g := s.guest(spec)
	require.True(s.t, g.Running)
	require.False(s.t, g.Frozen)
	require.NoFileExists(s.t, s.file(spec, stateName))
	require.NoFileExists(s.t, s.file(spec, verifyQMPSocket))
	st := s.await(spec, healthy)
	require.False(s.t, st.Asleep)
	found, err := qemuProcesses()
	require.NoError(s.t, err)
	require.Len(s.t, found[string(spec.ID)], 1)
	require.Empty(s.t, found[string(spec.ID)+verifySuffix])
	require.Equal(s.t, fleet.PowerOn, s.journalled(spec).Want)
}

func TestSleepAndWake(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for _, behaviour := range []string{"serve", "wakeless"} {
		spec := s.started(behaviour)
		for n := 1; n <= 3; n++ {
			st := s.suspend(spec)
			require.Equal(t, fleet.TierWarm, st.Saved.Tier)
			require.Empty(t, st.ColdReason)
			require.Positive(t, st.Saved.Bytes)
			ports, err := s.net.List(t.Context())
			require.NoError(t, err)
			require.NotContains(t, ports, spec.ID)
			if n == 2 { // as after the host's reboot
				s.reopen()
				require.True(t, s.observe(spec).Asleep)
			}
			require.Equal(t, st.Saved, s.suspend(spec).Saved, "asleep twice is asleep")
			st = s.wake(spec)
			require.Equal(t, fleet.StartResumed, st.Start)
			require.Empty(t, st.ColdReason)
			require.Equal(t, 1, st.Restarts)
			require.Equal(t, fakeGuest{Sleeps: n, Clock: true, Running: true}, s.guest(spec))
			s.await(spec, healthy)
		}
		require.NoError(t, s.Delete(t.Context(), ref(spec)))
		require.NoError(t, s.DeleteVolume(t.Context(), fleet.VolumeRef{ID: spec.Volume.ID, Epoch: 9}))
	}
	requireEmpty(t, s)
}

// A visit is told of until somebody with an epoch has taken over.
func TestWokenByVisit(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.started("serve")
	_, err := s.Wake(t.Context(), spec.ID)
	require.NoError(t, err, "one that runs is awake")
	require.Empty(t, s.WokenByVisit())
	s.suspend(spec)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			st, err := s.Wake(t.Context(), spec.ID)
			if err != nil || st.Start != fleet.StartResumed || !st.Woken {
				t.Errorf("%+v %v", st, err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, 1, s.guest(spec).Sleeps, "many visits are one wake")
	require.Equal(t, []fleet.InstanceID{spec.ID}, s.WokenByVisit())
	s.reopen()
	require.Equal(t, []fleet.InstanceID{spec.ID}, s.WokenByVisit())
	here, ok := s.Here(spec.ID)
	require.True(t, ok)
	require.True(t, here.Woken)
	_, err = s.Power(t.Context(), ref(spec), fleet.PowerOn)
	require.NoError(t, err)
	require.Empty(t, s.WokenByVisit())
	s.reopen()
	require.Empty(t, s.WokenByVisit())

	// Asked for by epoch, it is no visit.
	s.suspend(spec)
	st, err := s.Power(t.Context(), ref(spec), fleet.PowerOn)
	require.NoError(t, err)
	require.Empty(t, st.ColdReason)
	require.Equal(t, fleet.StartResumed, st.Start)
	require.False(t, st.Woken)

	// What is off is not woken, and what is gone not found.
	_, err = s.Power(t.Context(), ref(spec), fleet.PowerOff)
	require.NoError(t, err)
	s.await(spec, isOff)
	_, err = s.Wake(t.Context(), spec.ID)
	require.Equal(t, fleet.KindConflict, fleet.KindOf(err))
	_, err = s.Suspend(t.Context(), ref(spec), fleet.SuspendOptions{})
	require.Equal(t, fleet.KindConflict, fleet.KindOf(err))
	require.NoError(t, s.Delete(t.Context(), ref(spec)))
	_, err = s.Wake(t.Context(), spec.ID)
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	_, ok = s.Here(spec.ID)
	require.False(t, ok)
}

func TestSleepIsFencedAndEnded(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.started("serve")
	old := spec
	old.Epoch--
	_, err := s.Suspend(t.Context(), ref(old), fleet.SuspendOptions{})
	requireFenced(t, err)
	_, err = s.Suspend(t.Context(), ref(spec), fleet.SuspendOptions{Mode: "half"})
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	_, err = s.Suspend(t.Context(), ref(s.spec("serve")), fleet.SuspendOptions{})
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	s.suspend(spec)
	_, err = s.Suspend(t.Context(), ref(old), fleet.SuspendOptions{})
	requireFenced(t, err)

	// Switched off, it is no sleeper, and its memory is gone.
	_, err = s.Power(t.Context(), ref(spec), fleet.PowerOff)
	require.NoError(t, err)
	st := s.observe(spec)
	require.False(t, st.Asleep)
	require.Nil(t, st.Saved)
	require.NoFileExists(t, s.file(spec, stateName))
	require.NoFileExists(t, s.file(spec, ramName))
	s.ensure(spec)
	require.Equal(t, fleet.StartBooted, s.await(spec, healthy).Start)
	s.suspend(spec)
	require.NoError(t, s.Delete(t.Context(), ref(spec)))
	require.NoError(t, s.DeleteVolume(t.Context(), fleet.VolumeRef{ID: spec.Volume.ID, Epoch: 9}))
	requireEmpty(t, s)
}

// Guests that can't be saved are stopped cleanly, and it is said why.
func TestColdSleep(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for behaviour, why := range map[string]string{"serve": "", "old": "init in its image is too old", "boot": "the "} {
		spec := s.spec(behaviour)
		s.ensure(spec)
		o := fleet.SuspendOptions{}
		if why == "" {
			o.Mode = fleet.SuspendCold
		}
		if behaviour != "boot" {
			s.await(spec, healthy)
		}
		st, err := s.Suspend(t.Context(), ref(spec), o)
		require.NoError(t, err)
		require.True(t, st.Asleep)
		require.Equal(t, fleet.TierCold, st.Saved.Tier)
		require.Contains(t, st.ColdReason, why)
		require.Equal(t, why == "", st.ColdReason == "")
		require.Nil(t, st.Exit)
		require.NoFileExists(t, s.file(spec, ramName))
		s.reopen()
		require.True(t, s.observe(spec).Asleep)
		if behaviour != "boot" {
			require.Equal(t, fleet.StartBooted, s.wake(spec).Start)
			s.await(spec, healthy)
		}
	}
}

// Whatever goes wrong before the commit, the guest runs on.
func TestFailedSaveRunsOn(t *testing.T) {
	t.Parallel()
	for _, behaviour := range []string{"saves-not", "verifies-not", "unfreezable"} {
		t.Run(behaviour, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			spec := s.started(behaviour)
			pid := s.pid(spec)
			for range 2 {
				_, err := s.Suspend(t.Context(), ref(spec), fleet.SuspendOptions{})
				require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), "%v", err)
				var e *fleet.Error
				require.ErrorAs(t, err, &e)
				require.Equal(t, fleet.ReasonNotSaved, e.Reason)
				s.runsOn(spec, pid)
			}
		})
	}
}

// An arrival calls it off at any moment: nobody notices that it was begun.
func TestVisitedWhileSaving(t *testing.T) {
	t.Parallel()
	for _, behaviour := range []string{"mute", "verifies-forever"} {
		t.Run(behaviour, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			spec := s.started(behaviour)
			pid := s.pid(spec)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				_, err := s.Suspend(ctx, ref(spec), fleet.SuspendOptions{})
				ended <- err
			}()
			require.Eventually(t, func() bool {
				_, err := os.Stat(s.file(spec, verifyQMPSocket))
				return err == nil || behaviour == "mute" && s.guest(spec).Frozen
			}, 10*time.Second, time.Millisecond)
			here, ok := s.Here(spec.ID)
			require.True(t, ok, "it is answered while it is being saved")
			require.Equal(t, fleet.PowerOn, here.Power)
			cancel()
			err := <-ended
			require.Equal(t, fleet.KindConflict, fleet.KindOf(err), "%v", err)
			var e *fleet.Error
			require.True(t, errors.As(err, &e))
			require.Equal(t, fleet.ReasonVisited, e.Reason)
			s.runsOn(spec, pid)
		})
	}
}

// A QEMU that dies while it saves is a machine that ended; nothing of the sleep is left.
func TestMachineDiesWhileSaving(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.started("saves-and-dies")
	_, err := s.Suspend(t.Context(), ref(spec), fleet.SuspendOptions{})
	require.Error(t, err)
	st := s.await(spec, isOff)
	require.False(t, st.Asleep)
	require.NotNil(t, st.Exit)
	require.NoFileExists(t, s.file(spec, stateName))
	require.NoFileExists(t, s.file(spec, ramName))
}

// What has become unfit is not tried, and what fails is booted; it is said why.
func TestColdFallback(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	journal := func(change func(*instanceRecord)) func(fleet.InstanceSpec) {
		return func(spec fleet.InstanceSpec) {
			require.NoError(t, s.Close())
			rec := s.journalled(spec)
			change(&rec)
			require.NoError(t, s.instanceJournal.save(string(spec.ID), rec))
			s.open()
		}
	}
	change := func(name string, at int64) func(fleet.InstanceSpec) {
		return func(spec fleet.InstanceSpec) {
			f, err := os.OpenFile(s.file(spec, name), os.O_RDWR, 0)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte("x"), at)
			require.NoError(t, errors.Join(err, f.Close()))
		}
	}
	truncate := func(name string) func(fleet.InstanceSpec) {
		return func(spec fleet.InstanceSpec) { require.NoError(t, os.Truncate(s.file(spec, name), 3)) }
	}
	for name, c := range map[string]struct {
		behaviour string
		harm      func(fleet.InstanceSpec)
		why       string
	}{
		"QEMU":        {"serve", journal(func(r *instanceRecord) { r.Saved.QEMU = "6.0" }), "saved by QEMU 6.0"},
		"CPU":         {"serve", journal(func(r *instanceRecord) { r.Saved.CPU = "z80" }), "another processor (z80)"},
		"Image":       {"serve", journal(func(r *instanceRecord) { r.Saved.Image = "x" }), "from the image x"},
		"Network":     {"serve", journal(func(r *instanceRecord) { r.Saved.Network = "10.0.0.0/8" }), "with the network 10.0.0.0/8"},
		"Arguments":   {"serve", journal(func(r *instanceRecord) { r.Spec.MemoryMiB = 32; r.Spec.VCPUs = 2 }), "other arguments"},
		"Volume":      {"serve", journal(func(r *instanceRecord) { r.Saved.Volume = nil }), "another volume"},
		"Generation":  {"serve", journal(func(r *instanceRecord) { r.Saved.Volume.Generation-- }), "volume has been written to"},
		"Written":     {"serve", func(spec fleet.InstanceSpec) { touch(t, s.volume(spec.Volume.ID).path()) }, "volume has been written to"},
		"State":       {"serve", change(stateName, 7), "state is damaged"},
		"StateShort":  {"serve", truncate(stateName), "state is damaged"},
		"RAM":         {"serve", change(ramName, 1000), "memory is not as it was saved"},
		"RAMShort":    {"serve", truncate(ramName), "memory is not as it was saved"},
		"RAMGone":     {"serve", func(spec fleet.InstanceSpec) { require.NoError(t, os.Remove(s.file(spec, ramName))) }, "memory is gone"},
		"LoadsNot":    {"loads-not", func(fleet.InstanceSpec) {}, "error while loading state"},
		"Dazed":       {"dazed", func(fleet.InstanceSpec) {}, "it has not answered"},
		"DiesLoading": {"dies-loading", func(fleet.InstanceSpec) {}, "QEMU could not go on from it"},
	} {
		spec := s.started(c.behaviour)
		s.suspend(spec)
		c.harm(spec)
		if c.behaviour == "dazed" {
			s.answerPatience = 100 * time.Millisecond
		}
		st := s.wake(spec)
		s.answerPatience = defaultAnswerPatience
		require.Contains(t, st.ColdReason, c.why, name)
		require.Equal(t, fleet.StartBooted, st.Start, name)
		require.Equal(t, fakeGuest{Running: true}, s.guest(spec), name)
		s.await(spec, healthy)
		require.Empty(t, s.suspend(spec).ColdReason, "%s: it can be saved again", name)
		require.NoError(t, s.Delete(t.Context(), ref(spec)))
	}
}

func touch(t *testing.T, path string) {
	t.Helper()
	now := time.Now()
	require.NoError(t, os.Chtimes(path, now, now))
}

// Another instance that has run on the volume leaves the memory of no use.
func TestVolumeRunElsewhere(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.started("serve")
	s.suspend(spec)
	info, err := os.Stat(s.volume(spec.Volume.ID).path())
	require.NoError(t, err)
	s.reopen()
	other := s.spec("serve")
	other.Volume = spec.Volume
	s.ensure(other)
	s.await(other, healthy)
	// Not even the time of its file tells.
	require.NoError(t, os.Chtimes(s.volume(spec.Volume.ID).path(), info.ModTime(), info.ModTime()))
	_, err = s.Wake(t.Context(), spec.ID)
	require.Equal(t, fleet.KindConflict, fleet.KindOf(err), "its volume is in use: %v", err)
	require.True(t, s.observe(spec).Asleep)
	require.NoError(t, s.Delete(t.Context(), ref(other)))
	require.Contains(t, s.wake(spec).ColdReason, "volume has been written to")
}

// What a killed provisioner leaves is one of the two: asleep, or running.
func TestCutSleepIsDecided(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.started("serve")
	pid := s.pid(spec)

	// Frozen and stopped, with half a state: it runs on.
	i := s.known(spec.ID)
	require.NoError(t, i.lock(t.Context()))
	v := i.vm
	require.NoError(t, v.freeze(t.Context()))
	c, err := v.control(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Execute(t.Context(), "stop", nil, nil))
	require.NoError(t, os.WriteFile(i.statePath(), []byte("half"), 0o600))
	i.unlock()
	require.True(t, s.guest(spec).Frozen)
	s.reopen()
	<-s.known(spec.ID).vm.settled
	s.runsOn(spec, pid)

	// Committed, and the source not ended yet: it sleeps.
	i = s.known(spec.ID)
	require.NoError(t, i.lock(t.Context()))
	require.NoError(t, i.saveMemory(t.Context(), i.vm))
	require.NoError(t, i.save())
	i.unlock()
	s.reopen()
	require.True(t, s.observe(spec).Asleep)
	s.requireNoProcess(spec)
	require.Equal(t, 1, sleepsOf(s, spec))

	// Woken, and not journalled yet: it runs, and is told of.
	asleep := s.journalled(spec)
	asleep.Asleep = true
	s.suspend(spec)
	asleep = s.journalled(spec)
	s.wake(spec)
	pid = s.pid(spec)
	require.NoError(t, s.Close())
	require.NoError(t, s.instanceJournal.save(string(spec.ID), asleep))
	s.open()
	<-s.known(spec.ID).vm.settled
	s.runsOn(spec, pid)
	require.Equal(t, []fleet.InstanceID{spec.ID}, s.WokenByVisit())
	require.Equal(t, fleet.StartResumed, s.observe(spec).Start)

	// Woken, not journalled, and lost with the host: it sleeps cold.
	require.NoError(t, s.Close())
	require.NoError(t, s.instanceJournal.save(string(spec.ID), asleep))
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	awaitDeath(t, pid)
	s.open()
	st := s.observe(spec)
	require.True(t, st.Asleep)
	require.Equal(t, fleet.TierCold, st.Saved.Tier)
	require.NotEmpty(t, st.ColdReason)
	require.Equal(t, fleet.StartBooted, s.wake(spec).Start)
	s.await(spec, healthy)
}

func sleepsOf(s *stage, spec fleet.InstanceSpec) int {
	s.wake(spec)
	return s.guest(spec).Sleeps
}
