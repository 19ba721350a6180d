package simulate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"dormouse/internal/fleet"
)

// clients send requests until the simulation has had enough.
type clients struct {
	wg      sync.WaitGroup
	mu      sync.Mutex
	closing bool
	over    bool
	running int
}

const clientCount = 16

// traffic are the kinds of request besides creates. Other kinds of resource add their rows.
var traffic = []struct {
	weight int
	send   func(*client, string)
}{
	{38, (*client).patch}, {8, (*client).upgrade}, {14, (*client).sleepOrWake}, {8, (*client).restart}, {4, (*client).remove}, {6, (*client).retry}, {6, (*client).repeat},
	{2, (*client).host},
	{1, (*client).rollOut}, {1, (*client).control},
}

// client is one sender of requests; what it draws is its own.
type client struct {
	s       *simulation
	n       int
	rng     *rand.Rand
	counter int
	// sent are requests that were accepted, to be repeated.
	sent []func()
	// keys are the environment's keys that this client has set, by installation.
	keys map[string][]string
}

func (s *simulation) startClients() {
	for n := range clientCount {
		c := &client{s: s, n: n, rng: rand.New(rand.NewPCG(s.seed, uint64(n)+1)), keys: map[string][]string{}}
		s.clients.running++
		s.clients.wg.Go(func() {
			defer func() {
				s.clients.mu.Lock()
				s.clients.running--
				s.clients.mu.Unlock()
			}()
			c.run()
		})
	}
}

func (c *clients) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = true
}

func (c *clients) state() (closing bool, running int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing, c.running
}

// isOver tells that the simulation has ended, however far it has come.
func (s *simulation) isOver() bool {
	s.clients.mu.Lock()
	defer s.clients.mu.Unlock()
	return s.clients.over
}

func (c *client) run() {
	total := 0
	for _, t := range traffic {
		total += t.weight
	}
	for {
		time.Sleep(time.Duration(c.rng.ExpFloat64()*150)*time.Millisecond + time.Duration(c.rng.IntN(1e6)))
		if closing, _ := c.s.clients.state(); closing {
			return
		}
		living := c.s.world.living()
		if c.rng.IntN(c.s.size.installations) >= len(living) || c.rng.IntN(60) == 0 {
			c.create()
			continue
		}
		name, at := living[c.rng.IntN(len(living))], c.rng.IntN(total)
		for _, t := range traffic {
			if at -= t.weight; at < 0 {
				t.send(c, name)
				break
			}
		}
	}
}

func (c *client) key() fleet.IdempotencyKey {
	c.counter++
	key := fmt.Sprintf("c%d-%d", c.n, c.counter)
	return fleet.IdempotencyKey{Key: key, RequestHash: "hash of " + key}
}

// ask sends a request to one of the processes, and again, to any, as long as it
// is not known what became of it. The key tells that it is the same.
func (c *client) ask(what string, send func(context.Context, gatedStore) (fleet.Accepted, error)) (fleet.Accepted, error) {
	for {
		alive := c.s.alive()
		if c.s.isOver() {
			return fleet.Accepted{}, errDead
		}
		if len(alive) == 0 {
			time.Sleep(time.Second + time.Duration(c.rng.IntN(1e6)))
			continue
		}
		p := alive[c.rng.IntN(len(alive))]
		acc, err := send(within(context.Background(), place{step: "api/" + what}), gatedStore{p})
		switch {
		case err == nil:
			p.engine.Wake() // the API's process has an engine
			return acc, nil
		case fleet.KindOf(err) == fleet.KindInternal && !errors.Is(err, errDead):
			c.s.world.broken("NoInternalError", "%s: %v", what, err)
			return acc, err
		case fleet.KindOf(err) == fleet.KindUnavailable, errors.Is(err, errDead):
			time.Sleep(time.Duration(c.rng.IntN(3e9)))
			continue
		}
		return acc, err
	}
}

