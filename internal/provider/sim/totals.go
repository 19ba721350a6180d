package sim

import (
	"maps"
	"slices"
	"time"

	"dormouse/internal/fleet"
)

// Totals is what the ledger counts, over all clusters.
type Totals struct {
	// Since is when this process began to count calls; Calls, ByCall, Effects,
	// Faults and Errors are of that time. Attempted calls count, also those that
	// were refused; calls whose context had ended before, or about clusters that are not
	// known, do not.
	Since   time.Time                  `json:"since"`
	Calls   uint64                     `json:"calls"`
	ByCall  map[Call]CallTotals        `json:"by_call"`
	Effects map[Effect]uint64          `json:"effects"`
	Faults  map[Fault]uint64           `json:"faults"`
	Errors  map[fleet.ErrorKind]uint64 `json:"errors"`
	// Made is of all time: it is kept with the state.
	Made
	Present Present `json:"present"`
}

// CallTotals is what is counted of one call.
type CallTotals struct {
	Calls   uint64                     `json:"calls"`
	Effects map[Effect]uint64          `json:"effects,omitempty"`
	Faults  map[Fault]uint64           `json:"faults,omitempty"`
	Errors  map[fleet.ErrorKind]uint64 `json:"errors,omitempty"`
}

// Made counts what was made and unmade.
type Made struct {
	Instances        uint64 `json:"instances_created"`
	Clones           uint64 `json:"clones_created"`
	InstancesDeleted uint64 `json:"instances_deleted"` // clones included
	Volumes          uint64 `json:"volumes_created"`
	VolumesDeleted   uint64 `json:"volumes_deleted"`
	// Recreated counts creations under the ID of an instance that had been there
	// before, as long as that is remembered: by this process for ever, and across a
	// restart for as long as the tombstone is kept. RecreatedIDs has the first of them.
	Recreated    uint64             `json:"duplicates_recreated"`
	RecreatedIDs []fleet.InstanceID `json:"duplicates_recreated_ids,omitempty"`
	// Doubles counts how often an instance went on, or began to, while another one of
	// the same installation and role was not off; clones are left out. DoubleIDs
	// has the first of those that came second.
	Doubles   uint64             `json:"duplicates_on_at_once"`
	DoubleIDs []fleet.InstanceID `json:"duplicates_on_at_once_ids,omitempty"`
}

// Duplicates is how often there was one too many.
func (m Made) Duplicates() uint64 { return m.Recreated + m.Doubles }

// Present counts what is there now.
type Present struct {
	Clusters  int `json:"clusters"`
	Instances int `json:"instances"` // clones left out
	On        int `json:"on"`        // those of them that are not off
	Clones    int `json:"clones"`
	Volumes   int `json:"volumes"`
}

// examples is how many IDs Made lists of each kind.
const examples = 20

// Totals sums the ledger up.
func (p *Provider) Totals() Totals {
	t := Totals{ByCall: map[Call]CallTotals{}, Effects: map[Effect]uint64{}, Faults: map[Fault]uint64{}, Errors: map[fleet.ErrorKind]uint64{}}
	p.ledger.mu.Lock()
	t.Since = p.ledger.since
	for k, n := range p.ledger.counts {
		c, ok := t.ByCall[k.call]
		if !ok {
			c = CallTotals{Effects: map[Effect]uint64{}, Faults: map[Fault]uint64{}, Errors: map[fleet.ErrorKind]uint64{}}
		}
		t.Calls += n
		c.Calls += n
		tally(t.Effects, c.Effects, k.effect, n)
		tally(t.Faults, c.Faults, k.fault, n)
		tally(t.Errors, c.Errors, k.kind, n)
		t.ByCall[k.call] = c
	}
	p.ledger.mu.Unlock()
	clusters, err := p.all()
	if err != nil {
		return t // closed: nothing is there any more
	}
	for _, c := range clusters {
		c.total(&t)
	}
	return t
}

func tally[K ~string](all, one map[K]uint64, key K, n uint64) {
	if key != "" {
		all[key] += n
		one[key] += n
	}
}

