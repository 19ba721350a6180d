package providertest

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// life follows one instance from Ensure to its tombstone.
func (s *suite) life(t *testing.T) {
	spec := specAt(s.h.Spec(t, "life"), 10)
	l := &lived{suite: s, spec: spec, epoch: spec.Epoch, begun: time.Now()}
	if s.volumes != nil {
		l.volume = s.volumeSpec(spec)
		// Registered first, so that it runs after the instances are gone.
		s.cleanUpVolume(t, volumeRef(l.volume))
		st, err := s.volumes.EnsureVolume(t.Context(), l.volume)
		require.NoError(t, err)
		ref := volumeRef(l.volume)
		ref.ProviderRef = st.ProviderRef
		l.spec.Volume = &ref
		l.volumeCreated = st.CreatedAt
	}
	s.cleanUp(t, refOf(spec))

	steps := []step{
		{"CreateBecomesHealthy", l.create},
		{"EnsureTwiceIsOneInstance", l.ensureTwice},
		{"Console", l.console},
		{"LowerEpochIsFenced", l.fence},
		{"VolumeInUse", l.volumeInUse},
		{"ReopenWhileOn", l.reopenWhileOn},
		{"PowerOffTwice", l.powerOff},
		{"VolumeToSuccessor", l.successor},
		{"PowerOnTwice", l.powerOn},
		{"ProgramEnds", l.programEnds},
		{"EnsurePowersOn", l.ensurePowersOn},
		{"Delete", l.delete},
		{"TombstoneFences", l.tombstone},
		{"VolumeOutlivesInstance", l.volumeOutlives},
	}
	chain(t, steps...)
}

// lived is the instance of life, with what the steps have seen.
type lived struct {
	*suite
	spec          fleet.InstanceSpec
	volume        fleet.VolumeSpec
	volumeCreated time.Time
	// epoch is the highest that the provider has seen.
	epoch   fleet.Epoch
	begun   time.Time
	created fleet.InstanceStatus
}

const volumeData = "kept by providertest"

func (l *lived) ref() fleet.InstanceRef { return at(refOf(l.spec), l.epoch) }

func (l *lived) create(t *testing.T) {
	st := l.ensure(t, l.spec)
	require.Equal(t, l.spec.InstallationID, st.InstallationID)
	require.Equal(t, l.spec.Epoch, st.Epoch)
	require.Nil(t, st.Exit)
	require.NotEmpty(t, l.spec.Manifest.Ports, "the harness's manifest has a port")
	require.Len(t, st.Endpoints, len(l.spec.Manifest.Ports))
	for i, port := range l.spec.Manifest.Ports {
		require.Equal(t, port.Number, st.Endpoints[i].Port)
		require.Equal(t, port.Protocol, st.Endpoints[i].Protocol)
		require.NotEmpty(t, st.Endpoints[i].Address)
	}
	// Clocks of providers may differ a little from ours.
	require.WithinRange(t, st.CreatedAt, l.begun.Add(-time.Minute), time.Now().Add(time.Minute))
	l.created = st
	if l.h.Write != nil && l.spec.Volume != nil {
		l.h.Write(t, st, volumeData)
		require.Equal(t, volumeData, l.h.Read(t, st))
	}
}

// same checks that st is the instance that create made.
func (l *lived) same(t *testing.T, st fleet.InstanceStatus) {
	t.Helper()
	require.Equal(t, l.created.ID, st.ID)
	require.Equal(t, l.created.InstallationID, st.InstallationID)
	require.Equal(t, l.created.ProviderRef, st.ProviderRef)
	require.True(t, l.created.CreatedAt.Equal(st.CreatedAt), "created at %v, now %v", l.created.CreatedAt, st.CreatedAt)
	require.Equal(t, l.epoch, st.Epoch)
}

// observed checks that the instance is there, once, with the given power.
func (l *lived) observed(t *testing.T, power fleet.Power) fleet.InstanceStatus {
	t.Helper()
	st, err := l.p.Observe(t.Context(), l.ref())
	require.NoError(t, err)
	l.same(t, st)
	require.Equal(t, power, st.Power)
	listed := l.list(t)
	require.Len(t, listed, 1)
	l.same(t, listed[l.spec.ID])
	require.Equal(t, power, listed[l.spec.ID].Power)
	return st
}

