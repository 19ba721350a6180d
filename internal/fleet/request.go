package fleet

import "time"

// IdempotencyKey makes a repeated request give the first one's answer. The
// zero value is none.
type IdempotencyKey struct {
	Key string
	// RequestHash is a hex digest of method, path and body, keyed where a secret may be in it.
	RequestHash string
}

// NewInstallation is a validated request to create an installation.
type NewInstallation struct {
	Key         IdempotencyKey
	ID          InstallationID
	OperationID OperationID
	Name, Owner string
	PackageRef  string // name or name@version
	ClusterName string // may be empty where only one cluster allows installations
	MemoryMiB   int
	DiskMiB     int
	VCPUs       int
	Env, Labels map[string]string
	Secrets     map[string]string // sealed
	WhenFull    WhenFull
	// DNSNames are in lower case, none twice.
	DNSNames []string
	Idle     IdlePolicy
	Wake     WakeRules
	// Group is where it becomes a member; the zero value is nowhere. Package, size
	// and VCPUs may then be left (empty, 0) to the group.
	Group GroupMembership
}

// Change is a validated request on an installation.
type Change struct {
	Key         IdempotencyKey
	OperationID OperationID
	// Owner may be empty: any.
	Owner    string
	IDOrName string
	// IfMatch is the version that the caller saw; 0 is any.
	IfMatch int64
	// Kind is what is asked for; empty is a retry of whatever failed.
	Kind OperationKind
	// Class is what the operation runs as, and Observed what it has observed from
	// its beginning on, where it is a new one.
	Class    Class
	Observed map[string]string
	// The rest is for OperationUpdate: nil stays as it is; a nil value in a map removes the key.
	PackageRef                *string
	MemoryMiB, DiskMiB, VCPUs *int
	Env, Labels, Secrets      map[string]*string
	// DNSNames replaces them all.
	DNSNames *[]string
	Idle     *IdleChange
	Wake     *WakeChange
	// FromGroup names what the installation no longer sets itself, so that its
	// group decides again: "package", "memory_mib", "vcpus".
	FromGroup []string
	// Group changes the membership; nil leaves it.
	Group *GroupMembership
}

// NewCluster is a validated request to create a cluster.
type NewCluster struct {
	Key         IdempotencyKey
	ID          ClusterID
	OperationID OperationID
	Name        string
	Provider    ProviderKind
	Settings    map[string]string
}

// CheckCluster is a validated request to check a cluster again.
type CheckCluster struct {
	Key         IdempotencyKey
	OperationID OperationID
	IDOrName    string
	// Settings are those that change; an empty value takes one away.
	Settings map[string]string
}

// Accepted is an accepted request.
type Accepted struct {
	Installation InstallationView
	Operation    Operation
	// Replayed tells that the idempotency key was known: this is the first request's operation.
	Replayed bool
}

// InstallationView is an installation with what is shown beside it.
type InstallationView struct {
	Installation
	ClusterName string
	// PackageRef, RunningRef and VerifiedRef are name@version; empty where none.
	PackageRef, RunningRef, VerifiedRef string
	// Ports are those of the desired package.
	Ports []Port
	// Instance serves, or served last; nil before there is one. Its Spec holds
	// only what is shown: generation, image and memory.
	Instance *Instance
	HostName string
	// Operation is the active one, or else the last.
	Operation *Operation
	// Queued are the kinds of the operations that follow, in order.
	Queued []OperationKind
	// GroupName is its group's; empty where it is in none.
	GroupName string
	// GatewayPorts are the gateway's ports that lead to ports of it; Address is empty.
	GatewayPorts []RoutePort
	// LastActiveAt is when somebody last came; zero where nobody has.
	LastActiveAt time.Time
}

// InstanceView is an instance with what is shown beside it.
type InstanceView struct {
	Instance
	InstallationName, Owner string
	ClusterName, HostName   string
	// Address and MAC are leased to the installation on the instance's host; empty
	// where the provider chooses them.
	Address, MAC string
}

// InstanceQuery asks for a page of instances that are not deleted, in order of ID.
type InstanceQuery struct {
	Page
	// Installation and Cluster are an ID or a name; empty is all.
	Installation, Cluster string
}

// ClusterView is a cluster with what is shown beside it.
type ClusterView struct {
	Cluster
	Hosts     []Host
	Operation *Operation
	Replayed  bool
}

// Page asks for items after a cursor (an ID), at most Limit.
type Page struct {
	After string
	Limit int
}

// InstallationQuery asks for a page of installations in order of ID.
type InstallationQuery struct {
	Page
	Owner   string
	Cluster string // name
	State   State
	Group   string // name
	Labels  map[string]string
}

// OperationQuery asks for a page of operations, newest first.
type OperationQuery struct {
	// Before is the ID before which to go on; empty is the newest.
	Before   string
	Limit    int
	Resource string // installation or cluster ID or name; empty is all
	State    OperationState
}

// SecretContext is the context under which an installation's secret is sealed:
// a sealed value that is moved to another installation, or to another name,
// does not open.
func SecretContext(id InstallationID, name string) string { return string(id) + "/" + name }
