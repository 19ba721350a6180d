package engine

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// A step that is no longer ours does not begin, though a slot is free.
func TestWhoIsCancelledTakesNoSlot(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := newSlots(1)
	for range 100 {
		require.False(t, s.take(ctx, fleet.ClassInteractive))
	}
	require.True(t, s.take(t.Context(), fleet.ClassBulk), "and gives none away")
}
