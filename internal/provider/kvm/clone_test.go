package kvm

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm/hostnet"
)

// cloneSpec is a clone of what is on the volume.
func (l *layered) cloneSpec() fleet.InstanceSpec {
	spec := l.stage.spec("serve")
	spec.Volume = &l.ref
	return spec
}

func (l *layered) clone() fleet.InstanceSpec {
	l.t.Helper()
	spec := l.cloneSpec()
	_, err := l.Clone(l.t.Context(), spec)
	require.NoError(l.t, err)
	require.True(l.t, l.await(spec, healthy).Clone)
	return spec
}

// gaveWay checks that a clone has been killed and says why.
func (l *layered) gaveWay(spec fleet.InstanceSpec) {
	l.t.Helper()
	st := l.observe(spec)
	require.Equal(l.t, fleet.PowerOff, st.Power)
	require.Equal(l.t, fleet.ReasonGaveWay, st.Exit.Reason)
	require.Contains(l.t, st.Exit.String(), "gave way to the installation")
	require.True(l.t, st.Clone)
}

func TestClonesGiveWay(t *testing.T) {
	t.Parallel()
	l := newLayered(t)
	ctx := t.Context()
	first, second := l.clone(), l.clone()
	require.Len(t, l.net.ports, 2)

	larger := l.spec
	larger.SizeMiB = 64
	_, err := l.EnsureVolume(ctx, larger)
	require.NoError(t, err)
	for _, spec := range []fleet.InstanceSpec{first, second} {
		l.gaveWay(spec)
		_, err := l.Power(ctx, ref(spec), fleet.PowerOn)
		require.NoError(t, err)
		l.await(spec, healthy)
	}
	for name, call := range map[string]func() error{
		"Begin":  func() error { return l.BeginOverlay(ctx, l.ref) },
		"Drop":   func() error { return l.DropOverlay(ctx, l.ref) },
		"Commit": func() error { return l.CommitOverlay(ctx, l.ref) },
	} {
		spec := l.clone()
		require.NoError(t, call(), name)
		l.gaveWay(spec)
		require.NoError(t, l.Delete(ctx, ref(spec)))
	}

	// The installation itself, and nobody comes in between.
	own := l.stage.spec("serve")
	own.Volume = &l.ref
	l.ensure(own)
	l.await(own, healthy)
	l.gaveWay(first)
	_, err = l.Power(ctx, ref(first), fleet.PowerOn)
	requireKind(t, fleet.KindConflict, err)
	l.gaveWay(first)
	_, err = l.Clone(ctx, l.cloneSpec())
	requireKind(t, fleet.KindConflict, err)
	require.NoError(t, l.Delete(ctx, ref(own)))
	release := l.dropClonesOf(ctx, l.ref.ID)
	_, err = l.Clone(ctx, l.cloneSpec())
	requireKind(t, fleet.KindConflict, err)
	release()

	last := l.clone()
	require.NoError(t, l.DeleteVolume(ctx, l.ref))
	l.gaveWay(last)
	_, err = l.Clone(ctx, l.cloneSpec())
	requireKind(t, fleet.KindNotFound, err)
	for _, spec := range []fleet.InstanceSpec{first, second, last} {
		require.NoError(t, l.Delete(ctx, ref(spec)))
	}
	requireEmpty(t, l.stage)
	require.Empty(t, l.cloneAddresses)
}

// A clone that nobody knows of keeps writers off the volume all the same.
func TestForgottenCloneHoldsTheFile(t *testing.T) {
	t.Parallel()
	l := newLayered(t)
	spec := l.clone()
	l.instance(spec.ID).cloneOf.Store(nil)
	own := l.cloneSpec()
	_, err := l.Ensure(t.Context(), own)
	requireKind(t, fleet.KindConflict, err)
	require.NoError(t, l.Delete(t.Context(), ref(spec)))
	l.ensure(own)
	l.await(own, healthy)
}

func TestClonesOverARestart(t *testing.T) {
	t.Parallel()
	l := newLayered(t)
	lives, dies := l.clone(), l.clone()
	pid := l.pid(dies)
	require.NoError(t, l.Close())
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	for unix.Kill(pid, 0) == nil {
		// It is this process's child, which only a provider reaps.
		var status unix.WaitStatus
		_, _ = unix.Wait4(pid, &status, 0, nil)
	}
	l.open()
	l.v = l.volume(l.spec.ID)
	require.True(t, l.await(lives, healthy).Clone, "it is adopted")
	st := l.observe(dies)
	require.True(t, st.Clone)
	require.Equal(t, fleet.PowerOff, st.Power, "nobody waits for it any more")
	page, _, err := l.List(t.Context(), "cluster", "")
	require.NoError(t, err)
	require.Len(t, page, 2)
	require.True(t, page[0].Clone && page[1].Clone, "a sweep finds both")

	own := l.cloneSpec()
	l.ensure(own)
	l.gaveWay(lives)
	for _, spec := range []fleet.InstanceSpec{lives, dies, own} {
		require.NoError(t, l.Delete(t.Context(), ref(spec)))
	}
	require.NoError(t, l.DeleteVolume(t.Context(), l.ref))
	requireEmpty(t, l.stage)
}

