package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/provider/sim"
)

// TestHelpOfTheSimulator names all of its settings and words, and none besides.
func TestHelpOfTheSimulator(t *testing.T) {
	t.Parallel()
	r := newRun("")
	require.Equal(t, exitDone, r.line(t, "help simulator"))
	help := r.out.String()
	for _, key := range append(sim.Keys(), sim.BehaviourWords()...) {
		name, _, _ := strings.Cut(key, " ")
		name, _, _ = strings.Cut(name, "=")
		require.Regexp(t, `\b`+name+`\b`, help)
	}
	faults := strings.Count(help, "fault.")
	require.Equal(t, len(sim.Faults())+1, faults, "each once, and one in the example")
	for _, field := range strings.Fields(help) {
		if value, ok := strings.CutPrefix(field, "'SIM_BEHAVIOUR="); ok {
			_, err := sim.ParseBehaviour(strings.TrimSuffix(value, "'"))
			require.NoError(t, err)
		}
	}
}
