package chaos

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	runs   = flag.Int("runs", 1, "how many runs to play")
	first  = flag.Uint64("first", 1, "the seed of the first run")
	keep   = flag.Bool("keep", false, "keep the logs of a clean run too")
	length = flag.Duration("length", 12*time.Second, "how long things are broken in a run")
)

// TestRuns plays runs and prints what they came to.
func TestRuns(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "provisioner")
	out, err := exec.Command("go", "build", "-o", bin, "dormouse/cmd/provisioner").CombinedOutput()
	require.NoError(t, err, "building the provisioner: %s", out)
	began := time.Now()
	counts := map[string]int{}
	for n := range *runs {
		r := &run{t: t, seed: *first + uint64(n), bin: bin}
		r.dir, err = os.MkdirTemp("", "chaos")
		require.NoError(t, err)
		at := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), *length+5*time.Minute)
		err := r.play(ctx, *length)
		cancel()
		if err != nil {
			r.broken("Harness", "%v", err)
		}
		k := r.killer
		fmt.Printf("run %d: %d requests accepted for %d installations, %d rollouts; %d kills, %d stops, %d hiccups, %d sessions ended, %d crashes of Postgres, %d restarts; settled after %v, %v in all\n",
			r.seed, r.tenants.requests, len(r.tenants.wishes), len(r.tenants.rollouts), k.kills, k.stops, k.hiccups, k.sessions, k.crashes, k.restarts, r.settled.Round(time.Second), time.Since(at).Round(time.Second))
		for name, n := range map[string]int{"runs": 1, "violations": len(r.found), "requests": r.tenants.requests, "installations": len(r.tenants.wishes), "rollouts": len(r.tenants.rollouts),
			"kills": k.kills, "stops": k.stops, "hiccups": k.hiccups, "sessions": k.sessions, "postgres_crashes": k.crashes, "restarts": k.restarts} {
			counts[name] += n
		}
		if len(r.found) == 0 && !*keep {
			require.NoError(t, os.RemoveAll(r.dir))
			continue
		}
		kept := r.keep()
		fmt.Printf("run %d: its logs are in %s\n", r.seed, kept)
		for _, v := range r.found {
			t.Errorf("seed %d: %s does not hold: %s\nsee %s; again: make chaos RUNS=1 FIRST=%d", r.seed, v.Invariant, v.Detail, kept, r.seed)
		}
	}
	for _, name := range []string{"runs", "violations", "requests", "installations", "rollouts", "kills", "stops", "hiccups", "sessions", "postgres_crashes", "restarts"} {
		fmt.Printf("chaos.%s %d count\n", name, counts[name])
	}
	fmt.Printf("chaos.seconds %.1f s\n", time.Since(began).Seconds())
}
