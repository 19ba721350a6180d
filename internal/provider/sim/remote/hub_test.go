package remote

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// hubAt is a hub whose time stands until it is moved.
func hubAt() (*hub, *time.Time) {
	now := time.Date(2026, 3, 29, 1, 30, 0, 0, time.UTC)
	return newHub(func() time.Time { return now }), &now
}

// TestChangesOfAClientThatHasGone go to the others, those included that it did not fetch.
func TestChangesOfAClientThatHasGone(t *testing.T) {
	t.Parallel()
	h, now := hubAt()
	h.called("gone", "a")
	h.changed("a")
	*now = now.Add(afterPoll)
	h.called("left", "b")
	h.called("another", "")
	h.changed("b")
	require.Equal(t, []fleet.InstanceID{"a", "b"}, h.poll(t.Context(), "left"))
	require.Equal(t, []fleet.InstanceID{"a"}, h.poll(t.Context(), "another"))
	h.changed("a")
	require.Equal(t, []fleet.InstanceID{"a"}, h.poll(t.Context(), "left"), "nobody that is there called about it")
	require.Equal(t, []fleet.InstanceID{"a"}, h.poll(t.Context(), "another"))
	h.called("left", "b")
	h.forget("b")
	h.changed("b")
	require.Equal(t, []fleet.InstanceID{"b"}, h.poll(t.Context(), "another"))
}

// TestBrokenPoll: a client whose poll breaks has gone at once, until it calls again.
func TestBrokenPoll(t *testing.T) {
	t.Parallel()
	h, _ := hubAt()
	h.called("a", "x")
	broken, cut := context.WithCancel(t.Context())
	cut()
	require.Empty(t, h.poll(broken, "a"))
	h.called("b", "")
	h.changed("x")
	require.Equal(t, []fleet.InstanceID{"x"}, h.poll(t.Context(), "b"))

	h.called("a", "x") // it called again
	h.changed("x")
	require.Equal(t, []fleet.InstanceID{"x"}, h.poll(t.Context(), "a"))
}

// TestQueueIsBounded: a client that never fetches loses the oldest.
func TestQueueIsBounded(t *testing.T) {
	t.Parallel()
	h, _ := hubAt()
	h.called("a", "x")
	h.called("a", "y")
	h.changed("x")
	for range maxQueue {
		h.changed("y")
	}
	got := h.poll(t.Context(), "a")
	require.Len(t, got, maxQueue)
	require.NotContains(t, got, fleet.InstanceID("x"))
}
