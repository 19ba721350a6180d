package sim_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

// killedVariable tells a child of this test the directory to work in.
const killedVariable = "DORMOUSE_TEST_KILLED_DIR"

const killedCluster fleet.ClusterID = "killed"

// TestKilledWhileWriting kills a process that works on the state, again and
// again: what it had been told was done is there, compactions included.
func TestKilledWhileWriting(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	answered := map[fleet.InstanceID]bool{}
	for round := range 8 {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledChild$")
		child.Env = append(os.Environ(), killedVariable+"="+dir)
		out, err := child.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, child.Start())
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if id, ok := strings.CutPrefix(lines.Text(), "made "); ok && fleet.ValidID(id) {
				answered[fleet.InstanceID(id)] = true
			}
			if n == 40+17*round {
				require.NoError(t, child.Process.Kill())
			}
		}
		require.Error(t, child.Wait(), "it was killed")
	}
	p, err := sim.New(sim.Options{Dir: dir})
	require.NoError(t, err)
	require.NoError(t, p.Configure(fleet.Cluster{ID: killedCluster}))
	found := all(t, p, killedCluster)
	require.NoError(t, p.Close())
	require.Greater(t, len(answered), 8*40)
	for id := range answered {
		require.Contains(t, found, id)
	}
}

// TestKilledChild is what the children of TestKilledWhileWriting run until they
// are killed; without the variable there is nothing to check.
func TestKilledChild(t *testing.T) {
	dir := os.Getenv(killedVariable)
	if dir == "" {
		return
	}
	p, err := sim.New(sim.Options{Dir: dir, CompactBytes: 2048})
	require.NoError(t, err)
	require.NoError(t, p.Configure(fleet.Cluster{ID: killedCluster}))
	for t.Context().Err() == nil {
		spec := newSpec(killedCluster, "a")
		spec.HostID = ""
		_, err := p.Ensure(t.Context(), spec)
		require.NoError(t, err)
		if _, err := fmt.Printf("made %s\n", spec.ID); err != nil {
			return // the parent has gone
		}
	}
}
