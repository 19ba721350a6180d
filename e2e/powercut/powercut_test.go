package powercut

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
	"dormouse/e2e/lossy"
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

func TestPowerCut(t *testing.T) {
	if err := lossy.Usable(); err != nil {
		t.Skip(err)
	}
	rounds := number(t, "DORMOUSE_POWERCUT_ROUNDS", 8)
	seed := uint64(number(t, "DORMOUSE_POWERCUT_SEED", int(time.Now().UnixNano()>>10&0xffffff)+1))
	t.Logf("%d rounds, DORMOUSE_POWERCUT_SEED=%d", rounds, seed)

	aside := t.TempDir()
	require.NoError(t, os.Mkdir(aside+"/kernels", 0o755))
	var disk *lossy.Disk
	e := suite.Own(t, harness.Options{
		Args: []string{"--image-dir", aside},
		Mount: func(dir string) (func() error, error) {
			d, err := lossy.New(dir)
			if err != nil {
				return nil, err
			}
			disk = d
			// What is unpacked of a kernel would be again after each cut.
			return d.Close, errors.Join(os.Symlink(aside+"/kernels", dir+"/kernels"), syncDir(dir))
		},
	})
	require.NoError(t, e.Start(t.Context()))
	require.NoError(t, e.CreateCluster(t.Context()))
	c, err := client.New(e.URL, client.Options{Attempts: 1000, BackoffMax: 500 * time.Millisecond, LongPoll: 5 * time.Second})
	require.NoError(t, err)
	r := e.Cloudctl(t.Context(), "-o", "json", "package", "create", suite.Workspace(t, "1.0.0"))
	require.Zero(t, r.Code, "%s", r)
	var p client.Package
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &p))
	in, err := c.Installations.Create(t.Context(), client.CreateInstallation{Name: "sleeper", Owner: "powercut", Package: p.Name + "@" + p.Version,
		Cluster: harness.Cluster, MemoryMiB: 128, DiskMiB: 32})
	require.NoError(t, err)
	op, err := c.Operations.Follow(t.Context(), in.Operation.ID, nil)
	require.NoError(t, err)
	require.Equal(t, "succeeded", op.State, "%+v", op)
	in, err = c.Installations.Get(t.Context(), in.ID)
	require.NoError(t, err)

	w := &watcher{instance: in.Instance.ID}
	watching, stop := context.WithCancel(t.Context())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		w.watch(watching)
	}()
	x := &run{
		env: e, disk: disk, instance: in.Instance.ID, random: rand.New(rand.NewPCG(seed, 0)), ended: map[string]int{},
		tenant: &tenant{env: e, client: c, name: in.Name, acknowledged: map[string]int64{}, uncertain: map[string]bool{}, removed: map[string]bool{}},
		usual:  map[string]time.Duration{"hibernating": 2 * time.Second, "stable": 2 * time.Second},
	}
	require.NoError(t, x.tenant.write(t.Context()))
	begin := time.Now()
	for n := range rounds {
		err := x.round(t.Context())
		t.Logf("round %d after %s: %s", n+1, time.Since(begin).Round(time.Second), x.said)
		require.NoError(t, err, "round %d", n+1)
	}
	require.NoError(t, x.tenant.become(t.Context(), "hibernating", 3))
	require.Empty(t, machines(x.instance), "a sleeper has no machine")
	require.NoError(t, x.tenant.verify(t.Context()), "a visit wakes it once more")
	require.NoError(t, x.tenant.become(t.Context(), "stable", 3))
	require.Len(t, machines(x.instance), 1)
	stop()
	<-watched
	x.report(w, time.Since(begin))
	require.Empty(t, w.twice, "two machines of one installation")
	require.Equal(t, 1, w.most, "the watcher sees machines")
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// run is what is done again and again, and what has been counted.
type run struct {
	env      *harness.Environment
	disk     *lossy.Disk
	tenant   *tenant
	instance string
	random   *rand.Rand
	// usual is how long it took last to become so, undisturbed.
	usual map[string]time.Duration
	said  string

	ended                  map[string]int
	during, resumed, boots int
	slowest                time.Duration
}

