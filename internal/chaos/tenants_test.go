package chaos

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"dormouse/client"
)

const (
	tenantCount = 8
	// each is how many installations one tenant has, and common how many are everybody's.
	each, common = 5, 4
	owner        = "acme"
)

// wish is what an installation was promised to be.
type wish struct {
	deleted, asleep bool
	// env are its keys as acknowledged.
	env map[string]string
	// maybe are keys whose request was refused when an earlier attempt, of which
	// nothing is known, may have been on its way still: a process that was stopped
	// reads it late. unsure is that for sleep and deletion.
	maybe  map[string]bool
	unsure bool
	// keeps: everybody changes it, so that nobody deletes it.
	keeps bool
	// id and member are as they were answered.
	id     string
	member bool
}

// tenants send requests and remember what was acknowledged.
type tenants struct {
	run *run

	mu     sync.Mutex
	wishes map[string]*wish
	// revisions is how many each group must have.
	revisions map[string]int64
	requests  int
	rollouts  []string
}

func newTenants(r *run) *tenants {
	return &tenants{run: r, wishes: map[string]*wish{}, revisions: map[string]int64{}}
}

// tenant is one sender of requests, one at a time.
type tenant struct {
	*tenants
	n       int
	rng     *rand.Rand
	counter int
}

// work lets all of them send requests until during ends; what was begun is
// brought to an answer.
func (t *tenants) work(ctx, during context.Context) {
	first := t.newTenant(0)
	for n := range 2 {
		first.createGroup(ctx, groupName(n))
	}
	for n := range common {
		first.create(ctx, fmt.Sprintf("common-%d", n), true)
	}
	var all sync.WaitGroup
	for n := range tenantCount {
		one := t.newTenant(n + 1)
		all.Go(func() {
			for pause(during, time.Duration(one.rng.ExpFloat64()*float64(150*time.Millisecond))) {
				one.act(ctx)
			}
		})
	}
	all.Go(func() { t.newTenant(tenantCount+1).conduct(ctx, during) })
	all.Wait()
}

func (t *tenants) newTenant(n int) *tenant {
	return &tenant{tenants: t, n: n, rng: rand.New(rand.NewPCG(t.run.seed, uint64(n)+10))}
}

// outcome is what became of a request.
type outcome int

const (
	accepted outcome = iota
	refused
	// unknown: refused, but an attempt before that may still be on its way.
	unknown
)

// ask sends a request to any of the processes, and again under the same key until it has an answer.
func (t *tenant) ask(ctx context.Context, what string, send func(context.Context, *client.Client, client.RequestOption) error) outcome {
	t.counter++
	key := client.WithIdempotencyKey(fmt.Sprintf("chaos-%d-%d-%d", t.run.seed, t.n, t.counter))
	for no := refused; ; {
		err := send(ctx, t.run.clients[t.rng.IntN(processes)], key)
		switch {
		case err == nil:
			t.mu.Lock()
			t.requests++
			t.mu.Unlock()
			return accepted
		case ctx.Err() != nil:
			return unknown
		case client.IsUnreachable(err), client.IsUnavailable(err), client.IsThrottled(err):
			no = unknown
			pause(ctx, time.Duration(t.rng.IntN(300))*time.Millisecond)
			continue
		case client.KindOf(err) == client.KindInternal:
			t.run.broken("NoInternalError", "%s: %v", what, err)
		case client.IsNotFound(err):
			t.run.broken("NoChangeLost", "%s: %v", what, err)
		}
		return no
	}
}

