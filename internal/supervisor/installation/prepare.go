package installation

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

const (
	// successorKey is where an operation remembers the instance that is to be
	// the only one: the one that it plans, or one of several that are there.
	successorKey = "successor"
	// asleepKey is where an update remembers that it starts nothing.
	asleepKey = "asleep"
	// preparedKey says that what runs may have been touched since.
	preparedKey = "prepared"
)

// plannedID is the instance that an operation plans, where it plans one.
func plannedID(s *fleet.Snapshot) fleet.InstanceID {
	return fleet.InstanceID(fleet.DeriveID(string(s.Operation.ID), "instance"))
}

func asleep(s *fleet.Snapshot) bool { return s.Operation.Observed[asleepKey] != "" }

func prepared(s *fleet.Snapshot) bool { return s.Operation.Observed[preparedKey] != "" }

func successorID(s *fleet.Snapshot) fleet.InstanceID {
	return fleet.InstanceID(s.Operation.Observed[successorKey])
}

// target is the instance that is to serve when the operation ends: the planned
// successor, or else the newest one there is.
func target(s *fleet.Snapshot) *fleet.Instance {
	if i := s.Instance(successorID(s)); i != nil {
		return i
	}
	if t := s.Serving(fleet.RoleApplication); t != nil {
		return t
	}
	for n := len(s.Instances) - 1; n >= 0; n-- {
		if !s.Instances[n].Clone {
			return &s.Instances[n]
		}
	}
	return nil
}

// firstOn returns the first instance but one that is not known to be off.
func firstOn(s *fleet.Snapshot, but fleet.InstanceID) *fleet.Instance {
	for i := range s.Instances {
		if x := &s.Instances[i]; x.ID != but && x.Power != fleet.PowerOff {
			return x
		}
	}
	return nil
}

func firstOther(s *fleet.Snapshot, but fleet.InstanceID) *fleet.Instance {
	for i := range s.Instances {
		if s.Instances[i].ID != but {
			return &s.Instances[i]
		}
	}
	return nil
}

func (w *workflows) place(s *fleet.Snapshot) (Place, error) {
	if s.Cluster == nil {
		return Place{}, fleet.Failure(fleet.ReasonProvider, "the installation's cluster is gone")
	}
	p, ok := w.Places[s.Cluster.Provider]
	if !ok {
		return Place{}, fleet.Errorf(fleet.KindUnavailable, "this process has no provider %q: start one with --roles host", s.Cluster.Provider)
	}
	return p, nil
}

// prepare builds the image, chooses the host, asks for capacity and an address
// there, and plans the instance, so that its row is there before the machine.
func (w *workflows) prepare(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
	switch s.Cluster.State {
	case fleet.ClusterStable:
	case fleet.ClusterCreationRequested, fleet.ClusterCreationInProgress, fleet.ClusterCreationFailed:
		return fleet.Wait(5*time.Second, fleet.WaitCluster, fmt.Sprintf("cluster %s is %s", s.Cluster.Name, s.Cluster.State)), nil
	default:
		return fleet.Fail(fleet.ReasonProvider, fmt.Sprintf("cluster %s is %s", s.Cluster.Name, s.Cluster.State)), nil
	}
	place, err := w.place(s)
	if err != nil {
		return fleet.Outcome{}, err
	}
	image, err := place.Images.Ensure(ctx, *s.Package)
	if err != nil {
		return fleet.Outcome{}, err
	}
	inst := s.Installation
	if inst.Hibernated && s.Operation.Kind == fleet.OperationUpdate && firstOn(s, "") == nil {
		// The next wake starts what is desired now; nothing is started here. A wake
		// that failed after it started something is another case: that runs.
		c := fleet.Changes{End: fleet.StateHibernating, Observed: map[string]string{asleepKey: "true"}}
		if inst.HeldMemoryMiB > 0 {
			c.Hold = &fleet.Hold{HostID: inst.HeldHostID, DiskMiB: inst.HeldDiskMiB}
		}
		return fleet.Advance(c), nil
	}
	config := fleet.InstanceConfig{
		Generation: inst.Generation, PackageID: s.Package.ID, Image: image, Kernel: s.Package.Kernel, MemoryMiB: inst.MemoryMiB,
		VCPUs: inst.VCPUs, Manifest: s.Package.Manifest, Env: inst.Env, Secrets: inst.Secrets,
	}
	changes, ok := plan(s, config)
	if !ok {
		why := fmt.Sprintf("no host of cluster %s has %d MiB of memory and %d MiB of disk free", s.Cluster.Name, inst.MemoryMiB, inst.DiskMiB)
		if inst.WhenFull == fleet.WhenFullRefuse && s.Operation.Kind == fleet.OperationCreate {
			return fleet.Fail(fleet.ReasonCapacity, why), nil
		}
		return fleet.Wait(5*time.Second, fleet.WaitCapacity, why), nil
	}
	return fleet.Advance(changes), nil
}

