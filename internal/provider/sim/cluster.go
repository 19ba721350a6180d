package sim

import (
	"errors"
	"fmt"
	"maps"
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
	// of lists the instances of an installation, in the order in which they were made.
	of map[fleet.InstallationID][]fleet.InstanceID
	// kept is what the journal says of the cluster itself; nil: nothing yet.
	kept *clusterRecord
	made Made
	// born are the instances that were ever made here, as far as is known.
	born map[fleet.InstanceID]struct{}
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
	name  string
	hosts map[fleet.HostID]bool
	// first is the host of instances that name none.
	first fleet.HostID
}

func newConfig(id fleet.ClusterID, name string, settings Settings) *config {
	c := &config{Settings: settings, name: name, hosts: make(map[fleet.HostID]bool, settings.Hosts), first: HostID(id, 0)}
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
	// behaviour is what the record's says; nil where it says nothing.
	behaviour *Behaviour
	// told is the health that OnChange has told of, or a call's answer.
	told fleet.HealthState
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

// openCluster reads a cluster's state. Its settings are those of the record, or
// where that is nil, those that were kept; without any, it is nil.
func openCluster(p *Provider, id fleet.ClusterID, rec *clusterRecord) (*cluster, error) {
	c := &cluster{
		p: p, id: id, sorted: true,
		instances: map[fleet.InstanceID]*instance{}, volumes: map[fleet.VolumeID]volumeRecord{}, of: map[fleet.InstallationID][]fleet.InstanceID{},
		users: map[fleet.VolumeID]fleet.InstanceID{}, memory: map[fleet.HostID]int64{}, disk: map[fleet.HostID]int64{},
		graves: map[graveKey]grave{}, attempts: map[attemptKey]uint32{}, born: map[fleet.InstanceID]struct{}{},
		compactAt: p.options.CompactBytes,
	}
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
	if rec == nil {
		if rec = c.kept; rec == nil {
			return nil, c.close()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.configure(*rec); err != nil {
		if c.journal != nil {
			err = errors.Join(err, c.journal.close())
		}
		return nil, err
	}
	c.pruneGraves()
	c.armAll()
	return c, nil
}

// configure gives the cluster other settings and keeps them.
func (c *cluster) configure(rec clusterRecord) error {
	settings, err := ParseSettings(rec.Settings)
	if err != nil {
		return err
	}
	if c.kept == nil || c.kept.Name != rec.Name || !maps.Equal(c.kept.Settings, rec.Settings) {
		rec.Settings = maps.Clone(rec.Settings)
		if err := c.keep(change{Cluster: &rec}); err != nil {
			return err
		}
	}
	c.settings.Store(newConfig(c.id, rec.Name, settings))
	return nil
}

// reconfigure is configure for a cluster in use.
func (c *cluster) reconfigure(rec clusterRecord) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.settings.Load().Faults[FaultBackground]
	if err := c.configure(rec); err != nil {
		return err
	}
	if before > 0 || c.settings.Load().Faults[FaultBackground] > 0 {
		c.armAll() // the failures come at other times now
	}
	return nil
}

// armAll arms all instances, in order of their IDs, so that timers that are due
// at once are so in the same order each time.
func (c *cluster) armAll() {
	for _, id := range c.sortedIDs() {
		if in := c.instances[id]; in != nil {
			c.arm(in)
		}
	}
}

// put makes a change: first in the journal, then here. After an error nothing has changed.
func (c *cluster) put(ch change) error {
	if err := c.keep(ch); err != nil {
		return err
	}
	if ch.Instance != nil {
		c.arm(c.instances[ch.Instance.ID])
	}
	c.compact()
	return nil
}

// keep is put without what follows from it.
func (c *cluster) keep(ch change) error {
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
	return nil
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
	for _, id := range c.sortedIDs() {
		if in := c.instances[id]; in != nil {
			in.rest()
			in.notify()
		}
	}
	if c.journal == nil {
		return nil
	}
	if err := c.journal.close(); err != nil {
		return fmt.Errorf("closing the simulator's log: %w", err)
	}
	return nil
}
