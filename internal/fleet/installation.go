package fleet

import "time"

// Role is what an instance does for its installation.
type Role string

// The roles.
const (
	RoleApplication Role = "application"
	RoleDatabase    Role = "database"
)

// WhenFull says what becomes of a create that fits nowhere now.
type WhenFull string

// The answers to a full cluster.
const (
	// WhenFullWait: the create waits, with a reason that is shown, until there is room.
	WhenFullWait WhenFull = "wait"
	// WhenFullRefuse: the create is refused.
	WhenFullRefuse WhenFull = "refuse"
)

// Installation is one tenant's workspace.
type Installation struct {
	ID    InstallationID `json:"id"`
	Owner string         `json:"owner"`
	// Name is a DNS label, unique among the installations that are not deleted.
	Name        string    `json:"name"`
	ClusterID   ClusterID `json:"cluster_id"`
	State       State     `json:"state"`
	StateReason Reason    `json:"state_reason"`
	StateDetail string    `json:"state_detail"`
	// Generation rises with every accepted change of what is desired below.
	Generation int64 `json:"generation"`
	// PackageID is the desired release.
	PackageID PackageID         `json:"package_id"`
	MemoryMiB int               `json:"memory_mib"`
	DiskMiB   int               `json:"disk_mib"`
	VCPUs     int               `json:"vcpus"`
	Env       map[string]string `json:"env"`
	// Secrets are sealed values by name; opened only to configure a guest.
	Secrets  map[string]string `json:"secrets"`
	Labels   map[string]string `json:"labels"`
	WhenFull WhenFull          `json:"when_full"`
	// DNSNames are the names besides NAME.DOMAIN under which it is reached, in
	// lower case, sorted; no other installation that is not deleted has one of them.
	DNSNames []string `json:"dns_names,omitempty"`
	// Idle says when it is put to sleep without anybody asking, and Wake who does
	// not wake it, as comes of the group's and its own.
	Idle IdlePolicy `json:"idle,omitzero"`
	Wake WakeRules  `json:"wake,omitzero"`
	// GroupID and GroupRevision are its group and the revision that it pins; Own
	// is what it sets itself, which wins. Package, size and Env above are what
	// comes of both.
	GroupID       GroupID        `json:"group_id,omitempty"`
	GroupRevision RevisionNumber `json:"group_revision,omitempty"`
	Own           Own            `json:"own,omitzero"`
	// VerifiedPackageID, RunningPackageID and SavedPackageID are the releases
	// that passed their health check, run now, and sleep as saved memory.
	VerifiedPackageID PackageID `json:"verified_package_id,omitempty"`
	RunningPackageID  PackageID `json:"running_package_id,omitempty"`
	SavedPackageID    PackageID `json:"saved_package_id,omitempty"`
	// Hibernated tells that it is meant to sleep, also while an update of it runs.
	Hibernated bool `json:"hibernated"`
	// AwakeSince is when it last came into service, AsleepSince when it went to
	// sleep (zero while it is awake), and Wakes how often it was woken.
	AwakeSince  time.Time `json:"awake_since,omitzero"`
	AsleepSince time.Time `json:"asleep_since,omitzero"`
	Wakes       int64     `json:"wakes,omitempty"`
	// HeldHostID is the host on which capacity is held for it, and how much.
	HeldHostID    HostID `json:"held_host_id,omitempty"`
	HeldMemoryMiB int64  `json:"held_memory_mib"`
	HeldDiskMiB   int64  `json:"held_disk_mib"`
	// ReservedHostID is the other host on which a move holds capacity for it: where
	// it goes, and once it is there, where it comes back to if it must.
	ReservedHostID    HostID    `json:"reserved_host_id,omitempty"`
	ReservedMemoryMiB int64     `json:"reserved_memory_mib,omitempty"`
	ReservedDiskMiB   int64     `json:"reserved_disk_mib,omitempty"`
	CreatedAt         time.Time `json:"created_at"`
	UpdatedAt         time.Time `json:"updated_at"`
	DeletedAt         time.Time `json:"deleted_at,omitzero"`
	// Version rises with every write; If-Match compares it.
	Version int64 `json:"version"`
}

// Instance is one virtual machine of an installation.
type Instance struct {
	ID             InstanceID     `json:"id"`
	InstallationID InstallationID `json:"installation_id"`
	Role           Role           `json:"role"`
	ClusterID      ClusterID      `json:"cluster_id"`
	HostID         HostID         `json:"host_id"`
	ProviderRef    string         `json:"provider_ref"`
	// Spec is what it was made from; it never changes.
	Spec InstanceConfig `json:"spec"`
	// Serving: the one instance of its role that answers the tenant's users.
	Serving bool `json:"serving"`
	// Clone: a throw-away copy of a sleeper, on which a release is tried.
	Clone bool  `json:"clone"`
	Power Power `json:"power"`
	// Endpoints are where its ports are reached, as last observed.
	Endpoints []Endpoint `json:"endpoints"`
	Exit      *Exit      `json:"exit_record,omitempty"`
	Restarts  int        `json:"restarts"`
	// Saved is what is kept of its memory while it sleeps; nil where it is unknown, or awake.
	Saved     *Saved    `json:"saved,omitempty"`
	CreatedAt time.Time `json:"created_at,omitzero"`
	DeletedAt time.Time `json:"deleted_at,omitzero"`
}

// InstanceConfig pins everything that an instance is made from, so that a step
// run again, or a predecessor started again, makes the same machine.
type InstanceConfig struct {
	// Generation is the installation's generation that this instance brings about.
	Generation int64             `json:"generation"`
	PackageID  PackageID         `json:"package_id"`
	Image      ImageID           `json:"image"`
	Kernel     KernelKind        `json:"kernel"`
	MemoryMiB  int               `json:"memory_mib"`
	VCPUs      int               `json:"vcpus"`
	Manifest   Manifest          `json:"manifest"`
	Env        map[string]string `json:"env,omitempty"`
	// Secrets are sealed values by name.
	Secrets map[string]string `json:"secrets,omitempty"`
}

// Volume is the persistent disk of an installation. At most one instance is attached to it.
type Volume struct {
	ID                 VolumeID       `json:"id"`
	InstallationID     InstallationID `json:"installation_id"`
	Role               Role           `json:"role"`
	ClusterID          ClusterID      `json:"cluster_id"`
	HostID             HostID         `json:"host_id"`
	ProviderRef        string         `json:"provider_ref"`
	SizeMiB            int            `json:"size_mib"`
	AttachedInstanceID InstanceID     `json:"attached_instance_id,omitempty"`
	CreatedAt          time.Time      `json:"created_at,omitzero"`
	DeletedAt          time.Time      `json:"deleted_at,omitzero"`
}

// AddressLease is the address and MAC that an installation's instance has. It
// is sticky while the installation sleeps, and leased again as late as possible.
type AddressLease struct {
	ID     LeaseID `json:"id"`
	HostID HostID  `json:"host_id"`
	// Address is an IP address without its prefix length.
	Address        string         `json:"address"`
	MAC            string         `json:"mac"`
	InstallationID InstallationID `json:"installation_id,omitempty"`
	LeasedAt       time.Time      `json:"leased_at,omitzero"`
	ReleasedAt     time.Time      `json:"released_at,omitzero"`
}