// data checks that what was written to the volume is still there.
func (l *lived) data(t *testing.T, st fleet.InstanceStatus) {
	t.Helper()
	if l.h.Read != nil && l.spec.Volume != nil {
		require.Equal(t, volumeData, l.h.Read(t, st))
	}
}

func (l *lived) ensureTwice(t *testing.T) {
	st, err := l.p.Ensure(t.Context(), l.spec)
	require.NoError(t, err)
	l.same(t, st)
	require.Equal(t, fleet.PowerOn, st.Power)
	l.observed(t, fleet.PowerOn)
	st, err = l.p.Power(t.Context(), l.ref(), fleet.PowerOn)
	require.NoError(t, err, "powering on what is on is harmless")
	require.Equal(t, fleet.PowerOn, st.Power)
}

func (l *lived) console(t *testing.T) {
	consoles, ok := l.p.(Consoles)
	if !ok {
		return
	}
	whole := read(t, consoles, l.ref(), fleet.ConsoleOptions{})
	require.NotEmpty(t, whole)
	tail := read(t, consoles, l.ref(), fleet.ConsoleOptions{TailLines: 1})
	require.NotEmpty(t, tail)
	require.LessOrEqual(t, bytes.Count(tail, []byte("\n")), 1)

	// Following ends with its context.
	ctx, cancel := context.WithCancel(t.Context())
	follow, err := consoles.Console(ctx, l.ref(), fleet.ConsoleOptions{TailLines: 1, Follow: true})
	require.NoError(t, err)
	first := make([]byte, 1)
	_, err = io.ReadFull(follow, first)
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, follow)
	}()
	cancel()
	select {
	case <-ended:
	case <-time.After(l.h.prompt()):
		require.Fail(t, "the console went on without its context")
	}
	require.NoError(t, follow.Close())
}

func read(t *testing.T, consoles Consoles, ref fleet.InstanceRef, options fleet.ConsoleOptions) []byte {
	t.Helper()
	r, err := consoles.Console(t.Context(), ref, options)
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return b
}

// fenced checks that every mutating call with that epoch is refused and changes nothing.
func (l *lived) fenced(t *testing.T, epoch fleet.Epoch) {
	t.Helper()
	_, err := l.p.Ensure(t.Context(), specAt(l.spec, epoch))
	requireKind(t, err, fleet.KindFenced)
	for _, target := range []fleet.Power{fleet.PowerOff, fleet.PowerOn} {
		_, err = l.p.Power(t.Context(), at(l.ref(), epoch), target)
		requireKind(t, err, fleet.KindFenced)
	}
	requireKind(t, l.p.Delete(t.Context(), at(l.ref(), epoch)), fleet.KindFenced)
}

func (l *lived) fence(t *testing.T) {
	l.fenced(t, l.epoch-1)
	l.observed(t, fleet.PowerOn)

	// A higher one is accepted, and seen from then on: by Ensure and by Power.
	st, err := l.p.Ensure(t.Context(), specAt(l.spec, l.epoch+1))
	require.NoError(t, err)
	l.epoch++
	l.same(t, st)
	l.fenced(t, l.epoch-1)
	_, err = l.p.Power(t.Context(), at(l.ref(), l.epoch+1), fleet.PowerOn)
	require.NoError(t, err)
	l.epoch++
	l.fenced(t, l.epoch-1)
	l.observed(t, fleet.PowerOn)

	_, err = l.p.Observe(t.Context(), at(l.ref(), 1))
	require.NoError(t, err, "observing is not fenced")
}

func (l *lived) reopenWhileOn(t *testing.T) {
	l.reopen(t)
	if l.h.Reopen == nil {
		return
	}
	l.same(t, l.await(t, l.ref(), "healthy", running))
	l.observed(t, fleet.PowerOn)
	l.fenced(t, l.epoch-1)
}

