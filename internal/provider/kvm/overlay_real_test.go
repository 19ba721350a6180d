package kvm_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm/hostnet"
)

// tenant is one installation on a volume, under real guests.
type tenant struct {
	*bench
	t       *testing.T
	changed chan struct{}
	spec    fleet.InstanceSpec
	volume  fleet.VolumeRef
}

func newTenant(t *testing.T) *tenant {
	n := &tenant{t: t, changed: make(chan struct{}, 1)}
	n.bench = newBench(t, hostnet.ModeUser, func(fleet.InstanceID) {
		select {
		case n.changed <- struct{}{}:
		default:
		}
	})
	n.volume = fleet.VolumeRef{ID: fleet.VolumeID(fleet.NewID()), ClusterID: "cluster", Epoch: 1}
	_, err := n.p.EnsureVolume(t.Context(), fleet.VolumeSpec{ID: n.volume.ID, ClusterID: "cluster", Epoch: 1, SizeMiB: 64})
	require.NoError(t, err)
	n.spec = n.bench.spec(t, "tenant")
	n.spec.Volume = &n.volume
	_, err = n.p.Ensure(t.Context(), n.spec)
	require.NoError(t, err)
	n.await(fleet.PowerOn)
	return n
}

func (n *tenant) ref() fleet.InstanceRef {
	return fleet.InstanceRef{ID: n.spec.ID, ClusterID: "cluster", Epoch: 1}
}

func (n *tenant) await(power fleet.Power) fleet.InstanceStatus {
	n.t.Helper()
	deadline := time.After(90 * time.Second)
	for {
		st, err := n.p.Observe(n.t.Context(), n.ref())
		require.NoError(n.t, err)
		if st.Power == power && (power == fleet.PowerOff || st.Health == fleet.HealthHealthy) {
			return st
		}
		select {
		case <-n.changed:
		case <-deadline:
			require.Fail(n.t, "timeout", "waiting for %s, last seen %+v", power, st)
		}
	}
}

func (n *tenant) power(power fleet.Power) {
	n.t.Helper()
	_, err := n.p.Power(n.t.Context(), n.ref(), power)
	require.NoError(n.t, err)
	n.await(power)
}

// restart switches off, does something, and switches on again.
func (n *tenant) restart(between func()) {
	n.t.Helper()
	n.power(fleet.PowerOff)
	between()
	n.power(fleet.PowerOn)
}

func (n *tenant) set(text string) { n.get(n.t, n.await(fleet.PowerOn), "/set?text="+text) }

func (n *tenant) value() string { return n.get(n.t, n.await(fleet.PowerOn), "/value") }

func (n *tenant) file(suffix string) string {
	return filepath.Join(n.options.DataDir, "volumes", string(n.volume.ID)+suffix)
}

