package fleet

import "time"

// ProviderKind names an implementation of the provider interface.
type ProviderKind string

// The kinds of provider.
const (
	ProviderKVM ProviderKind = "kvm"
	ProviderSim ProviderKind = "sim"
)

// ClusterState is where a cluster is in its life.
type ClusterState string

// The states of a cluster.
const (
	ClusterCreationRequested  ClusterState = "creation-requested"
	ClusterCreationInProgress ClusterState = "creation-in-progress"
	// ClusterCreationFailed: the provider's own check found something missing; the check report says what.
	ClusterCreationFailed     ClusterState = "creation-failed"
	ClusterStable             ClusterState = "stable"
	ClusterDeletionRequested  ClusterState = "deletion-requested"
	ClusterDeletionInProgress ClusterState = "deletion-in-progress"
	ClusterDeletionFailed     ClusterState = "deletion-failed"
	ClusterDeleted            ClusterState = "deleted"
)

// ClusterTransition is one allowed change of a cluster's state.
type ClusterTransition struct{ From, To ClusterState }

// ClusterTransitions returns every allowed change of a cluster's state.
func ClusterTransitions() []ClusterTransition {
	return []ClusterTransition{
		{"", ClusterCreationRequested},
		{ClusterCreationRequested, ClusterCreationInProgress},
		{ClusterCreationRequested, ClusterStable},
		{ClusterCreationRequested, ClusterCreationFailed},
		{ClusterCreationInProgress, ClusterStable},
		{ClusterCreationInProgress, ClusterCreationFailed},
		{ClusterCreationFailed, ClusterCreationRequested},
		{ClusterCreationRequested, ClusterDeletionRequested},
		{ClusterCreationInProgress, ClusterDeletionRequested},
		{ClusterCreationFailed, ClusterDeletionRequested},
		{ClusterStable, ClusterDeletionRequested},
		{ClusterDeletionFailed, ClusterDeletionRequested},
		{ClusterDeletionRequested, ClusterDeletionInProgress},
		{ClusterDeletionRequested, ClusterDeleted},
		{ClusterDeletionRequested, ClusterDeletionFailed},
		{ClusterDeletionInProgress, ClusterDeleted},
		{ClusterDeletionInProgress, ClusterDeletionFailed},
	}
}

// Recheck returns what checks a cluster of this state again, and the state that the
// request puts it in: a stable one stays so, and one whose creation has failed is created
// again. False where no check is accepted.
func (s ClusterState) Recheck() (kind OperationKind, requested ClusterState, ok bool) {
	switch s {
	case ClusterStable:
		return OperationCheckCluster, s, true
	case ClusterCreationFailed:
		return OperationCreateCluster, ClusterCreationRequested, true
	}
	return "", "", false
}

// What an operation that checks a cluster again has observed from its beginning on.
const (
	// ObservedSettings are the settings to check it with, as JSON: the cluster takes
	// them on where it passes.
	ObservedSettings = "settings"
	// ObservedHost is one of its hosts, which may be the only one to see it.
	ObservedHost = "host"
)

// Cluster is a place to run: a pool of KVM hosts, a cloud's region, or the simulator.
type Cluster struct {
	ID          ClusterID    `json:"id"`
	Name        string       `json:"name"`
	Provider    ProviderKind `json:"provider"`
	State       ClusterState `json:"state"`
	StateReason Reason       `json:"state_reason"`
	StateDetail string       `json:"state_detail"`
	// Settings are the provider's own, as given with --set.
	Settings map[string]string `json:"settings"`
	// AllowInstallations tells whether new installations may be placed here.
	AllowInstallations bool        `json:"allow_installations"`
	Check              CheckReport `json:"check_report"`
	CreatedAt          time.Time   `json:"created_at"`
	UpdatedAt          time.Time   `json:"updated_at"`
	DeletedAt          time.Time   `json:"deleted_at,omitzero"`
}

// CheckReport is what a provider found when it looked at a cluster.
type CheckReport struct {
	// Items are the things looked at, in the order in which they were.
	Items []CheckItem `json:"items"`
	// Hosts are the machines found, with the capacity that installations may use.
	Hosts []Host `json:"hosts"`
}

// Missing returns the items that did not pass.
func (r CheckReport) Missing() []CheckItem {
	var missing []CheckItem
	for _, item := range r.Items {
		if !item.OK {
			missing = append(missing, item)
		}
	}
	return missing
}

// CheckItem is one need, whether it is met, and how to mend it.
type CheckItem struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	// Mend is the command or advice that meets the need; empty where OK.
	Mend string `json:"mend,omitempty"`
}

// HostState is where a host is in its life.
type HostState string

// The states of a host. Only one that is up takes what does not lie on it yet.
const (
	HostUp HostState = "up"
	// HostCordoned: what lies there stays; nothing is added.
	HostCordoned HostState = "cordoned"
	// HostDraining: cordoned, and what lies there is moved away.
	HostDraining HostState = "draining"
	// HostDown: the cluster's check finds it no more, and something lies there.
	HostDown HostState = "down"
)

// Host is a machine of a cluster. A provider whose machines are not ours to
// see has one host that stands for all.
type Host struct {
	ID        HostID    `json:"id"`
	ClusterID ClusterID `json:"cluster_id"`
	Name      string    `json:"name"`
	State     HostState `json:"state"`
	// MemoryMiB and DiskMiB are what installations may use in all; the Held ones
	// are promised already. Memory is never promised twice.
	MemoryMiB     int64 `json:"memory_mib"`
	DiskMiB       int64 `json:"disk_mib"`
	MemoryHeldMiB int64 `json:"memory_held_mib"`
	DiskHeldMiB   int64 `json:"disk_held_mib"`
	// AddressPool is the network in CIDR form from which addresses are leased to
	// instances; empty where the provider chooses addresses itself.
	AddressPool string `json:"address_pool"`
	// DrainOperationID is the last operation that drained it, and DrainAtOnce how
	// many installations that moves at a time.
	DrainOperationID OperationID `json:"drain_operation_id,omitempty"`
	DrainAtOnce      int         `json:"drain_at_once,omitempty"`
}

// FreeMemoryMiB is the memory that nobody has been promised.
func (h Host) FreeMemoryMiB() int64 { return h.MemoryMiB - h.MemoryHeldMiB }

// FreeDiskMiB is the disk that nobody has been promised.
func (h Host) FreeDiskMiB() int64 { return h.DiskMiB - h.DiskHeldMiB }
