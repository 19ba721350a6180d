package client

import (
	"encoding/json"
	"time"
)

// Group is a set of installations that share a configuration and a release.
type Group struct {
	ID     string            `json:"id"`
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	// Revision is what new members pin: the last one that a rollout has proven, or
	// the first. LatestRevision is the newest; a rollout brings the members there.
	Revision       int64       `json:"revision"`
	Config         GroupConfig `json:"config"`
	LatestRevision int64       `json:"latest_revision"`
	LatestConfig   GroupConfig `json:"latest_config"`
	// Members is how many installations are in the group, and MembersByRevision
	// which revision they pin, in order of revision.
	Members           int               `json:"members"`
	MembersByRevision []RevisionMembers `json:"members_by_revision"`
	// Rollout is the one that is not finished, or else the last; absent where there was none.
	Rollout *RolloutSummary `json:"rollout,omitempty"`
	// Version is what If-Match compares, also given as the ETag.
	Version   int64     `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// GroupConfig is what a revision of a group says. What a member sets itself wins.
type GroupConfig struct {
	// Package is name@version.
	Package string `json:"package"`
	// MemoryMiB and VCPUs are absent where the group leaves them to its members.
	MemoryMiB int               `json:"memory_mib,omitempty"`
	VCPUs     int               `json:"vcpus,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	Idle      *IdlePolicy       `json:"idle,omitempty"`
	Wake      *WakeRules        `json:"wake,omitempty"`
	// Unverifiable says what a rollout does with a sleeping member whose new
	// release can't be tried on a clone: keep (it keeps its release) or move.
	Unverifiable string `json:"unverifiable"`
}

// RevisionMembers counts the members that pin one revision.
type RevisionMembers struct {
	Revision int64 `json:"revision"`
	Members  int   `json:"members"`
}

// GroupRevision is one immutable configuration of a group.
type GroupRevision struct {
	Revision  int64       `json:"revision"`
	Config    GroupConfig `json:"config"`
	CreatedAt time.Time   `json:"created_at"`
}

// CreateGroup is the body of POST /api/v1/groups.
type CreateGroup struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	// Package is name or name@version; the newest version where none is named.
	Package string `json:"package"`
	// MemoryMiB and VCPUs are left to the members if 0.
	MemoryMiB int               `json:"memory_mib,omitempty"`
	VCPUs     int               `json:"vcpus,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	Idle      *IdlePolicy       `json:"idle,omitempty"`
	Wake      *WakeRules        `json:"wake,omitempty"`
	// Unverifiable is keep (the default) or move.
	Unverifiable string `json:"unverifiable,omitempty"`
}

// UpdateGroup is the body of PATCH /api/v1/groups/{id}, a JSON merge patch
// (RFC 7386). Where it changes the configuration it makes a new revision, which
// no member has until a rollout brings it there.
type UpdateGroup struct {
	Labels  map[string]*string `json:"labels,omitempty"`
	Package *string            `json:"package,omitempty"`
	// MemoryMiB and VCPUs: 0 leaves them to the members.
	MemoryMiB    *int               `json:"memory_mib,omitempty"`
	VCPUs        *int               `json:"vcpus,omitempty"`
	Env          map[string]*string `json:"env,omitempty"`
	Idle         *UpdateIdlePolicy  `json:"idle,omitempty"`
	Wake         *UpdateWakeRules   `json:"wake,omitempty"`
	Unverifiable *string            `json:"unverifiable,omitempty"`
}

// Own is what an installation in a group sets itself, and what therefore wins
// over its group. What is absent is left to the group.
type Own struct {
	Package   string            `json:"package,omitempty"`
	MemoryMiB int               `json:"memory_mib,omitempty"`
	VCPUs     int               `json:"vcpus,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	Idle      *IdlePolicy       `json:"idle,omitempty"`
	Wake      *WakeRules        `json:"wake,omitempty"`
}

// GroupName names the group to join in a patch of an installation. The empty
// one leaves the group: it is encoded as null.
type GroupName string

// MarshalJSON implements json.Marshaler.
func (n GroupName) MarshalJSON() ([]byte, error) {
	if n == "" {
		return []byte("null"), nil
	}
	return json.Marshal(string(n))
}
