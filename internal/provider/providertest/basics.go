package providertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func (s *suite) check(t *testing.T) {
	for range 2 {
		report, err := s.p.Check(t.Context(), s.h.Cluster)
		require.NoError(t, err)
		require.NotEmpty(t, report.Items, "a check says what it looked at")
		require.Empty(t, report.Missing())
		require.NotEmpty(t, report.Hosts)
		for _, host := range report.Hosts {
			require.NotEmpty(t, host.ID)
			require.Equal(t, s.h.Cluster.ID, host.ClusterID)
			require.Positive(t, host.MemoryMiB)
			require.Positive(t, host.DiskMiB)
		}
		spec := s.h.Spec(t, "check")
		hosts := map[fleet.HostID]bool{}
		for _, host := range report.Hosts {
			hosts[host.ID] = true
		}
		require.Len(t, hosts, len(report.Hosts), "every host has an ID of its own")
		require.Contains(t, hosts, spec.HostID, "the harness places instances on a host that Check found")
	}
	if s.h.BadCluster == nil {
		return
	}
	report, err := s.p.Check(t.Context(), *s.h.BadCluster)
	require.NoError(t, err, "what is missing is a finding, not an error")
	require.NotEmpty(t, report.Missing())
	for _, item := range report.Missing() {
		require.NotEmpty(t, item.Name)
		require.NotEmpty(t, item.Detail)
		require.NotEmpty(t, item.Mend, "a finding says how to mend it")
	}
}

// unknown checks the calls about instances that never were.
func (s *suite) unknown(t *testing.T) {
	spec := specAt(s.h.Spec(t, "unknown"), 5)
	ref := refOf(spec)
	_, err := s.p.Observe(t.Context(), ref)
	requireKind(t, err, fleet.KindNotFound)
	for _, target := range []fleet.Power{fleet.PowerOn, fleet.PowerOff} {
		_, err = s.p.Power(t.Context(), ref, target)
		requireKind(t, err, fleet.KindNotFound)
	}
	if consoles, ok := s.p.(Consoles); ok {
		_, err = consoles.Console(t.Context(), ref, fleet.ConsoleOptions{})
		requireKind(t, err, fleet.KindNotFound)
	}
	require.NoError(t, s.p.Delete(t.Context(), ref))
	require.NoError(t, s.p.Delete(t.Context(), ref))
	s.requireGone(t, ref)

	// A worker that was overtaken by this delete has its Ensure still on the way.
	_, err = s.p.Ensure(t.Context(), specAt(spec, 4))
	requireKind(t, err, fleet.KindFenced)
	s.requireGone(t, ref)
}

// cancelledContext checks that no call outlives its context by much. Such a
// call may have had its effect or not.
func (s *suite) cancelledContext(t *testing.T) {
	spec := s.h.Spec(t, "cancelled")
	ref := refOf(spec)
	s.cleanUp(t, ref)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	calls := []struct {
		name string
		call func(context.Context) error
	}{
		{"Observe", func(ctx context.Context) error { _, err := s.p.Observe(ctx, ref); return err }},
		{"Power", func(ctx context.Context) error { _, err := s.p.Power(ctx, ref, fleet.PowerOff); return err }},
		{"List", func(ctx context.Context) error { _, _, err := s.p.List(ctx, s.h.Cluster.ID, ""); return err }},
		{"Check", func(ctx context.Context) error { _, err := s.p.Check(ctx, s.h.Cluster); return err }},
		{"Ensure", func(ctx context.Context) error { _, err := s.p.Ensure(ctx, spec); return err }},
		{"Delete", func(ctx context.Context) error { return s.p.Delete(ctx, ref) }},
	}
	for _, c := range calls {
		begin := time.Now()
		err := c.call(cancelled)
		require.Less(t, time.Since(begin), s.h.prompt(), "%s went on without its context", c.name)
		if err != nil && !errors.Is(err, context.Canceled) {
			requireKind(t, err, fleet.KindNotFound, fleet.KindUnavailable)
		}
	}

	// The same in the midst of the call.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.p.Ensure(ctx, spec)
		done <- err
	}()
	cancel()
	select {
	case <-done:
	case <-time.After(s.h.prompt()):
		require.Fail(t, "Ensure went on without its context")
	}
}

// nothingLeft checks that all that was made has gone.
func (s *suite) nothingLeft(t *testing.T) {
	require.Empty(t, s.list(t))
	if s.volumes != nil {
		left, err := s.volumes.ListVolumes(t.Context(), s.h.Cluster.ID)
		require.NoError(t, err)
		require.Empty(t, left)
	}
}