// reopen restarts the provider, where that is possible.
func (l *lived) reopen(t *testing.T) {
	t.Helper()
	if l.h.Reopen == nil {
		t.Log("providertest: this provider can't be reopened; restarts are not checked")
		return
	}
	l.p = l.h.Reopen(t)
	require.NotNil(t, l.p)
	l.volumes, _ = l.p.(Volumes)
}

func (l *lived) powerOff(t *testing.T) {
	ref := at(l.ref(), l.epoch+1)
	base, _ := l.signals.seen(ref.ID)
	answer, err := l.p.Power(t.Context(), ref, fleet.PowerOff)
	require.NoError(t, err)
	l.epoch++
	require.Contains(t, []fleet.Power{fleet.PowerOff, fleet.PowerPending}, answer.Power)
	_, err = l.p.Power(t.Context(), ref, fleet.PowerOff)
	require.NoError(t, err, "the same target twice is harmless")
	st := l.settle(t, ref, answer, base, "off", off)
	if st.Exit != nil {
		require.Empty(t, st.Exit.Reason, "a stop that was asked for is clean: %+v", st.Exit)
	}
	require.NotEqual(t, fleet.HealthHealthy, st.Health, "what is off is not healthy")
	again, err := l.p.Power(t.Context(), ref, fleet.PowerOff)
	require.NoError(t, err)
	require.Equal(t, fleet.PowerOff, again.Power)
	l.observed(t, fleet.PowerOff)
	l.fenced(t, l.epoch-1)
	l.observed(t, fleet.PowerOff)
}

func (l *lived) powerOn(t *testing.T) {
	base, _ := l.signals.seen(l.spec.ID)
	answer, err := l.p.Power(t.Context(), l.ref(), fleet.PowerOn)
	require.NoError(t, err)
	require.Contains(t, []fleet.Power{fleet.PowerOn, fleet.PowerPending}, answer.Power)
	_, err = l.p.Power(t.Context(), l.ref(), fleet.PowerOn)
	require.NoError(t, err, "the same target twice is harmless")
	st := l.settle(t, l.ref(), answer, base, "healthy", running)
	l.same(t, st)
	require.Nil(t, st.Exit, "it runs again")
	require.Len(t, st.Endpoints, len(l.spec.Manifest.Ports))
	l.data(t, st)
}

func (l *lived) programEnds(t *testing.T) {
	if l.h.End == nil {
		t.Log("providertest: the harness can't end a program")
		return
	}
	base, _ := l.signals.seen(l.spec.ID)
	l.h.End(t, l.p, l.ref())
	st := l.await(t, l.ref(), "ended", func(st fleet.InstanceStatus) bool { return st.Exit != nil && st.Power == fleet.PowerOff })
	l.awaitSignal(t, l.spec.ID, base)
	require.Equal(t, fleet.ReasonProgramExited, st.Exit.Reason)
	require.Equal(t, 3, st.Exit.Code)
	require.NotZero(t, st.Exit.At)
}

func (l *lived) ensurePowersOn(t *testing.T) {
	l.power(t, l.ref(), fleet.PowerOff)
	l.reopen(t)
	l.observed(t, fleet.PowerOff)
	l.fenced(t, l.epoch-1)
	l.epoch++
	st := l.ensure(t, specAt(l.spec, l.epoch))
	l.same(t, st)
	require.Nil(t, st.Exit)
	l.data(t, st)
}

func (l *lived) delete(t *testing.T) {
	l.epoch++
	l.deleteInstance(t, l.ref())
	l.deleteInstance(t, l.ref())
}

func (l *lived) tombstone(t *testing.T) {
	for _, restart := range []bool{false, true} {
		if restart {
			l.reopen(t)
		}
		_, err := l.p.Ensure(t.Context(), specAt(l.spec, l.epoch-1))
		requireKind(t, err, fleet.KindFenced)
		l.requireGone(t, l.ref())
	}
	_, err := l.p.Ensure(t.Context(), specAt(l.spec, l.epoch))
	require.NoError(t, err, "the epoch that deleted may make it again")
	l.epoch++
	_, err = l.p.Ensure(t.Context(), specAt(l.spec, l.epoch))
	require.NoError(t, err)
	l.deleteInstance(t, l.ref())
}
