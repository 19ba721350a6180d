package chaos

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lib/pq"

	"dormouse/client"
	"dormouse/internal/fleet"
	"dormouse/internal/invariants"
	"dormouse/internal/pgtest"
	"dormouse/internal/provider/sim/remote"
	"dormouse/internal/store"
)

const (
	processes   = 3
	clusterName = "local"
	// lease is how long a worker has an operation that it says nothing about.
	lease = 6 * time.Second
)

// run is one run.
type run struct {
	t    *testing.T
	seed uint64
	dir  string
	bin  string
	// url is the database's, db a way to it past everything.
	url string
	db  *sql.DB

	simulator    *process
	provisioners []*process
	clients      []*client.Client
	sim          *remote.Client
	settings     map[string]string

	killer  *killer
	tenants *tenants
	// settled is how long it took after the faults until all had come to its end.
	settled time.Duration

	mu    sync.Mutex
	found []invariants.Violation
}

// broken records that something does not hold.
func (r *run) broken(invariant, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found = append(r.found, invariants.Violation{Invariant: invariant, Detail: fmt.Sprintf(format, args...)})
}

// logf adds a line to the run's own log, which is kept with the others.
func (r *run) logf(format string, args ...any) {
	file, err := os.OpenFile(filepath.Join(r.dir, "run.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer file.Close()
	_, _ = fmt.Fprintf(file, time.Now().UTC().Format("15:04:05.000 ")+format+"\n", args...)
}

func migrate(ctx context.Context, url string) error {
	_, _, err := store.Migrate(ctx, url)
	return err
}

// play lets one run happen for so long, and judges its end.
func (r *run) play(ctx context.Context, chaos time.Duration) error {
	rng := rand.New(rand.NewPCG(r.seed, 0))
	r.killer, r.tenants = &killer{run: r, rng: rand.New(rand.NewPCG(r.seed, 1))}, newTenants(r)
	defer r.end()
	if err := r.setUp(ctx, rng); err != nil {
		return err
	}
	r.logf("all is up")
	during, calm := context.WithTimeout(ctx, chaos)
	defer calm()
	var all sync.WaitGroup
	all.Go(func() { r.killer.work(during) })
	all.Go(func() { r.tenants.work(ctx, during) })
	<-during.Done()
	r.logf("the chaos ends")
	r.killer.calm()
	if err := r.endFaults(ctx); err != nil {
		return err
	}
	all.Wait()
	r.logf("all requests are answered")
	began := time.Now()
	if err := r.settle(ctx); err != nil {
		return err
	}
	r.settled = time.Since(began)
	return r.judge(ctx)
}

// setUp makes the database and the cluster, and starts all processes.
func (r *run) setUp(ctx context.Context, rng *rand.Rand) error {
	r.url = pgtest.NewMigrated(r.t, migrate)
	var err error
	if r.db, err = sql.Open("postgres", r.url); err != nil {
		return err
	}
	// The tests' Postgres may lose what it has acknowledged; this one is killed.
	if _, err := r.db.ExecContext(ctx, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = on', current_database()); END $$`); err != nil {
		return fmt.Errorf("making commits safe: %w", err)
	}
	socket := "unix:" + filepath.Join(r.dir, "sim.sock")
	r.simulator = &process{name: "simulator", bin: r.bin, log: filepath.Join(r.dir, "simulator.log"),
		args: []string{"simulator", "--data-dir", filepath.Join(r.dir, "simulator"), "--listen", socket}}
	if err := r.simulator.start(); err != nil {
		return err
	}
	if r.sim, err = remote.New(remote.Options{URL: socket}); err != nil {
		return err
	}
	for n := range processes {
		at, err := freeAddresses()
		if err != nil {
			return err
		}
		name := fmt.Sprintf("provisioner-%d", n)
		p := &process{name: name, bin: r.bin, log: filepath.Join(r.dir, name+".log"), args: []string{"server", "--database", r.url,
			"--data-dir", filepath.Join(r.dir, name), "--secret-key-file", filepath.Join(r.dir, "secret.key"), "--roles", "api,supervisor", "--listen", at[0], "--gateway-listen", at[1],
			"--simulator", socket, "--health-deadline", "20s", "--slots", "16"}}
		c, err := client.New("http://"+at[0], client.Options{Attempts: 1, Timeout: 3 * time.Second})
		if err != nil {
			return err
		}
		if err := p.start(); err != nil {
			return err
		}
		r.provisioners, r.clients = append(r.provisioners, p), append(r.clients, c)
	}
	return r.furnish(ctx, rng)
}

// packageRefs are what tenants run. web keeps data on a volume.
var packageRefs = []string{"web@1", "web@2", "plain@1"}

// furnish waits until the processes are ready, and gives them packages and a cluster.
func (r *run) furnish(ctx context.Context, rng *rand.Rand) error {
	for n, c := range r.clients {
		if err := until(ctx, time.Minute, func() (bool, error) { return c.Ready(ctx) == nil, nil }); err != nil {
			return fmt.Errorf("waiting until %s is ready: %w", r.provisioners[n].name, err)
		}
	}
	st, err := store.Open(ctx, store.Options{URL: r.url})
	if err != nil {
		return err
	}
	defer st.Close()
	for n, ref := range packageRefs {
		p := fleet.Package{Name: ref[:len(ref)-2], Version: ref[len(ref)-1:], Digest: string(rune('a' + n)), Kernel: fleet.KernelLinux,
			Manifest: fleet.Manifest{Program: "/app", Ports: []fleet.Port{{Number: 80, Protocol: fleet.ProtocolHTTP}}}}
		if p.Name == "web" {
			p.Manifest.Persist = []string{"/data"}
		}
		if _, err := st.CreatePackage(ctx, p); err != nil {
			return err
		}
	}
	r.settings = map[string]string{"hosts": "2", "memory_mib": "40000", "disk_mib": "200000", "seed": fmt.Sprint(rng.Int32()),
		"latency": "p50=30ms,p99=600ms", "boot_time": "200ms..1500ms", "stop_time": "20ms..400ms"}
	with := map[string]string{}
	for fault, most := range map[string]float64{"throttle": 0.02, "error_before": 0.03, "capacity": 0.01, "error_after": 0.03, "lost_answer": 0.03,
		"not_found_after_create": 0.05, "bad_end": 0.02, "partial_list": 0.2, "wrong_health": 0.01, "unknown_health": 0.02} {
		with["fault."+fault] = fmt.Sprintf("%.4f", most*r.share(fault))
	}
	for key, value := range r.settings {
		with[key] = value
	}
	c, err := r.clients[0].Clusters.Create(ctx, client.CreateCluster{Name: clusterName, Provider: "sim", Settings: with})
	if err != nil {
		return err
	}
	op, err := r.clients[0].Operations.Follow(ctx, c.Operation.ID, nil)
	if err == nil && op.State != "succeeded" {
		err = fmt.Errorf("the check of the cluster %s: %s", op.State, op.Error)
	}
	return err
}

// share is between 0 and 1, by the seed and the word.
func (r *run) share(word string) float64 {
	h := uint64(0)
	for _, c := range word {
		h = h*31 + uint64(c)
	}
	return rand.New(rand.NewPCG(r.seed, h)).Float64()
}

// endFaults takes the simulator's faults away.
func (r *run) endFaults(ctx context.Context) error {
	settings := pq.Array(keysAndValues(r.settings))
	id, err := r.ask(ctx)(`UPDATE cluster SET settings = jsonb_object($1::text[]) WHERE name = '`+clusterName+`' RETURNING id`, settings)
	if err == nil && len(id) != 1 {
		err = errors.New("there is no cluster any more")
	}
	if err != nil {
		return fmt.Errorf("ending the faults: %w", err)
	}
	return r.sim.Configure(ctx, fleet.Cluster{ID: fleet.ClusterID(id[0]), Name: clusterName, Provider: fleet.ProviderSim, Settings: r.settings})
}

func keysAndValues(m map[string]string) (all []string) {
	for k, v := range m {
		all = append(all, k, v)
	}
	return all
}

// ask asks the database, again where Postgres is just restarting.
func (r *run) ask(ctx context.Context) invariants.Ask {
	return func(query string, args ...any) (out []string, err error) {
		for range 20 {
			if out, err = r.once(ctx, query, args...); err == nil || ctx.Err() != nil {
				return out, err
			}
			pause(ctx, 250*time.Millisecond)
		}
		return nil, fmt.Errorf("%w: %s", err, query)
	}
}

func (r *run) once(ctx context.Context, query string, args ...any) ([]string, error) {
	rows, err := r.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return invariants.Texts(rows)
}

// end stops everything; what is still there then is a violation.
func (r *run) end() {
	all := r.provisioners
	if r.simulator != nil {
		all = append(all, r.simulator)
	}
	for _, p := range all {
		if err := p.stop(); err != nil {
			r.broken("EndsInOrder", "%v", err)
		}
	}
	for _, line := range leftOver(r.dir) {
		r.broken("NoProcessLeft", "%s", line)
	}
	if r.sim != nil {
		_ = r.sim.Close()
	}
	if r.db != nil {
		_ = r.db.Close()
	}
}

// freeAddresses returns two addresses on which nobody listens.
func freeAddresses() (at [2]string, err error) {
	for n := range at {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return at, err
		}
		defer l.Close()
		at[n] = l.Addr().String()
	}
	return at, nil
}

// until asks again and again until it is so; the error says that it has not come.
func until(ctx context.Context, within time.Duration, so func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		if is, err := so(); is || err != nil {
			return err
		}
		if !pause(ctx, 100*time.Millisecond) {
			return fmt.Errorf("it did not come within %v", within)
		}
	}
}

// pause waits; false where the context has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// keep says where a run's files stay.
func (r *run) keep() string {
	at := filepath.Join(os.TempDir(), fmt.Sprintf("dormouse-chaos-seed-%d", r.seed))
	_ = os.RemoveAll(at)
	if err := os.Rename(r.dir, at); err != nil {
		return err.Error()
	}
	return at
}
