package sim

import (
	"slices"

	"dormouse/internal/fleet"
)

// Machine is an instance as it is, whatever its provider's answers say.
type Machine struct {
	ID             fleet.InstanceID
	InstallationID fleet.InstallationID
	HostID         fleet.HostID
	Power          fleet.Power
	Epoch          fleet.Epoch
	// VolumeID is empty where it has none.
	VolumeID  fleet.VolumeID
	MemoryMiB int64
	// Clone: a throw-away copy, which does not serve.
	Clone bool
}

// Inventory returns everything that there is in a cluster, in order of the IDs.
// It is for tests that judge what was done: it takes no time, meets no fault, and
// is not in the ledger. A cluster that is not known has nothing.
func (p *Provider) Inventory(id fleet.ClusterID) ([]Machine, []fleet.VolumeStatus) {
	p.mu.RLock()
	c := p.clusters[id]
	p.mu.RUnlock()
	if c == nil {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	machines := make([]Machine, 0, len(c.instances))
	for _, id := range c.sortedIDs() {
		if in := c.instances[id]; in != nil {
			machines = append(machines, Machine{ID: in.ID, InstallationID: in.Installation, HostID: in.Host,
				Power: in.Power, Epoch: in.Epoch, VolumeID: in.Volume, MemoryMiB: in.MemoryMiB, Clone: in.Clone})
		}
	}
	volumes := make([]fleet.VolumeStatus, 0, len(c.volumes))
	for _, v := range c.volumes {
		volumes = append(volumes, v.status())
	}
	slices.SortFunc(volumes, func(a, b fleet.VolumeStatus) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return machines, volumes
}

// Lose takes an instance away as if its host had forgotten it: nobody is told,
// and its epoch stays known. Errors: KindNotFound, KindUnavailable.
func (p *Provider) Lose(cluster fleet.ClusterID, id fleet.InstanceID) error {
	p.mu.RLock()
	c := p.clusters[cluster]
	p.mu.RUnlock()
	if c == nil {
		return fleet.Errorf(fleet.KindNotFound, "there is no simulated cluster %s", cluster)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.instances[id]
	if in == nil || c.closed {
		return fleet.Errorf(fleet.KindNotFound, "there is no simulated instance %s", id)
	}
	return c.put(change{Grave: &grave{ID: string(id), Epoch: in.Epoch, At: stamp(p.clock)}})
}