func TestClonesAreNoInstances(t *testing.T) {
	t.Parallel()
	l := newLayered(t)
	ctx := t.Context()
	spec := l.clone()
	_, err := l.Ensure(ctx, spec)
	requireKind(t, fleet.KindConflict, err)
	_, err = l.Suspend(ctx, ref(spec), fleet.SuspendOptions{})
	requireKind(t, fleet.KindConflict, err)
	require.NoError(t, l.Delete(ctx, ref(spec)))
	_, err = l.Ensure(ctx, spec)
	require.NoError(t, err, "the ID is free again")
	_, err = l.Clone(ctx, spec)
	requireKind(t, fleet.KindConflict, err)
	require.NoError(t, l.Delete(ctx, ref(spec)))

	foreign := l.volumeSpec(32)
	foreign.Kernel = fleet.KernelNanos
	_, err = l.EnsureVolume(ctx, foreign)
	require.NoError(t, err)
	disk := l.diskSpec("serve")
	disk.Volume = &fleet.VolumeRef{ID: foreign.ID}
	_, err = l.Clone(ctx, disk)
	requireKind(t, fleet.KindPermanent, err)
	require.NoDirExists(t, l.instance(disk.ID).dir())

	// Without a volume there is nothing to give way to.
	none := l.stage.spec("serve")
	_, err = l.Clone(ctx, none)
	require.NoError(t, err)
	l.await(none, healthy)
}

// pooledNetwork is a fake with addresses.
type pooledNetwork struct {
	*fakeNetwork
	pool string
}

func (n pooledNetwork) Pool() string { return n.pool }

func TestCloneAddresses(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	require.NoError(t, s.Close())
	main, clones := pooledNetwork{newFakeNetwork(), "10.1.0.0/24"}, pooledNetwork{newFakeNetwork(), "10.2.0.0/29"}
	s.o.Network, s.o.CloneNetwork = main, clones
	s.open()
	ctx := t.Context()
	var made []fleet.InstanceSpec
	seen := map[string]bool{}
	next := func() (string, error) {
		spec := s.spec("boot")
		spec.Network = &fleet.Network{Address: "10.1.0.7/24", MAC: "52:54:00:00:00:07"} // the sleeper's is not taken over
		_, err := s.Clone(ctx, spec)
		if err != nil {
			return "", err
		}
		made = append(made, spec)
		at := clones.ports[spec.ID]
		require.NotEqual(t, "52:54:00:00:00:07", at.MAC)
		require.False(t, seen[at.MAC], "each has a hardware address of its own")
		seen[at.MAC] = true
		return at.Address, nil
	}
	for _, want := range []string{"10.2.0.2/29", "10.2.0.3/29", "10.2.0.4/29"} {
		got, err := next()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	require.Empty(t, main.ports, "they are not on the instances' network")
	require.NoError(t, s.Delete(ctx, ref(made[0])))
	got, err := next()
	require.NoError(t, err)
	require.Equal(t, "10.2.0.5/29", got, "one that was just given back comes last")
	s.reopen()
	for _, want := range []string{"10.2.0.2/29", "10.2.0.6/29"} {
		got, err = next()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err = next()
	require.Error(t, err)
	require.ErrorContains(t, err, "all addresses of 10.2.0.0/29 are in use")
	require.NoError(t, s.Delete(ctx, ref(made[2])))
	got, err = next()
	require.NoError(t, err)
	require.Equal(t, "10.2.0.4/29", got)
}

func TestSplitNetwork(t *testing.T) {
	t.Parallel()
	main, clones := pooledNetwork{newFakeNetwork(), "10.1.0.0/24"}, pooledNetwork{newFakeNetwork(), "10.2.0.0/24"}
	both, err := joinNetworks(main, clones)
	require.NoError(t, err)
	for id, address := range map[fleet.InstanceID]string{"a": "10.1.0.2/24", "b": "10.2.0.2/24"} {
		_, err := both.Attach(t.Context(), hostnet.Port{ID: id, Address: address})
		require.NoError(t, err)
	}
	require.Contains(t, main.ports, fleet.InstanceID("a"))
	require.Contains(t, clones.ports, fleet.InstanceID("b"))
	ids, err := both.List(t.Context())
	require.NoError(t, err)
	require.Equal(t, []fleet.InstanceID{"a", "b"}, ids)
	for _, id := range ids {
		require.NoError(t, both.Detach(t.Context(), id))
	}
	require.Empty(t, main.ports)
	require.Empty(t, clones.ports)
	require.True(t, both.(splitNetwork).has(netip.MustParseAddr("10.2.0.9")))
	require.False(t, both.(splitNetwork).has(netip.MustParseAddr("10.1.0.9")))

	_, err = joinNetworks(main, pooledNetwork{newFakeNetwork(), "10.1.0.0/16"})
	require.ErrorContains(t, err, "in common")
	_, err = joinNetworks(main, newFakeNetwork())
	require.ErrorContains(t, err, "of one kind")
	alone, err := joinNetworks(main, nil)
	require.NoError(t, err)
	require.Equal(t, "10.1.0.0/24", alone.Pool())
	_, ok := alone.(splitNetwork)
	require.False(t, ok, "no clones without a network for them")
}

// A clone is killed at once, also one whose guest does not listen.
func TestStubbornCloneGivesWayAtOnce(t *testing.T) {
	t.Parallel()
	l := newLayered(t)
	spec := l.cloneSpec()
	spec.Image = "stubborn"
	_, err := l.Clone(t.Context(), spec)
	require.NoError(t, err)
	l.await(spec, healthy)
	ctx, cancel := context.WithTimeout(t.Context(), killMargin)
	defer cancel()
	began := time.Now()
	l.dropClonesOf(ctx, l.ref.ID)()
	require.NoError(t, ctx.Err())
	l.gaveWay(spec)
	t.Log("gave way after", time.Since(began))
	lines, err := l.instance(spec.ID).console().lastBoot()
	require.NoError(t, err)
	require.NotContains(t, strings.Join(lines, "\n"), "stopped")
}