// A release's data goes with its overlay, or stays, whether it runs meanwhile or not.
func TestOverlay(t *testing.T) {
	t.Parallel()
	n := newTenant(t)
	ctx := t.Context()
	n.set("old")
	kind := func(k fleet.ErrorKind, err error) {
		t.Helper()
		require.Equal(t, k, fleet.KindOf(err), "%v", err)
	}
	kind(fleet.KindConflict, n.p.BeginOverlay(ctx, n.volume))
	require.NoError(t, n.p.CommitOverlay(ctx, n.volume), "there is none")

	begin := func() { require.NoError(t, n.p.BeginOverlay(ctx, n.volume)) }
	n.restart(begin)
	begin() // again, while it runs
	require.Equal(t, "old", n.value())
	n.set("dropped")
	require.Equal(t, "dropped", n.value())
	kind(fleet.KindConflict, n.p.DropOverlay(ctx, n.volume))
	n.restart(func() {
		n.reopen(t)
		begin() // nor does this lose anything
		_, err := n.p.EnsureVolume(ctx, fleet.VolumeSpec{ID: n.volume.ID, ClusterID: "cluster", Epoch: 1, SizeMiB: 128})
		kind(fleet.KindConflict, err)
	})
	require.Equal(t, "dropped", n.value())
	for range 2 {
		n.power(fleet.PowerOff)
		require.NoError(t, n.p.DropOverlay(ctx, n.volume))
		require.NoFileExists(t, n.file(".overlay"))
	}
	n.power(fleet.PowerOn)
	require.Equal(t, "old", n.value())

	n.restart(begin)
	n.set("before")
	n.get(t, n.await(fleet.PowerOn), "/fill?mib=20")
	for range 2 {
		began := time.Now()
		require.NoError(t, n.p.CommitOverlay(ctx, n.volume))
		t.Log("committed beside a running machine in", time.Since(began))
		require.NoFileExists(t, n.file(".overlay"))
	}
	require.Equal(t, "before", n.value())
	open, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", n.pid()))
	require.NoError(t, err)
	require.NotEmpty(t, open)
	for _, fd := range open {
		to, _ := os.Readlink(fd)
		require.NotContains(t, to, ".overlay", "its room on the disk is free")
	}
	n.set("after")
	require.NoError(t, syscall.Kill(n.pid(), syscall.SIGKILL))
	n.await(fleet.PowerOff)
	n.power(fleet.PowerOn)
	require.Equal(t, "after", n.value(), "it has gone over to the volume")

	n.restart(begin)
	n.set("off")
	n.restart(func() {
		require.NoError(t, n.p.CommitOverlay(ctx, n.volume))
		kind(fleet.KindFenced, n.p.BeginOverlay(ctx, fleet.VolumeRef{ID: n.volume.ID, ClusterID: "cluster"}))
	})
	require.Equal(t, "off", n.value())

	n.restart(begin)
	n.power(fleet.PowerOff)
	require.NoError(t, n.p.DeleteVolume(ctx, n.volume))
	require.NoFileExists(t, n.file(".overlay"))
	require.NoFileExists(t, n.file(".raw"))
	kind(fleet.KindNotFound, n.p.BeginOverlay(ctx, n.volume))
	kind(fleet.KindNotFound, n.p.CommitOverlay(ctx, n.volume))
	require.NoError(t, n.p.DropOverlay(ctx, n.volume))
}

// A machine sleeps and goes on with its overlay, and without it afterwards; and
// never with data that its memory does not know.
func TestOverlayAndSleep(t *testing.T) {
	t.Parallel()
	n := newTenant(t)
	ctx := t.Context()
	begin := func() { require.NoError(t, n.p.BeginOverlay(ctx, n.volume)) }
	sleep := func() {
		t.Helper()
		st, err := n.p.Suspend(ctx, n.ref(), fleet.SuspendOptions{})
		require.NoError(t, err)
		require.Empty(t, st.ColdReason)
		require.Equal(t, fleet.TierWarm, st.Saved.Tier)
	}
	wake := func() fleet.InstanceStatus {
		t.Helper()
		st, err := n.p.Wake(ctx, n.spec.ID)
		require.NoError(t, err)
		return st
	}
	count := func() string { return n.get(t, n.await(fleet.PowerOn), "/count") }
	n.restart(begin)
	n.set("a")
	require.Equal(t, "1", count())
	sleep()
	require.Equal(t, fleet.StartResumed, wake().Start)
	require.Equal(t, "2", count())
	require.NoError(t, n.p.CommitOverlay(ctx, n.volume))
	sleep()
	require.Equal(t, fleet.StartResumed, wake().Start, "to the guest it is the same disk")
	require.Equal(t, "3", count())
	require.Equal(t, "a", n.value())

	n.restart(begin)
	n.set("b")
	sleep()
	require.NoError(t, n.p.DropOverlay(ctx, n.volume))
	begin()
	st := wake()
	require.Equal(t, fleet.StartBooted, st.Start)
	require.NotEmpty(t, st.ColdReason)
	require.Equal(t, "a", n.value())
}