func (c *cluster) total(t *Totals) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t.Instances += c.made.Instances
	t.Clones += c.made.Clones
	t.InstancesDeleted += c.made.InstancesDeleted
	t.Volumes += c.made.Volumes
	t.VolumesDeleted += c.made.VolumesDeleted
	t.Recreated += c.made.Recreated
	t.RecreatedIDs = append(t.RecreatedIDs, c.made.RecreatedIDs...)
	t.Doubles += c.made.Doubles
	t.DoubleIDs = append(t.DoubleIDs, c.made.DoubleIDs...)
	t.Present.Clusters++
	t.Present.Volumes += len(c.volumes)
	for _, in := range c.instances {
		switch {
		case in.Clone:
			t.Present.Clones++
			continue
		case in.Power != fleet.PowerOff:
			t.Present.On++
		}
		t.Present.Instances++
	}
}

// countMade counts an instance that comes into being.
func (c *cluster) countMade(rec *record) {
	if rec.Clone {
		c.made.Clones++
	} else {
		c.made.Instances++
	}
	if _, again := c.born[rec.ID]; again {
		c.made.Recreated++
		c.made.RecreatedIDs = example(c.made.RecreatedIDs, rec.ID)
	}
	c.born[rec.ID] = struct{}{}
}

// countDouble counts an instance that goes on beside another one.
func (c *cluster) countDouble(rec *record) {
	if rec.Clone {
		return
	}
	for _, id := range c.of[rec.Installation] {
		other := c.instances[id]
		if id == rec.ID || other.Clone || other.Role != rec.Role || other.Power == fleet.PowerOff {
			continue
		}
		c.made.Doubles++
		c.made.DoubleIDs = example(c.made.DoubleIDs, rec.ID)
		return
	}
}

func example(ids []fleet.InstanceID, id fleet.InstanceID) []fleet.InstanceID {
	if len(ids) < examples {
		ids = append(ids, id)
	}
	return ids
}

// Known is what ought to be there.
type Known struct {
	Instances []fleet.InstanceID `json:"instances"` // clones included
	Volumes   []fleet.VolumeID   `json:"volumes"`
}

// Leaks is what is there and ought not to be, and what is missing, in order of the IDs.
type Leaks struct {
	Instances        []fleet.InstanceID `json:"instances"` // clones left out
	Clones           []fleet.InstanceID `json:"clones"`
	Volumes          []fleet.VolumeID   `json:"volumes"`
	MissingInstances []fleet.InstanceID `json:"missing_instances"`
	MissingVolumes   []fleet.VolumeID   `json:"missing_volumes"`
}

// Leaks compares all clusters with what ought to be there, clusters that are
// not known included: what is only in those is missing. Error: KindUnavailable.
func (p *Provider) Leaks(known Known) (Leaks, error) {
	clusters, err := p.all()
	if err != nil {
		return Leaks{}, err
	}
	instances, volumes := setOf(known.Instances), setOf(known.Volumes)
	var l Leaks
	for _, c := range clusters {
		c.leaks(&l, instances, volumes)
	}
	l.MissingInstances, l.MissingVolumes = slices.Sorted(maps.Keys(instances)), slices.Sorted(maps.Keys(volumes))
	slices.Sort(l.Instances)
	slices.Sort(l.Clones)
	slices.Sort(l.Volumes)
	return l, nil
}

func setOf[K comparable](ids []K) map[K]struct{} {
	set := make(map[K]struct{}, len(ids))
	for _, id := range ids {
		set[id] = struct{}{}
	}
	return set
}

// leaks takes what is here from the sets, and adds what is not in them.
func (c *cluster) leaks(l *Leaks, instances map[fleet.InstanceID]struct{}, volumes map[fleet.VolumeID]struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, in := range c.instances {
		switch _, known := instances[id]; {
		case known:
			delete(instances, id)
		case in.Clone:
			l.Clones = append(l.Clones, id)
		default:
			l.Instances = append(l.Instances, id)
		}
	}
	for id := range c.volumes {
		if _, known := volumes[id]; known {
			delete(volumes, id)
		} else {
			l.Volumes = append(l.Volumes, id)
		}
	}
}
