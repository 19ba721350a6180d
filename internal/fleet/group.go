package fleet

import (
	"maps"
	"time"
)

// RevisionNumber numbers the revisions of a group's configuration, from 1.
type RevisionNumber int64

// Group is a set of installations that share a configuration and a release.
type Group struct {
	ID   GroupID `json:"id"`
	Name string  `json:"name"`
	// Labels are what a selector is compared with when an installation is
	// assigned to the emptiest group that matches.
	Labels map[string]string `json:"labels"`
	// Revision is what new members pin: the last one that a rollout has proven,
	// or the first. Latest is the newest there is.
	Revision  RevisionNumber `json:"revision"`
	Latest    RevisionNumber `json:"latest"`
	CreatedAt time.Time      `json:"created_at"`
	UpdatedAt time.Time      `json:"updated_at"`
	DeletedAt time.Time      `json:"deleted_at,omitzero"`
	// Version rises with every write; If-Match compares it.
	Version int64 `json:"version"`
}

// GroupConfig is what a revision of a group says. It never changes: a change
// makes a new revision. What a member sets itself wins over it.
type GroupConfig struct {
	PackageID PackageID `json:"package_id"`
	// PackageRef is the package's name@version when the revision was made, for people.
	PackageRef string `json:"package_ref"`
	// MemoryMiB and VCPUs are 0 where the group leaves them to its members.
	MemoryMiB int               `json:"memory_mib,omitempty"`
	VCPUs     int               `json:"vcpus,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	Idle      IdlePolicy        `json:"idle,omitzero"`
	Wake      WakeRules         `json:"wake,omitzero"`
	// Unverifiable says what a rollout does with a sleeping member whose new
	// release can't be tried on a clone.
	Unverifiable UnverifiablePolicy `json:"unverifiable"`
}

// UnverifiablePolicy says what becomes of sleepers that can't be verified.
type UnverifiablePolicy string

// The policies. Either way such a member is counted and shown as unverifiable.
const (
	// UnverifiableKeep: it keeps its release, and wakes on that. The default.
	UnverifiableKeep UnverifiablePolicy = "keep"
	// UnverifiableMove: it is moved all the same, and its next wake is the
	// first boot of the new release.
	UnverifiableMove UnverifiablePolicy = "move"
)

// GroupRevision is one immutable configuration of a group.
type GroupRevision struct {
	GroupID   GroupID        `json:"group_id"`
	Number    RevisionNumber `json:"number"`
	Config    GroupConfig    `json:"config"`
	CreatedAt time.Time      `json:"created_at"`
}

// Own is what an installation sets itself, and what therefore wins over its
// group. Nil and zero fields are left to the group.
type Own struct {
	PackageID PackageID         `json:"package_id,omitempty"`
	MemoryMiB int               `json:"memory_mib,omitempty"`
	VCPUs     int               `json:"vcpus,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	Idle      IdlePolicy        `json:"idle,omitzero"`
	Wake      WakeRules         `json:"wake,omitzero"`
}

// Defaults of an installation's size, where neither it nor its group sets one.
const (
	DefaultMemoryMiB = 128
	DefaultVCPUs     = 1
)

// Settle gives an installation what comes of a group's configuration and of
// what the installation sets itself. Secrets, labels and the disk are its own.
func (c GroupConfig) Settle(i *Installation) {
	i.PackageID, i.MemoryMiB, i.VCPUs = c.PackageID, c.MemoryMiB, c.VCPUs
	if i.Own.PackageID != "" {
		i.PackageID = i.Own.PackageID
	}
	if i.Own.MemoryMiB != 0 {
		i.MemoryMiB = i.Own.MemoryMiB
	}
	if i.Own.VCPUs != 0 {
		i.VCPUs = i.Own.VCPUs
	}
	if i.MemoryMiB == 0 {
		i.MemoryMiB = DefaultMemoryMiB
	}
	if i.VCPUs == 0 {
		i.VCPUs = DefaultVCPUs
	}
	i.Env = make(map[string]string, len(c.Env)+len(i.Own.Env))
	maps.Copy(i.Env, c.Env)
	maps.Copy(i.Env, i.Own.Env)
	i.Idle, i.Wake = i.Own.Idle.Over(c.Idle), i.Own.Wake.Over(c.Wake)
}
