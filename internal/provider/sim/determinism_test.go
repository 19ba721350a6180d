package sim_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
)

// TestRunsAreAlike plays the same script twice, with many timers due at the same
// time, restarts and compactions: all that can be seen is the same, in the same order.
func TestRunsAreAlike(t *testing.T) {
	t.Parallel()
	play := func() []string {
		var lines []string
		say := func(v any) {
			line, err := json.Marshal(v)
			require.NoError(t, err)
			lines = append(lines, string(line))
		}
		options := sim.Options{Dir: t.TempDir(), Clock: newFakeClock(), CompactBytes: 20_000, OnChange: func(id fleet.InstanceID) { say(id) },
			Serve: func(id fleet.InstanceID, _ []fleet.Port) ([]fleet.Endpoint, func(), error) {
				say("serving " + string(id))
				return nil, func() { say("stopping " + string(id)) }, nil
			}}
		clock := options.Clock.(*fakeClock)
		cluster := newCluster(map[string]string{"boot_time": "10s", "stop_time": "5s", "seed": "3", "fault.background": "0.5", "fault.wrong_health": "0.2",
			"fault.observer_outage": "0.1", "fault.unknown_health": "0.1", "fault.bad_end": "0.1", "fault.lost_answer": "0.1"})
		cluster.ID = "always-the-same"
		p, err := sim.New(options)
		require.NoError(t, err)
		require.NoError(t, p.Configure(cluster))
		for round := range 6 {
			for n := range 40 {
				spec := behaving(numbered(cluster.ID, n), "fail_after=1m;exit_after=4m;fraction=0.3")
				spec.HostID = ""
				st, err := p.Ensure(t.Context(), spec)
				say(st)
				say(fmt.Sprint(err))
			}
			clock.advance(10 * time.Second)
			if round%2 == 1 {
				say(p.Ledger())
				p = reopen(t, p, options, cluster)
			}
			clock.advance(time.Duration(round) * 70 * time.Second)
			page, _, err := p.List(t.Context(), cluster.ID, "")
			require.NoError(t, err)
			say(page)
		}
		require.NoError(t, p.Close())
		return lines
	}
	first := play()
	require.Greater(t, len(first), 500)
	require.Equal(t, first, play())
}

// TestTimeComesFromTheClock: a scheduler that decides about time must see all of it.
func TestTimeComesFromTheClock(t *testing.T) {
	t.Parallel()
	wall := []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || file == "clock.go" {
			continue
		}
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		parsed, err := parser.ParseFile(token.NewFileSet(), file, content, 0)
		require.NoError(t, err)
		for _, imported := range parsed.Imports {
			require.NotContains(t, imported.Path.Value, "rand", file)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "time" {
					require.NotContains(t, wall, s.Sel.Name, file)
				}
			}
			return true
		})
	}
}

// hurriedClock lets each wait pass at once, and remembers how long it was to be.
type hurriedClock struct {
	*fakeClock
	waits []time.Duration
}

func (c *hurriedClock) AfterFunc(d time.Duration, f func()) sim.Timer {
	c.waits = append(c.waits, d)
	f()
	return &fakeTimer{clock: c.fakeClock}
}

// TestLatencyPercentiles checks a log-normal distribution where it was asked
// for (median and 99th percentile), and where those two put its other points.
func TestLatencyPercentiles(t *testing.T) {
	t.Parallel()
	for _, call := range []sim.Call{sim.CallObserve, sim.CallEnsure} {
		t.Run(string(call), func(t *testing.T) {
			t.Parallel()
			clock := &hurriedClock{fakeClock: newFakeClock()}
			p, cluster := start(t, sim.Options{Clock: clock}, map[string]string{"latency": "p50=0.5s,p99=5s"})
			const calls = 40_000
			for n := range calls {
				spec := numbered(cluster.ID, n)
				if call == sim.CallEnsure {
					_, err := p.Ensure(t.Context(), spec)
					require.NoError(t, err)
					continue
				}
				_, err := p.Observe(t.Context(), refOf(spec))
				kind(t, fleet.KindNotFound, err)
			}
			require.Len(t, clock.waits, calls)
			sum := 0.0
			for _, d := range clock.waits {
				sum += d.Seconds()
			}
			slices.Sort(clock.waits)
			sigma := math.Log(10) / 2.3263478740408408
			for quantile, z := range map[float64]float64{0.1: -1.2815515655446004, 0.5: 0, 0.9: 1.2815515655446004, 0.99: 2.3263478740408408, 0.999: 3.090232306167813} {
				want := 0.5 * math.Exp(sigma*z)
				tolerance := 0.03
				if quantile > 0.95 {
					tolerance = 0.12 // few are so far out
				}
				require.InEpsilon(t, want, clock.waits[int(quantile*calls)].Seconds(), tolerance, "quantile %v", quantile)
			}
			require.InEpsilon(t, 0.5*math.Exp(sigma*sigma/2), sum/calls, 0.03, "the mean")
			require.LessOrEqual(t, clock.waits[calls-1], 50*time.Second)
		})
	}
}
