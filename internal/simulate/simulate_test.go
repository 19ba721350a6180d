package simulate

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/pgtest"
	"dormouse/internal/store"
)

var (
	seeds   = flag.Int("seeds", 2, "how many seeds to play")
	first   = flag.Uint64("first", 1, "the first seed")
	shards  = flag.Int("shards", 1, "how many processes play them, each with a Postgres of its own")
	verbose = flag.Bool("trace", false, "print every decision, and the product's log")
	report  = flag.String("report", "", "where a shard writes what its seeds came to")
)

func migrate(ctx context.Context, url string) error {
	_, _, err := store.Migrate(ctx, url)
	return err
}

var fullSize = size{installations: 100, operations: 1000, crashes: 20}

// total is what many seeds came to.
type total struct {
	Seeds, Operations, Crashes, Violations int
	// LeastOperations and LeastCrashes are those of the seed that had the fewest.
	LeastOperations, LeastCrashes int
	Coverage                      coverage
}

func (t *total) add(o total) {
	if t.Seeds == 0 {
		t.LeastOperations, t.LeastCrashes = o.LeastOperations, o.LeastCrashes
	}
	t.LeastOperations, t.LeastCrashes = min(t.LeastOperations, o.LeastOperations), min(t.LeastCrashes, o.LeastCrashes)
	t.Seeds, t.Operations, t.Crashes, t.Violations = t.Seeds+o.Seeds, t.Operations+o.Operations, t.Crashes+o.Crashes, t.Violations+o.Violations
	if t.Coverage == nil {
		t.Coverage = coverage{}
	}
	t.Coverage.merge(o.Coverage)
}

// TestSeeds plays seeds and prints what they came to. A seed in which an invariant
// does not hold fails it, and is told with the command that plays it again.
func TestSeeds(t *testing.T) {
	var all total
	began := time.Now()
	if *shards > 1 && *seeds >= *shards && !*verbose {
		all = inShards(t)
	} else {
		all = playSeeds(t)
	}
	if *report != "" {
		text, err := json.Marshal(all)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(*report, text, 0o600))
		return
	}
	fmt.Println(all.Coverage.table())
	for _, count := range []struct {
		name string
		n    int
	}{
		{"seeds", all.Seeds}, {"violations", all.Violations}, {"operations", all.Operations}, {"operations_min", all.LeastOperations},
		{"crashes", all.Crashes}, {"crashes_min", all.LeastCrashes}, {"steps_x_faults", all.Coverage.pairs()},
	} {
		fmt.Printf("simulate.%s %d count\n", count.name, count.n)
	}
	fmt.Printf("simulate.seconds %.1f s\n", time.Since(began).Seconds())
}

func playSeeds(t *testing.T) total {
	t.Helper()
	defer oneAtATime()()
	db := openDatabase(t, pgtest.NewMigrated(t, migrate))
	var all total
	for n := range *seeds {
		seed := *first + uint64(n)
		o := options{size: fullSize}
		if *verbose {
			o.log = os.Stdout
			o.print = func(line string) { fmt.Println(line) }
		}
		at := time.Now()
		out := runSeed(t, db, seed, o)
		fmt.Printf("seed %d: trace %s, %d operations, %d crashes, %d turns, %v simulated in %v\n", seed, out.digest, out.operations, out.crashes,
			out.turns, out.simulated.Round(time.Second), time.Since(at).Round(10*time.Millisecond))
		for _, v := range out.violations {
			t.Errorf("seed %d: %s does not hold: %s\nplay it again: make simulate SEEDS=1 FIRST=%d TRACE=true", seed, v.Invariant, v.Detail, seed)
		}
		all.add(total{Seeds: 1, Operations: out.operations, Crashes: out.crashes, Violations: len(out.violations),
			LeastOperations: out.operations, LeastCrashes: out.crashes, Coverage: out.coverage})
	}
	return all
}

// oneAtATime sets the runtime up for a program of which one goroutine runs at a
// time: more threads would only spin. The returned function takes that back.
func oneAtATime() func() {
	threads, percent := runtime.GOMAXPROCS(1), debug.SetGCPercent(400)
	return func() {
		runtime.GOMAXPROCS(threads)
		debug.SetGCPercent(percent)
	}
}

// inShards has several processes play a part of the seeds each.
func inShards(t *testing.T) total {
	t.Helper()
	dir := t.TempDir()
	var wg sync.WaitGroup
	files := make([]string, *shards)
	for n := range *shards {
		from, to := *seeds*n / *shards, *seeds*(n+1) / *shards
		files[n] = filepath.Join(dir, fmt.Sprint(n))
		cmd := exec.Command(os.Args[0], "-test.run=^TestSeeds$", "-test.timeout=0", "-seeds", fmt.Sprint(to-from), "-first", fmt.Sprint(*first+uint64(from)), "-report", files[n])
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		wg.Go(func() {
			if err := cmd.Run(); err != nil {
				t.Errorf("shard %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	var all total
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var one total
		require.NoError(t, json.Unmarshal(text, &one))
		all.add(one)
	}
	return all
}

// A seed is one history: whatever was played before it, and however busy the machine.
func TestASeedIsOneHistory(t *testing.T) {
	db := openDatabase(t, pgtest.NewMigrated(t, migrate))
	played := map[uint64]outcome{}
	for _, seed := range []uint64{11, 12, 11, 12} {
		restore := func() {}
		if _, again := played[seed]; again {
			restore = oneAtATime()
		}
		out := runSeed(t, db, seed, options{size: smallSize, keep: true})
		restore()
		require.Empty(t, out.violations)
		if before, again := played[seed]; again {
			for i := range min(len(before.lines), len(out.lines)) {
				require.Equal(t, before.lines[i], out.lines[i], "line %d of %d", i, len(out.lines))
			}
			require.Equal(t, before.digest, out.digest)
		}
		played[seed] = out
	}
	require.NotEqual(t, played[11].digest, played[12].digest)
}