// plan decides what instance, volume, hold and address the installation needs;
// false where no host fits.
func plan(s *fleet.Snapshot, config fleet.InstanceConfig) (fleet.Changes, bool) {
	inst := s.Installation
	hold := fleet.Hold{HostID: inst.HeldHostID, MemoryMiB: int64(inst.MemoryMiB)}
	c := fleet.Changes{Observed: map[string]string{preparedKey: "true"}}
	current := target(s)
	replace := current == nil || !sameConfig(current.Spec, config)
	if current != nil && replace && current.Power == fleet.PowerOn {
		// The predecessor must be able to come back.
		hold.MemoryMiB = max(hold.MemoryMiB, int64(current.Spec.MemoryMiB))
	}
	if len(config.Manifest.Persist) > 0 || s.Volume != nil {
		hold.DiskMiB = int64(inst.DiskMiB)
	}
	if s.Volume != nil {
		hold.HostID = s.Volume.HostID // data does not move
	}
	host := choose(s, hold)
	if host == nil {
		return c, false
	}
	hold.HostID = host.ID
	// An instance stays on the host that it was made on; on another there is another.
	replace = replace || current.HostID != host.ID
	if held := (fleet.Hold{HostID: inst.HeldHostID, MemoryMiB: inst.HeldMemoryMiB, DiskMiB: inst.HeldDiskMiB}); hold != held {
		c.Hold = &hold
	}
	if host.AddressPool != "" && (s.Lease == nil || s.Lease.HostID != host.ID) {
		c.Address = host.ID
	}
	if hold.DiskMiB > 0 && s.Volume == nil {
		c.Volume = &fleet.Volume{
			ID: fleet.VolumeID(fleet.DeriveID(string(inst.ID), "volume")), InstallationID: inst.ID, Role: fleet.RoleApplication,
			ClusterID: inst.ClusterID, HostID: host.ID,
		}
	}
	if !replace && firstOther(s, current.ID) != nil {
		// A rollback or a wake that failed left others: they go.
		c.Observed[successorKey] = string(current.ID)
	}
	if replace {
		id := plannedID(s)
		c.Observed[successorKey] = string(id)
		c.Instances = []fleet.Instance{{
			ID: id, InstallationID: inst.ID, Role: fleet.RoleApplication, ClusterID: inst.ClusterID, HostID: host.ID,
			Spec: config, Power: fleet.PowerPlanned,
		}}
	}
	return c, true
}

// sameConfig tells whether two configurations make the same machine.
func sameConfig(a, b fleet.InstanceConfig) bool {
	a.Generation, b.Generation = 0, 0
	for _, c := range []*fleet.InstanceConfig{&a, &b} {
		if len(c.Env) == 0 {
			c.Env = nil
		}
		if len(c.Secrets) == 0 {
			c.Secrets = nil
		}
	}
	return reflect.DeepEqual(a, b)
}

// choose returns the host that the hold names, or the one with the most free
// memory that fits; nil where there is none. The store decides in the end.
func choose(s *fleet.Snapshot, hold fleet.Hold) *fleet.Host {
	for i := range s.Hosts {
		h := &s.Hosts[i]
		if hold.HostID != "" && h.ID != hold.HostID {
			continue
		}
		memory, disk := hold.MemoryMiB, hold.DiskMiB
		if h.ID == s.Installation.HeldHostID {
			memory, disk = memory-s.Installation.HeldMemoryMiB, disk-s.Installation.HeldDiskMiB
		}
		if (h.State == fleet.HostUp || hold.HostID != "") && memory <= max(0, h.FreeMemoryMiB()) && disk <= max(0, h.FreeDiskMiB()) {
			return h
		}
	}
	return nil
}

// spec is what the provider is told of an instance, from its pinned configuration.
func (w *workflows) spec(s *fleet.Snapshot, i *fleet.Instance) (fleet.InstanceSpec, error) {
	env := maps.Clone(i.Spec.Manifest.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, i.Spec.Env)
	for name, sealed := range i.Spec.Secrets {
		value, err := w.Secrets.Open(sealed, fleet.SecretContext(s.Installation.ID, name))
		if err != nil {
			return fleet.InstanceSpec{}, fleet.Failure(fleet.ReasonProvider, "opening secret %s: %w", name, err)
		}
		env[name] = value
	}
	spec := fleet.InstanceSpec{
		ID: i.ID, InstallationID: i.InstallationID, Name: s.Installation.Name, Owner: s.Installation.Owner, Role: i.Role,
		ClusterID: i.ClusterID, HostID: i.HostID, Epoch: s.Operation.Epoch, Kernel: i.Spec.Kernel, Image: i.Spec.Image,
		MemoryMiB: i.Spec.MemoryMiB, VCPUs: i.Spec.VCPUs, Manifest: i.Spec.Manifest, Env: env,
	}
	if s.Volume != nil {
		spec.Volume = &fleet.VolumeRef{ID: s.Volume.ID, ClusterID: s.Volume.ClusterID, HostID: s.Volume.HostID,
			ProviderRef: s.Volume.ProviderRef, Epoch: s.Operation.Epoch}
	}
	if s.Lease != nil {
		host := s.Host(i.HostID)
		if host == nil {
			return spec, fleet.Errorf(fleet.KindUnavailable, "host %s is not known now", i.HostID)
		}
		network, err := networkOf(s.Lease, host.AddressPool)
		if err != nil {
			return spec, err
		}
		spec.Network = network
	}
	return spec, nil
}

// networkOf gives a lease the prefix length and the gateway of its pool: the first address.
func networkOf(l *fleet.AddressLease, pool string) (*fleet.Network, error) {
	gateway, err := gatewayOf(pool)
	if err != nil {
		return nil, fleet.Failure(fleet.ReasonProvider, "reading the host's address pool: %w", err)
	}
	_, bits, _ := strings.Cut(pool, "/")
	return &fleet.Network{Address: l.Address + "/" + bits, Gateway: gateway, MAC: l.MAC}, nil
}

func ref(s *fleet.Snapshot, i *fleet.Instance) fleet.InstanceRef {
	return fleet.InstanceRef{ID: i.ID, ClusterID: i.ClusterID, HostID: i.HostID, ProviderRef: i.ProviderRef, Epoch: s.Operation.Epoch}
}
