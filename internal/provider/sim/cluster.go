package sim

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dormouse/internal/fleet"
)

// cluster is the state of one cluster.
type cluster struct {
	p        *Provider
	id       fleet.ClusterID
	settings atomic.Pointer[config]

	mu        sync.Mutex
	closed    bool
	journal   *journal // nil: nothing is kept
	instances map[fleet.InstanceID]*instance
	volumes   map[fleet.VolumeID]volumeRecord
	// order lists the instances' IDs, sorted where sorted says so; those that
	// are gone may still be in it.
	order  []fleet.InstanceID
	sorted bool
	// users are the instances that are not off, by their volume.
	users map[fleet.VolumeID]fleet.InstanceID
	// memory and disk are what is used, in MiB.
	memory, disk map[fleet.HostID]int64
	graves       map[graveKey]grave
	// buried lists the graves from the oldest; some may be gone from graves.
	buried   []grave
	attempts map[attemptKey]uint32
	// compactAt is the size of the log in bytes at which to compact it.
	compactAt int64
}

// config is a cluster's settings and what follows from them.
type config struct {
	Settings
	hosts map[fleet.HostID]bool
	// first is the host of instances that name none.
	first fleet.HostID
}

func newConfig(id fleet.ClusterID, settings Settings) *config {
	c := &config{Settings: settings, hosts: make(map[fleet.HostID]bool, settings.Hosts), first: HostID(id, 0)}
	for n := range settings.Hosts {
		c.hosts[HostID(id, n)] = true
	}
	return c
}

type attemptKey struct {
	call   Call
	object string
}

// instance is a record and what belongs to this process.
type instance struct {
	record
	timer Timer
	// armed tells the current timer from one that could not be stopped in time.
	armed uint64
	// hidden is how many times Observe still says that it is not there.
	hidden    int
	served    bool
	endpoints []fleet.Endpoint
	stop      func()
	// changed is closed by the next change; nil while nobody waits for it.
	changed chan struct{}
}

// tombstoneLife is how long a tombstone is kept: far longer than a call can be on its way.
const tombstoneLife = time.Hour