// change asks for something on an installation, and notes what was promised.
func (c *client) change(what, name string, in fleet.Change, note func(*tenant, int64)) {
	in.IDOrName, in.Key = name, c.key()
	var send func()
	send = func() {
		acc, err := c.ask(what, func(ctx context.Context, g gatedStore) (fleet.Accepted, error) {
			in.OperationID = fleet.OperationID(fleet.NewID())
			return g.ChangeInstallation(ctx, in)
		})
		if err == nil {
			c.s.world.acknowledged(in.Key, in.OperationID, acc, note)
			c.sent = append(c.sent, send)
		}
	}
	send()
}

func (c *client) create() {
	key := c.key()
	in := fleet.NewInstallation{Key: key, ID: fleet.InstallationID(fleet.NewID()), Name: "t-" + key.Key, Owner: "acme", ClusterName: clusterName,
		PackageRef: packageRefs[c.rng.IntN(len(packageRefs))], MemoryMiB: 64 << c.rng.IntN(3), DiskMiB: 100, VCPUs: 1, WhenFull: fleet.WhenFullWait,
		Env: map[string]string{"CREATED": key.Key}}
	if c.rng.IntN(3) == 0 {
		in.PackageRef, in.Group.Join = "", c.group()
	}
	var send func()
	send = func() {
		acc, err := c.ask("create", func(ctx context.Context, g gatedStore) (fleet.Accepted, error) {
			in.OperationID = fleet.OperationID(fleet.NewID())
			return g.CreateInstallation(ctx, in)
		})
		if err == nil {
			c.s.world.created(in, acc)
			c.sent = append(c.sent, send)
		}
	}
	send()
}

// patch sets a key of this client's own, or removes one.
func (c *client) patch(name string) {
	if mine := c.keys[name]; len(mine) > 3 && c.rng.IntN(4) == 0 {
		key := mine[c.rng.IntN(len(mine))]
		c.change("update", name, fleet.Change{Kind: fleet.OperationUpdate, Env: map[string]*string{key: nil}},
			func(t *tenant, _ int64) { delete(t.env, key) })
		return
	}
	c.counter++
	key, value := fmt.Sprintf("K%d_%d", c.n, c.counter), strconv.Itoa(c.counter)
	c.change("update", name, fleet.Change{Kind: fleet.OperationUpdate, Env: map[string]*string{key: &value}}, func(t *tenant, _ int64) {
		t.env[key] = value
		c.keys[name] = append(c.keys[name], key)
	})
}

// upgrade changes what everybody changes: the last one accepted wins.
func (c *client) upgrade(name string) {
	if c.rng.IntN(2) == 0 {
		memory := 64 << c.rng.IntN(4)
		c.change("update", name, fleet.Change{Kind: fleet.OperationUpdate, MemoryMiB: &memory},
			func(t *tenant, generation int64) { t.memory[generation] = strconv.Itoa(memory) })
		return
	}
	ref := packageRefs[c.rng.IntN(len(packageRefs))]
	c.change("update", name, fleet.Change{Kind: fleet.OperationUpdate, PackageRef: &ref},
		func(t *tenant, generation int64) { t.packages[generation] = ref })
}

func (c *client) sleepOrWake(name string) {
	kind := fleet.OperationHibernate
	if c.s.world.tenant(name).asleep {
		kind = fleet.OperationWake
	}
	c.change(string(kind), name, fleet.Change{Kind: kind}, func(t *tenant, _ int64) { t.asleep = kind == fleet.OperationHibernate })
}

func (c *client) restart(name string) {
	c.change("restart", name, fleet.Change{Kind: fleet.OperationRestart}, func(*tenant, int64) {})
}

func (c *client) remove(name string) {
	c.change("delete", name, fleet.Change{Kind: fleet.OperationDelete}, func(t *tenant, _ int64) { t.deleted = true })
}

func (c *client) retry(name string) {
	c.change("retry", name, fleet.Change{}, func(*tenant, int64) {})
}

// repeat sends an accepted request once more, as a client does that was not told.
func (c *client) repeat(string) {
	if len(c.sent) > 0 {
		c.sent[c.rng.IntN(len(c.sent))]()
	}
}