// pid is that of the machine, as the journal tells.
func (n *tenant) pid() int {
	n.t.Helper()
	body, err := os.ReadFile(filepath.Join(n.options.DataDir, "journal", "instances", string(n.spec.ID)+".json"))
	require.NoError(n.t, err)
	var rec struct {
		Process struct {
			PID int `json:"pid"`
		} `json:"process"`
	}
	require.NoError(n.t, json.Unmarshal(body, &rec))
	require.NotZero(n.t, rec.Process.PID)
	return rec.Process.PID
}

// overlayRounds names how often TestCommitIsKilled boots, for a longer run by hand.
const overlayRounds = "DORMOUSE_TEST_OVERLAY_ROUNDS"

// killStep is how much longer each process lives that commits.
const killStep = 4 * time.Millisecond

// The provisioner is killed again and again while it commits, and then the
// machine: whatever the guest has synced meanwhile is there.
func TestCommitIsKilled(t *testing.T) {
	t.Parallel()
	rounds := 2
	if s := os.Getenv(overlayRounds); s != "" {
		var err error
		rounds, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	n := newTenant(t)
	self, err := os.Executable()
	require.NoError(t, err)
	committer := filepath.Join(t.TempDir(), "committer")
	require.NoError(t, os.Symlink(self, committer))
	kills, next := 0, 0
	for round := range rounds {
		// In every other round the machine is killed too, in the midst of it.
		dies := -1
		if round%2 == 1 {
			dies = rand.IntN(12)
		}
		n.restart(func() { require.NoError(t, n.p.BeginOverlay(t.Context(), n.volume)) })
		at := n.await(fleet.PowerOn)
		n.get(t, at, "/fill?mib=8")
		pid := n.pid()
		require.NoError(t, n.p.Close())

		// A guest that writes all the time.
		var written atomic.Int64
		written.Store(int64(next)) // a machine may die before the first of them
		writing, stop := context.WithCancel(t.Context())
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for i := next + 1; writing.Err() == nil; i++ {
				if _, err := n.fetch(writing, at, fmt.Sprintf("/set?text=%d", i)); err != nil {
					break
				}
				written.Store(int64(i))
			}
		}()
		for try := 0; ; try++ {
			cmd := exec.Command(committer, n.options.DataDir, n.dir, string(n.volume.ID))
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			line, err := bufio.NewReader(out).ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "opened\n", line)
			// Each gets a little further than the one before.
			wait := time.Duration(try)*killStep + rand.N(killStep)
			kill := time.AfterFunc(wait, func() {
				if try == dies {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
				_ = cmd.Process.Kill()
			})
			err = cmd.Wait()
			kill.Stop()
			if err == nil {
				break
			}
			require.False(t, cmd.ProcessState.Exited(), "it was to be killed, and ended by itself: %s", cmd.ProcessState)
			kills++
			if try == dies {
				break
			}
		}
		if syscall.Kill(pid, 0) == nil && dies < 0 {
			before := written.Load()
			require.Eventually(t, func() bool { return written.Load() > before }, 30*time.Second, time.Millisecond, "the guest goes on")
			require.NoFileExists(t, n.file(".overlay"))
		}
		_ = syscall.Kill(pid, syscall.SIGKILL)
		<-stopped
		stop()
		n.open(t) // which finds the machine gone, and starts it again
		// Nothing is lost, and nothing comes back: not now, nor by committing what is left.
		check := func() {
			got, err := strconv.Atoi(n.value())
			require.NoError(t, err)
			require.GreaterOrEqual(t, got, int(written.Load()), "a write that was acknowledged is gone")
			require.LessOrEqual(t, got, int(written.Load())+1)
			next = got
		}
		check()
		require.NoError(t, n.p.CommitOverlay(t.Context(), n.volume))
		check()
		n.restart(func() { require.NoFileExists(t, n.file(".overlay")) })
		check()
	}
	t.Logf("killed %d times in %d commits, %d writes", kills, rounds, next)
}