// victims are what is ended, power as often as any other twice.
var victims = []string{"power", "power", "qemu", "provisioner", "postgres"}

// round asks for a change, ends something at a random moment, and sees that what
// was promised is there and what was asked for is so.
func (x *run) round(ctx context.Context) error {
	before, err := x.tenant.state(ctx)
	if err != nil {
		return err
	}
	want := "hibernating"
	if before.State == want {
		want = "stable"
	}
	var program time.Time
	if want == "hibernating" {
		if program, err = x.tenant.booted(ctx); err != nil {
			return err
		}
	}
	victim, busy := victims[x.random.IntN(len(victims))], x.random.IntN(2) == 0
	after := time.Duration(x.random.Int64N(int64(x.usual[want]) * 5 / 4))
	x.said = fmt.Sprintf("from %s to %s, busy %t, %s ended after %s", before.State, want, busy, victim, after.Round(time.Millisecond))

	writing, enough := context.WithCancel(ctx)
	defer enough()
	written := make(chan struct{})
	go func() {
		defer close(written)
		if busy {
			x.tenant.writeUntil(writing)
		}
	}()
	asked := make(chan error, 1)
	begin := time.Now()
	go func() { asked <- x.tenant.ask(ctx, before.State, want) }()
	undisturbed := false
	select {
	case err := <-asked:
		asked <- err
		undisturbed = true
		x.usual[want] = max(time.Since(begin), 100*time.Millisecond)
	case <-time.After(after):
	}
	if err := x.end(ctx, victim); err != nil {
		return err
	}
	if !undisturbed {
		x.during++
	}
	again := time.Now()
	if err := <-asked; err != nil {
		return fmt.Errorf("asking for it: %w", err)
	}
	enough()
	<-written
	if err := x.settle(ctx, want, busy); err != nil {
		return err
	}
	x.slowest = max(x.slowest, time.Since(again))
	if now, err := x.tenant.state(ctx); err != nil || now.State == "hibernating" {
		return err
	}
	if err := x.tenant.verify(ctx); err != nil {
		return err
	}
	now, err := x.tenant.booted(ctx)
	if err != nil {
		return err
	}
	if now.Equal(program) {
		x.resumed++
	} else {
		x.boots++
	}
	if count, _ := x.tenant.count(); count > 500 {
		return x.tenant.thin(ctx)
	}
	return nil
}

// settle waits until what was asked for is so. Where somebody came meanwhile the
// installation may be awake although it was to sleep.
func (x *run) settle(ctx context.Context, want string, busy bool) error {
	if want == "hibernating" && busy {
		in, err := x.tenant.state(ctx)
		if err != nil {
			return err
		}
		if want = "stable"; in.State == "hibernating" {
			if err := x.tenant.verify(ctx); err != nil { // which wakes it
				return err
			}
		}
	}
	if err := x.tenant.become(ctx, want, 3); err != nil {
		return err
	}
	x.said += ", now " + want
	if n := len(machines(x.instance)); want == "hibernating" && n != 0 {
		return fmt.Errorf("it sleeps, and has %d machines", n)
	}
	return nil
}

func (x *run) report(w *watcher, took time.Duration) {
	sum := 0
	for _, name := range []string{"power", "qemu", "provisioner", "postgres"} {
		fmt.Printf("powercut.ended_%s %d kills\n", name, x.ended[name])
		sum += x.ended[name]
	}
	_, written := x.tenant.count()
	fmt.Printf("powercut.rounds %d count\npowercut.in_transition %d count\npowercut.acknowledged %d notes\npowercut.lost 0 notes\n", sum, x.during, written)
	fmt.Printf("powercut.resumed %d count\npowercut.booted %d count\npowercut.settled_max %.1f s\n", x.resumed, x.boots, x.slowest.Seconds())
	fmt.Printf("powercut.looks %d count\npowercut.machines_max %d count\npowercut.verifiers_seen %d looks\npowercut.double_machines %d count\npowercut.syncs %d count\npowercut.duration %.0f s\n", w.looks, w.most, w.verifiers, len(w.twice), x.disk.Syncs(), took.Seconds())
}
