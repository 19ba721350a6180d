package cycles

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/e2e/harness"
)

// suite is what this package's tests use. Only TestMain ends it.
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

const (
	sleeper = "sleeper"
	// memory has room for the thousand requests that a gateway lets go at once: in
	// 128 MiB the guest's kernel kills a program that gets them all.
	memory = "256MiB"
	// warmUp is how often it sleeps before the things that may leak are counted.
	warmUp = 3
	// longestCycle is how long one may take, on a machine that is busy with anything.
	longestCycle = 2 * time.Minute
	// longestPause is the longest pause after a wake.
	longestPause = 200 * time.Millisecond
)

// cycle is one sleep.
type cycle struct {
	// asked is when the hibernation was asked for, asleep when it slept, as the API tells.
	asked, asleep time.Time
}

func TestCycles(t *testing.T) {
	cycles := number(t, "DORMOUSE_CYCLES", 50)
	rate := number(t, "DORMOUSE_CYCLES_RATE", 100)
	e := suite.Own(t, harness.Options{})
	require.NoError(t, e.Start(t.Context()))
	require.NoError(t, e.CreateCluster(t.Context()))
	install(t, e, suite.Program(t, "e2e/guestprobe"))
	t.Cleanup(func() { explain(t, e) })

	l := &load{gateway: e.GatewayAddress, host: sleeper + ".localhost", rate: rate}
	first, _ := sleepAgain(t, e, l, warmUp)
	require.Empty(t, first.failures, "while warming up")
	before, err := look(t.Context(), e)
	require.NoError(t, err)
	began := time.Now()
	r, sent := sleepAgain(t, e, l, cycles)
	took := time.Since(began)
	after, err := settled(t.Context(), e, before)
	require.NoError(t, err)
	a, err := e.Visit(t.Context(), sleeper, "GET", "/ledger", "")
	require.NoError(t, err)
	var last tally
	require.NoError(t, a.Decode(&last))
	ids, err := e.Visit(t.Context(), sleeper, "GET", "/ledger/ids", "")
	require.NoError(t, err)
	require.Equal(t, 200, ids.Status)

	booted, err := boots(e)
	require.NoError(t, err)
	fmt.Printf("cycles.cold %d boots\n", booted-1)
	f := judge(l.all(), sent, r.cycles, strings.Fields(ids.Body), last)
	f.print(r, len(sent), took)
	require.NoError(t, refusals(t.Context(), e))
	leaks := after.more(before)
	fmt.Printf("cycles.leaks %d things\n", len(leaks))
	for _, each := range []struct {
		what        string
		now, before int
	}{{"processes", after.processes, before.processes}, {"taps", after.taps, before.taps}, {"files", after.files, before.files},
		{"descriptors", after.descriptors, before.descriptors}, {"goroutines", after.goroutines, before.goroutines}} {
		fmt.Printf("cycles.%s_before %d %s\ncycles.%s_after %d %s\n", each.what, each.before, each.what, each.what, each.now, each.what)
	}
	require.Empty(t, r.failures)
	require.Equal(t, 1, booted, "how often its kernel was started")
	require.Empty(t, f.bad)
	require.Zero(t, f.lost+f.twice)
	require.True(t, f.intact, "the counter in the guest's memory: %+v with %d IDs on the disk", last, len(strings.Fields(ids.Body)))
	require.GreaterOrEqual(t, f.during*100, len(sent)*30, "at least 30 %% during a transition")
	require.Empty(t, leaks)
}

// boots counts how often the machine was booted, rather than resumed.
func boots(e *harness.Environment) (int, error) {
	log, err := os.ReadFile(e.LogPath())
	return strings.Count(string(log), "machine started"), err
}

// refusals prints why the gateway has refused requests, those of the warming up included.
func refusals(ctx context.Context, e *harness.Environment) error {
	answer, err := e.Call(ctx, http.MethodGet, "/metrics", "")
	if err != nil {
		return err
	}
	for line := range strings.Lines(answer.Body) {
		if rest, ok := strings.CutPrefix(line, `dormouse_gateway_refused_total{reason="`); ok {
			reason, count, _ := strings.Cut(strings.TrimSpace(rest), `"} `)
			fmt.Printf("cycles.refused.%s %s requests\n", reason, count)
		}
	}
	return nil
}

// explain tells of the machine where the test has failed.
func explain(t *testing.T, e *harness.Environment) {
	if !t.Failed() {
		return
	}
	t.Logf("console:\n%s", e.Cloudctl(context.Background(), "installation", "logs", sleeper, "--tail", "60").Stdout)
	log, err := os.ReadFile(e.LogPath())
	if err != nil {
		t.Log(err)
	}
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, "machine ") || strings.Contains(line, "its memory") || strings.Contains(line, "level=error") {
			t.Log(line)
		}
	}
}

// run is what the sleeps came to.
type run struct {
	cycles   []cycle
	failures []string
}

// sleepAgain puts the installation to sleep so many times, under load, and
// returns when all has been answered, with what was sent.
func sleepAgain(t *testing.T, e *harness.Environment, l *load, times int) (r run, sent []visit) {
	t.Helper()
	already := len(l.all())
	ctx, stop := context.WithCancel(t.Context())
	sending := make(chan struct{})
	go func() {
		defer close(sending)
		l.run(ctx)
	}()
	begin := time.Now()
	for n := range times {
		c, err := once(t.Context(), e)
		if err != nil {
			r.failures = append(r.failures, fmt.Sprintf("cycle %d: %v", n+1, err))
			if len(r.failures) > 5 {
				break
			}
			continue
		}
		r.cycles = append(r.cycles, c)
		if (n+1)%50 == 0 {
			t.Logf("%d cycles after %s, %d answers", n+1, time.Since(begin).Round(time.Second), len(l.all())-already)
		}
		require.NoError(t, sleep(t.Context(), rand.N(longestPause)))
	}
	stop()
	<-sending
	return r, slices.Clone(l.all()[already:])
}

// once puts it to sleep, and returns when somebody has woken it.
func once(ctx context.Context, e *harness.Environment) (c cycle, err error) {
	ctx, cancel := context.WithTimeout(ctx, longestCycle)
	defer cancel()
	c.asked = time.Now()
	in, err := e.Client.Installations.Hibernate(ctx, sleeper)
	if err != nil {
		return c, err
	}
	op, err := e.Client.Operations.Follow(ctx, in.Operation.ID, nil)
	if err != nil {
		return c, err
	}
	if op.State != "succeeded" {
		return c, fmt.Errorf("the hibernation %s: %s", op.State, op.Error)
	}
	c.asleep = op.FinishedAt
	for {
		in, err := e.Client.Installations.Get(ctx, sleeper)
		if err != nil {
			return c, err
		}
		if in.State == "stable" {
			return c, nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return c, fmt.Errorf("it is %s: %w", in.State, err)
		}
	}
}
