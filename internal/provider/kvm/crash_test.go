package kvm

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// playProvisioner ensures one instance and waits to be killed.
func playProvisioner(dir string) {
	o := fakeOptions(dir, filepath.Join(filepath.Dir(os.Args[0]), "fake-qemu"))
	ready := make(chan struct{}, 100)
	o.OnChange = func(fleet.InstanceID) { ready <- struct{}{} }
	p, err := New(context.Background(), o)
	var spec fleet.InstanceSpec
	if err == nil {
		if err = json.NewDecoder(os.Stdin).Decode(&spec); err == nil {
			_, err = p.Ensure(context.Background(), spec)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-ready
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	untilKilled()
}

func TestProvisionerIsKilled(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	require.NoError(t, s.Close())
	spec := s.spec("serve")
	cmd := exec.Command(filepath.Join(filepath.Dir(s.o.QEMU), "fake-provisioner"), s.o.DataDir)
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, cmd.Path))
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	require.NoError(t, json.NewEncoder(in).Encode(spec))
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "ready\n", line)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())

	s.open()
	s.await(spec, healthy)
	pid := s.pid(spec)
	require.NoError(t, unix.Kill(pid, 0))
	_, err = s.Power(t.Context(), ref(spec), fleet.PowerOff)
	require.NoError(t, err)
	st := s.await(spec, isOff)
	require.Empty(t, st.Exit.Reason, "the end of what is no child is seen too")
}

// playWorker does one thing after another to some instances and a volume, and
// says a line before and after each, until it is killed. Its arguments are the
// epoch, the volume and the instances, the first of which has the volume.
func playWorker(dir string, args []string) {
	epoch, err := strconv.ParseInt(args[0], 10, 64)
	var p *Provider
	if err == nil {
		o := fakeOptions(dir, filepath.Join(filepath.Dir(os.Args[0]), "fake-qemu"))
		o.PackAfter = time.Duration(epoch % 2) // every other one packs at once
		p, err = New(context.Background(), o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, volume, ids := context.Background(), fleet.VolumeID(args[1]), args[2:]
	for n := rand.IntN(100); ; n++ {
		at := fleet.InstanceRef{ID: fleet.InstanceID(ids[n%len(ids)]), ClusterID: "cluster", Epoch: fleet.Epoch(epoch)}
		spec := fleet.InstanceSpec{ID: at.ID, ClusterID: "cluster", Epoch: at.Epoch, Image: "serve", MemoryMiB: 64}
		if string(at.ID) == ids[0] {
			spec.Volume = &fleet.VolumeRef{ID: volume, Epoch: at.Epoch}
		}
		fmt.Println("begins")
		switch rand.IntN(15) {
		case 0, 1:
			_, err = p.Ensure(ctx, spec)
		case 2:
			_, err = p.Power(ctx, at, fleet.PowerOff)
		case 3:
			_, err = p.Power(ctx, at, fleet.PowerOn)
		case 4:
			err = p.Delete(ctx, at)
		case 5:
			_, err = p.EnsureVolume(ctx, fleet.VolumeSpec{ID: volume, ClusterID: "cluster", Epoch: at.Epoch, SizeMiB: 16 + rand.IntN(64)})
		case 6, 7, 8:
			_, _ = p.Wake(ctx, at.ID) // one that is not ready is not saved
			_, err = p.Suspend(ctx, at, fleet.SuspendOptions{})
		case 9, 10:
			_, err = p.Wake(ctx, at.ID)
		case 11, 12:
			spec.Volume = &fleet.VolumeRef{ID: volume, Epoch: at.Epoch}
			_, err = p.Clone(ctx, spec)
		case 13:
			err = p.BeginOverlay(ctx, fleet.VolumeRef{ID: volume, Epoch: at.Epoch})
		case 14:
			err = p.DropOverlay(ctx, fleet.VolumeRef{ID: volume, Epoch: at.Epoch})
		}
		fmt.Println("ended", fleet.KindOf(err))
		switch fleet.KindOf(err) {
		case "", fleet.KindNotFound, fleet.KindConflict, fleet.KindInvalid:
		case fleet.KindUnavailable: // about to be started, or switched off before it was ready
		default:
			fmt.Println("wrong:", err)
		}
	}
}

// The provisioner is killed again and again in the midst of its work. Never is
// there a second machine of an instance, and in the end everything can be
// removed and nothing is left.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	require.NoError(t, s.Close())
	var ids []string
	for range 4 {
		ids = append(ids, fleet.NewID())
	}
	volume := fleet.NewID()
	worker := filepath.Join(filepath.Dir(s.o.QEMU), "fake-worker")
	self, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(self, worker))
	machines := func() map[string][]int {
		found, err := qemuProcesses()
		require.NoError(t, err)
		ours := map[string][]int{}
		for _, id := range ids {
			if pids := found[id]; len(pids) > 0 {
				ours[id] = pids
				require.Len(t, pids, 1, "two machines of one instance")
			}
		}
		return ours
	}
	const kills = 15
	for round := range kills {
		cmd := exec.Command(worker, append([]string{s.o.DataDir, strconv.Itoa(round + 1), volume}, ids...)...)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for range 1 + rand.IntN(24) {
			require.True(t, lines.Scan())
			require.NotContains(t, lines.Text(), "wrong")
		}
		<-time.After(rand.N(40 * time.Millisecond)) // in the midst of something
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, cmd.Wait())
		machines()
	}
	s.open()
	running := machines()
	require.NoError(t, s.instanceJournal.each(func(id string, body []byte) error {
		rec, err := decodeInstance(id, body)
		require.NoError(t, err)
		spec := fleet.InstanceSpec{ID: fleet.InstanceID(id)}
		switch {
		case rec.Clone == clone:
			delete(running, id) // it goes on where it still runs, and is not started again
			return nil
		case rec.Want == fleet.PowerOn:
			s.await(spec, healthy)
			delete(running, id)
		case rec.Asleep && rec.Saved.memory():
			require.Empty(t, running[id], "asleep and running")
			st := s.wake(spec)
			if st.ColdReason != "" {
				require.Equal(t, ids[0], id, "what sleeps can be woken")
				require.Contains(t, st.ColdReason, "its volume", "an overlay has been begun or dropped meanwhile")
			}
			s.await(spec, healthy)
		default:
			return nil
		}
		v := s.known(spec.ID).vm
		if v.settled != nil {
			<-v.settled
		}
		g := s.guest(spec)
		require.True(t, g.Running && !g.Frozen, "%+v", g)
		return nil
	}))
	for id := range running {
		s.await(fleet.InstanceSpec{ID: fleet.InstanceID(id)}, isOff)
	}
	for _, id := range ids {
		require.NoError(t, s.Delete(t.Context(), fleet.InstanceRef{ID: fleet.InstanceID(id), Epoch: kills + 1}))
	}
	require.NoError(t, s.DeleteVolume(t.Context(), fleet.VolumeRef{ID: fleet.VolumeID(volume), Epoch: kills + 1}))
	require.Empty(t, machines())
	requireEmpty(t, s)
}
