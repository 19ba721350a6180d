package sim

import (
	"errors"
	"maps"
	"slices"

	"dormouse/internal/fleet"
)

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
			c.of[rec.Installation] = append(c.of[rec.Installation], rec.ID)
			delete(c.graves, graveKey{id: string(rec.ID)})
			c.countMade(&rec)
		} else {
			c.account(&in.record, -1)
		}
		if rec.Power != fleet.PowerOff && (in.ID == "" || in.Power == fleet.PowerOff) {
			c.countDouble(&rec)
		}
		in.become(rec)
		c.account(&in.record, +1)
	case ch.Volume != nil:
		v := *ch.Volume
		if _, exists := c.volumes[v.ID]; !exists {
			c.made.Volumes++
		}
		before := c.volumes[v.ID]
		c.disk[before.Host] -= int64(before.SizeMiB)
		c.disk[v.Host] += int64(v.SizeMiB)
		c.volumes[v.ID] = v
		delete(c.graves, graveKey{id: string(v.ID), volume: true})
	case ch.Grave != nil:
		c.bury(*ch.Grave)
	case ch.Cluster != nil:
		c.kept = ch.Cluster
	case ch.Made != nil:
		// What the frames before it made count anew is in it.
		c.made = *ch.Made
	}
}

// become gives the instance another record.
func (in *instance) become(rec record) {
	if in.behaviour == nil && rec.Behaviour != "" {
		b, err := ParseBehaviour(rec.Behaviour)
		if err != nil {
			// Another version wrote it; this one does not know what it meant.
			b = Behaviour{FailAfter: never, ExitAfter: never}
		}
		in.behaviour = &b
	}
	in.record = rec
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
			c.made.VolumesDeleted++
			delete(c.volumes, v.ID)
		}
	} else if in := c.instances[fleet.InstanceID(g.ID)]; in != nil {
		c.account(&in.record, -1)
		in.rest()
		in.notify()
		delete(c.instances, in.ID)
		c.made.InstancesDeleted++
		if rest := slices.DeleteFunc(c.of[in.Installation], func(id fleet.InstanceID) bool { return id == in.ID }); len(rest) > 0 {
			c.of[in.Installation] = rest
		} else {
			delete(c.of, in.Installation)
		}
	}
	if !g.Volume && g.Born {
		c.born[fleet.InstanceID(g.ID)] = struct{}{}
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
	state := make([][]byte, 0, len(c.instances)+len(c.volumes)+len(c.graves)+2)
	var errs []error
	add := func(ch change) {
		payload, err := ch.encode()
		state, errs = append(state, payload), append(errs, err)
	}
	if c.kept != nil {
		add(change{Cluster: c.kept})
	}
	for _, id := range c.sortedIDs() {
		if in := c.instances[id]; in != nil {
			add(change{Instance: &in.record})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.volumes)) {
		v := c.volumes[id]
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
	add(change{Made: &c.made})
	return state, errors.Join(errs...)
}
