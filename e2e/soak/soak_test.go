package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// suite is what this package's one test uses. Only TestMain ends it.
var suite = harness.NewSuite()

func TestMain(m *testing.M) { os.Exit(suite.Main(m)) }

// number reads a number from the environment.
func number(t *testing.T, name string, standard int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return standard
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, name)
	require.Positive(t, n, name)
	return n
}

func TestSoak(t *testing.T) {
	kills := number(t, "DORMOUSE_SOAK_KILLS", 10)
	standard, patience := 4, 10*time.Second
	if kills >= 50 {
		standard, patience = 10, time.Minute
	}
	count := number(t, "DORMOUSE_SOAK_INSTALLATIONS", standard)
	seed := uint64(number(t, "DORMOUSE_SOAK_SEED", int(time.Now().UnixNano()>>10&0xffffff)+1))
	t.Logf("%d kills, %d tenants, DORMOUSE_SOAK_SEED=%d", kills, count, seed)

	e := suite.Own(t, harness.Options{})
	require.NoError(t, e.Start(t.Context()))
	require.NoError(t, e.CreateCluster(t.Context()))
	c, err := client.New(e.URL, client.Options{Attempts: 1000, BackoffMax: 500 * time.Millisecond, LongPoll: 5 * time.Second})
	require.NoError(t, err)
	packages := [2]string{upload(t, e, suite.Workspace(t, "1.0.0")), upload(t, e, suite.Workspace(t, "1.1.0"))}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &watcher{env: e, together: map[[2]string]bool{}}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		w.watch(ctx)
	}()

	var wanted atomic.Pointer[target]
	asked := make(chan string, 64)
	stop := make(chan struct{})
	working, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var work sync.WaitGroup
	tenants := make([]*tenant, count)
	for i := range tenants {
		tenants[i] = &tenant{env: e, client: c, name: fmt.Sprintf("tenant-%d", i), random: rand.New(rand.NewPCG(seed, uint64(i))),
			wanted: &wanted, asked: asked, packages: packages}
		work.Go(func() {
			if err := tenants[i].live(working, stop); err != nil {
				fail(err)
			}
		})
	}
	k := &killer{env: e, random: rand.New(rand.NewPCG(seed, 1<<32)), wanted: &wanted, asked: asked, hits: map[target]int{}, patience: patience, epoch: "0"}
	begin := time.Now()
	for range kills {
		if err := k.kill(working); err != nil {
			if failed := context.Cause(working); failed != nil {
				err = failed
			}
			close(stop)
			require.NoError(t, err)
		}
		t.Logf("kill %d after %s: %d while a step ran; not hit yet: %v", k.kills, time.Since(begin).Round(time.Second), k.running, k.missing())
	}
	wanted.Store(nil)
	close(stop)
	work.Wait()
	require.NoError(t, context.Cause(working), "what was asked for did not become true")

	stray := outside(t, e, tenants)
	for _, each := range tenants {
		if each.state != "" {
			require.NoError(t, each.do(t.Context(), "delete"))
		}
	}
	stray = append(stray, empty(t, e)...)
	cancel()
	<-watched
	violations, err := w.violations(t.Context())
	require.NoError(t, err)
	report(k, w, len(stray), len(violations), time.Since(begin))
	require.Empty(t, stray)
	require.Empty(t, violations)
	require.Equal(t, kills, k.kills)
	require.GreaterOrEqual(t, k.running*10, k.kills*8, "at least 80 % of the kills while a step is running")
	if kills >= 50 {
		require.Empty(t, k.missing(), "steps that no kill hit")
	}
}

func upload(t *testing.T, e *harness.Environment, dir string) string {
	t.Helper()
	r := e.Cloudctl(t.Context(), "-o", "json", "package", "create", dir)
	require.Zero(t, r.Code, "%s", r)
	var p client.Package
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &p))
	return p.Name + "@" + p.Version
}

// report prints what was done, one `name value unit` a line.
func report(k *killer, w *watcher, stray, violations int, took time.Duration) {
	var slowest, sum time.Duration
	for _, d := range k.restarts {
		slowest, sum = max(slowest, d), sum+d
	}
	for _, each := range slices.SortedFunc(maps.Keys(k.hits), func(a, b target) int { return slices.Compare([]string{a.kind, a.step}, []string{b.kind, b.step}) }) {
		fmt.Printf("soak.hit.%s.%s %d kills\n", each.kind, each.step, k.hits[each])
	}
	fmt.Printf("soak.kills %d kills\nsoak.kills_in_step %d kills\nsoak.steps_hit %d steps\nsoak.steps_missed %d steps\nsoak.samples %d stops\n", k.kills, k.running, len(k.hits), len(k.missing()), k.samples)
	fmt.Printf("soak.restart_mean %.2f s\nsoak.restart_max %.2f s\n", (sum / time.Duration(max(1, len(k.restarts)))).Seconds(), slowest.Seconds())
	fmt.Printf("soak.looks %d looks\nsoak.machines_max %d machines\nsoak.double_machines %d violations\nsoak.stray %d things\nsoak.duration %.0f s\n",
		w.looks, w.most, violations, stray, took.Seconds())
}