func openCluster(p *Provider, id fleet.ClusterID, settings Settings) (*cluster, error) {
	c := &cluster{
		p: p, id: id, sorted: true,
		instances: map[fleet.InstanceID]*instance{}, volumes: map[fleet.VolumeID]volumeRecord{},
		users: map[fleet.VolumeID]fleet.InstanceID{}, memory: map[fleet.HostID]int64{}, disk: map[fleet.HostID]int64{},
		graves: map[graveKey]grave{}, attempts: map[attemptKey]uint32{},
		compactAt: p.options.CompactBytes,
	}
	c.settings.Store(newConfig(id, settings))
	if p.options.Dir != "" {
		j, err := openJournal(p.clusterDir(id), p.options.Sync, p.log.WithField("cluster", id), func(payload []byte) error {
			ch, err := decodeChange(payload)
			if err == nil {
				c.apply(ch)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		c.journal = j
		c.compactAt = max(c.compactAt, j.base)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pruneGraves()
	for _, in := range c.instances {
		c.arm(in)
	}
	return c, nil
}

// put makes a change: first in the journal, then here. After an error nothing has changed.
func (c *cluster) put(ch change) error {
	if c.journal != nil {
		payload, err := ch.encode()
		if err == nil {
			err = c.journal.append(payload)
		}
		if err != nil {
			return fleet.Errorf(fleet.KindUnavailable, "keeping the simulator's state: %w", err)
		}
	}
	c.apply(ch)
	if ch.Instance != nil {
		c.arm(c.instances[ch.Instance.ID])
	}
	c.compact()
	return nil
}

// apply makes a change in memory; it never fails, so that a replay can't either.
func (c *cluster) apply(ch change) {
	switch {
	case ch.Instance != nil:
		rec := *ch.Instance
		in := c.instances[rec.ID]
		if in == nil {
			in = &instance{}
			c.instances[rec.ID] = in
			if n := len(c.order); n > 0 && c.order[n-1] >= rec.ID {
				c.sorted = false
			}
			c.order = append(c.order, rec.ID)
			delete(c.graves, graveKey{id: string(rec.ID)})
		} else {
			c.account(&in.record, -1)
		}
		in.record = rec
		c.account(&in.record, +1)
	case ch.Volume != nil:
		v := *ch.Volume
		c.disk[v.Host] += int64(v.SizeMiB) - int64(c.volumes[v.ID].SizeMiB)
		c.volumes[v.ID] = v
		delete(c.graves, graveKey{id: string(v.ID), volume: true})
	case ch.Grave != nil:
		c.bury(*ch.Grave)
	}
}

// account counts what an instance that is not off uses.
func (c *cluster) account(r *record, sign int64) {
	if r.Power == fleet.PowerOff {
		return
	}
	c.memory[r.Host] += sign * r.MemoryMiB
	switch {
	case r.Volume == "":
	case sign > 0:
		c.users[r.Volume] = r.ID
	case c.users[r.Volume] == r.ID:
		delete(c.users, r.Volume)
	}
}

// bury removes what the tombstone is for, and keeps the tombstone.
func (c *cluster) bury(g grave) {
	if g.Volume {
		if v, ok := c.volumes[fleet.VolumeID(g.ID)]; ok {
			c.disk[v.Host] -= int64(v.SizeMiB)
			delete(c.volumes, v.ID)
		}
	} else if in := c.instances[fleet.InstanceID(g.ID)]; in != nil {
		c.account(&in.record, -1)
		in.rest()
		in.notify()
		delete(c.instances, in.ID)
	}
	c.graves[g.key()] = g
	c.buried = append(c.buried, g)
	c.pruneGraves()
}

// pruneGraves forgets tombstones that are too old to matter, and the attempts
// at objects that are gone without a trace.
func (c *cluster) pruneGraves() {
	old := c.p.clock.Now().Add(-tombstoneLife)
	n := 0
	for ; n < len(c.buried) && c.buried[n].At.Before(old); n++ {
		if key := c.buried[n].key(); c.graves[key].At.Equal(c.buried[n].At) {
			delete(c.graves, key)
		}
	}
	c.buried = c.buried[n:]
	const many = 1 << 16
	if n == 0 || len(c.attempts) < many {
		return
	}
	for key := range c.attempts {
		_, isInstance := c.instances[fleet.InstanceID(key.object)]
		_, isVolume := c.volumes[fleet.VolumeID(key.object)]
		if _, dead := c.grave(key.object); !isInstance && !isVolume && !dead && key.object != string(c.id) {
			delete(c.attempts, key)
		}
	}
}

func (c *cluster) grave(object string) (grave, bool) {
	if g, ok := c.graves[graveKey{id: object}]; ok {
		return g, true
	}
	g, ok := c.graves[graveKey{id: object, volume: true}]
	return g, ok
}

// compact replaces a log that has grown large. Where that fails, the log simply
// goes on, and it is tried again when it has grown once more.
func (c *cluster) compact() {
	if c.journal == nil || c.journal.size < c.compactAt {
		return
	}
	state, err := c.all()
	if err == nil {
		err = c.journal.compact(state)
	}
	c.compactAt = max(c.p.options.CompactBytes, c.journal.base, 2*c.journal.size)
	if err != nil {
		c.p.log.WithError(err).WithField("cluster", c.id).Warn("compacting the simulator's log: it grows on; free some disk space")
	}
}

// all returns the whole state as payloads.
func (c *cluster) all() ([][]byte, error) {
	state := make([][]byte, 0, len(c.instances)+len(c.volumes)+len(c.graves))
	var errs []error
	add := func(ch change) {
		payload, err := ch.encode()
		state, errs = append(state, payload), append(errs, err)
	}
	for _, in := range c.instances {
		add(change{Instance: &in.record})
	}
	for _, v := range c.volumes {
		add(change{Volume: &v})
	}
	// In their order, which pruning relies on.
	done := map[graveKey]bool{}
	for _, g := range c.buried {
		if kept, ok := c.graves[g.key()]; ok && kept.At.Equal(g.At) && !done[g.key()] {
			done[g.key()] = true
			add(change{Grave: &kept})
		}
	}
	return state, errors.Join(errs...)
}

// sortedIDs returns the IDs of the instances in order.
func (c *cluster) sortedIDs() []fleet.InstanceID {
	if !c.sorted || len(c.order) > 2*len(c.instances) {
		c.order = c.order[:0]
		for id := range c.instances {
			c.order = append(c.order, id)
		}
		slices.Sort(c.order)
		c.sorted = true
	}
	return c.order
}

// attempt counts a call on an object.
func (c *cluster) attempt(call Call, object string) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := attemptKey{call, object}
	c.attempts[key]++
	return c.attempts[key]
}

func (c *cluster) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, in := range c.instances {
		in.rest()
		in.notify()
	}
	if c.journal == nil {
		return nil
	}
	if err := c.journal.close(); err != nil {
		return fmt.Errorf("closing the simulator's log: %w", err)
	}
	return nil
}
