package simulate

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"dormouse/internal/pgtest"
	"dormouse/internal/store"
)

var (
	seeds   = flag.Int("seeds", 2, "how many seeds to play")
	first   = flag.Uint64("first", 1, "the first seed")
	verbose = flag.Bool("trace", false, "print every decision, and the product's log")
)

// bug is something that is wrong on purpose.
type bug struct {
	store    func(*simulation, *store.Store) backend
	provider func(*simulation, provider) provider
}

func migrate(ctx context.Context, url string) error {
	_, _, err := store.Migrate(ctx, url)
	return err
}

var fullSize = size{installations: 100, operations: 1000, crashes: 20}

func TestSeeds(t *testing.T) {
	db := openDatabase(t, pgtest.NewMigrated(t, migrate))
	total := coverage{}
	var operations, crashes, violations int
	began := time.Now()
	for n := range *seeds {
		seed := *first + uint64(n)
		o := options{size: fullSize}
		if *verbose {
			o.log = os.Stderr
			o.print = func(line string) { fmt.Println(line) }
		}
		at := time.Now()
		out := runSeed(t, db, seed, o)
		fmt.Printf("seed %d: %s %d operations, %d crashes, %d turns, %v simulated, %v\n", seed, out.digest, out.operations, out.crashes, out.turns, out.simulated, time.Since(at))
		for _, v := range out.violations {
			t.Errorf("seed %d: %s: %s", seed, v.invariant, v.detail)
		}
		operations, crashes, violations = operations+out.operations, crashes+out.crashes, violations+len(out.violations)
		total.merge(out.coverage)
	}
	fmt.Println(total.table())
	fmt.Printf("simulate.seeds %d count\nsimulate.violations %d count\nsimulate.operations %d count\nsimulate.crashes %d count\nsimulate.seconds_per_seed %.2f s\n",
		*seeds, violations, operations, crashes, time.Since(began).Seconds()/float64(*seeds))
}