// living returns the names of this tenant's installations and the common ones.
func (t *tenant) living() (names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	mine := fmt.Sprintf("t%d-", t.n)
	for name, w := range t.wishes {
		if !w.deleted && (w.keeps || len(name) > len(mine) && name[:len(mine)] == mine) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// act does one thing.
func (t *tenant) act(ctx context.Context) {
	names := t.living()
	if t.rng.IntN(each+common) >= len(names) || len(names) == 0 {
		t.create(ctx, fmt.Sprintf("t%d-%d", t.n, t.counter), false)
		return
	}
	name := names[t.rng.IntN(len(names))]
	t.mu.Lock()
	w := *t.wishes[name]
	t.mu.Unlock()
	switch draw := t.rng.IntN(100); {
	case draw < 45 || w.keeps:
		t.patch(ctx, name)
	case draw < 55:
		t.upgrade(ctx, name, w)
	case draw < 75:
		t.sleepOrWake(ctx, name, w.asleep)
	case draw < 85:
		t.verb(ctx, "restart "+name, name, (*client.Installations).Restart)
	case draw < 92:
		t.verb(ctx, "retry "+name, name, (*client.Installations).Retry)
	default:
		out := t.verb(ctx, "delete "+name, name, (*client.Installations).Delete)
		t.note(name, func(w *wish) { w.deleted, w.unsure = out == accepted, w.unsure || out == unknown })
	}
}

type verb = func(*client.Installations, context.Context, string, ...client.RequestOption) (client.Installation, error)

func (t *tenant) verb(ctx context.Context, what, name string, do verb) outcome {
	id := t.idOf(name)
	return t.ask(ctx, what, func(ctx context.Context, c *client.Client, key client.RequestOption) error {
		_, err := do(c.Installations, ctx, id, key)
		return err
	})
}

func (t *tenants) idOf(name string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wishes[name].id
}

func (t *tenants) note(name string, change func(*wish)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(t.wishes[name])
}

func (t *tenant) create(ctx context.Context, name string, keeps bool) {
	in := client.CreateInstallation{Name: name, Owner: owner, Cluster: clusterName, MemoryMiB: 64 << t.rng.IntN(3), DiskMiB: 100, VCPUs: 1,
		Env: map[string]string{"CREATED": name}}
	w := &wish{keeps: keeps, env: maps.Clone(in.Env), maybe: map[string]bool{}}
	if t.rng.IntN(2) == 0 {
		in.Group, w.member = groupName(t.rng.IntN(2)), true
	} else {
		in.Package = packageRefs[t.rng.IntN(len(packageRefs))]
	}
	out := t.ask(ctx, "create "+name, func(ctx context.Context, c *client.Client, key client.RequestOption) error {
		made, err := c.Installations.Create(ctx, in, key)
		w.id = made.ID
		return err
	})
	if out == accepted {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.wishes[name] = w
	}
}

// patch sets a key that nobody else sets.
func (t *tenant) patch(ctx context.Context, name string) {
	key, value := fmt.Sprintf("K%d_%d", t.n, t.counter), strconv.Itoa(t.counter)
	out := t.update(ctx, name, client.UpdateInstallation{Env: map[string]*string{key: &value}})
	t.note(name, func(w *wish) {
		switch out {
		case accepted:
			w.env[key] = value
		case unknown:
			w.maybe[key] = true
		}
	})
}

// upgrade changes the size, or the release where no group decides that.
func (t *tenant) upgrade(ctx context.Context, name string, w wish) {
	if memory := 64 << t.rng.IntN(4); w.member || t.rng.IntN(2) == 0 {
		t.update(ctx, name, client.UpdateInstallation{MemoryMiB: &memory})
		return
	}
	ref := packageRefs[t.rng.IntN(len(packageRefs))]
	t.update(ctx, name, client.UpdateInstallation{Package: &ref})
}

func (t *tenant) update(ctx context.Context, name string, in client.UpdateInstallation) outcome {
	id := t.idOf(name)
	return t.ask(ctx, "update "+name, func(ctx context.Context, c *client.Client, key client.RequestOption) error {
		_, err := c.Installations.Update(ctx, id, in, key)
		return err
	})
}

func (t *tenant) sleepOrWake(ctx context.Context, name string, asleep bool) {
	do := (*client.Installations).Hibernate
	if asleep {
		do = (*client.Installations).Wake
	}
	out := t.verb(ctx, "hibernate or wake "+name, name, do)
	t.note(name, func(w *wish) {
		switch out {
		case accepted:
			w.asleep, w.unsure = !asleep, false
		case unknown:
			w.unsure = true
		}
	})
}
