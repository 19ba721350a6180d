package fleet

import (
	"fmt"
	"time"
)

// Power is whether a machine runs.
type Power string

// The power states.
const (
	// PowerPlanned: known to the store; the provider may not have heard of it.
	PowerPlanned Power = "planned"
	PowerOn      Power = "on"
	PowerOff     Power = "off"
	// PowerPending: the provider is still at it.
	PowerPending Power = "pending"
)

// HealthState is what the last health check said.
type HealthState string

// The answers of a health check. Unknown is not a bad answer.
const (
	HealthUnknown   HealthState = "unknown"
	HealthHealthy   HealthState = "healthy"
	HealthUnhealthy HealthState = "unhealthy"
)

// InstanceSpec is what a provider needs to know to make an instance. The same
// ID always comes with the same spec, but for Epoch.
type InstanceSpec struct {
	ID             InstanceID
	InstallationID InstallationID
	// Name is the installation's name: a DNS label, for people.
	Name      string
	Owner     string
	Role      Role
	ClusterID ClusterID
	HostID    HostID
	// Epoch fences: a provider refuses a call with a lower epoch than it has
	// seen for this instance, also after its deletion, with KindFenced.
	Epoch     Epoch
	Kernel    KernelKind
	Image     ImageID
	MemoryMiB int
	VCPUs     int
	// Network is nil where the provider chooses the address.
	Network *Network
	// Volume is nil where the package persists nothing.
	Volume   *VolumeRef
	Manifest Manifest
	// Trace: a throw-away boot whose console tells every system call.
	Trace bool `json:",omitempty"`
	// Env is the complete environment: the package's, the installation's and
	// its opened secrets. It must not be logged.
	Env map[string]string
}

// Network is an instance's own address.
type Network struct {
	// Address is in CIDR form, with the prefix length of the host's network.
	Address string
	Gateway string
	MAC     string
}

// InstanceRef names an existing instance to its provider.
type InstanceRef struct {
	ID          InstanceID
	ClusterID   ClusterID
	HostID      HostID
	ProviderRef string
	Epoch       Epoch
}

// VolumeSpec is what a provider needs to know to make a volume, or to grow it.
type VolumeSpec struct {
	ID             VolumeID
	InstallationID InstallationID
	ClusterID      ClusterID
	HostID         HostID
	Epoch          Epoch
	SizeMiB        int
	// Kernel is what will read the volume, and so which file system it has; empty is KernelLinux.
	Kernel KernelKind
}

// VolumeRef names an existing volume to its provider.
type VolumeRef struct {
	ID          VolumeID
	ClusterID   ClusterID
	HostID      HostID
	ProviderRef string
	Epoch       Epoch
}

// VolumeStatus is what a provider knows of a volume.
type VolumeStatus struct {
	ID             VolumeID
	InstallationID InstallationID
	ProviderRef    string
	SizeMiB        int
	CreatedAt      time.Time
	// Overlay: what is written to it may be dropped.
	Overlay bool
}

// InstanceStatus is what a provider knows of an instance.
type InstanceStatus struct {
	ID             InstanceID
	InstallationID InstallationID
	ProviderRef    string
	Epoch          Epoch
	// Clone: a throw-away copy, which does not serve and does not use the installation's volume.
	Clone  bool
	Power  Power
	Health HealthState
	// Ready: its guest has been ready since this start, be it healthy or not.
	Ready bool
	// HealthDetail says why the health is not healthy, for people.
	HealthDetail string
	Endpoints    []Endpoint
	// Exit tells how the program or the guest ended; nil while it runs.
	Exit *Exit
	// Restarts counts how often the program was started again in this boot.
	Restarts  int
	CreatedAt time.Time
	// Again is when the provider thinks that a look is worth while; 0 is unknown.
	Again time.Duration
	// Asleep: it is off because it was suspended, or about to be, and a visit may wake it.
	Asleep bool
	// Saved is what is kept of its memory while it sleeps; nil of a machine that does not.
	Saved *Saved
	// Start is how the machine that runs came to run, and ColdReason why it was
	// booted although its memory had been saved; empty else.
	Start      Start
	ColdReason string
	// Boot counts the starts, by boot or by resuming; 0 where they are not counted.
	Boot int
	// Woken: a visit has woken it, of which whoever asks by epoch has not heard yet.
	Woken bool
}

// Endpoint is where one port of an instance is reached.
type Endpoint struct {
	Port     int      `json:"port"`
	Protocol Protocol `json:"protocol"`
	Name     string   `json:"name,omitempty"`
	// Address is host:port as the gateway dials it.
	Address string `json:"address"`
}

// Exit tells how a program ended.
type Exit struct {
	// Reason is ReasonProgramExited, ReasonCrashLoop, ReasonGuestPanic,
	// ReasonHostLost, or ReasonProvider where the machine could not be started;
	// empty for a clean stop that was asked for.
	Reason Reason `json:"reason,omitempty"`
	// Code is the exit code; -1 where it ended by a signal or is unknown.
	Code   int       `json:"code"`
	Signal string    `json:"signal,omitempty"`
	At     time.Time `json:"at,omitzero"`
	// LastLines are the last lines of its console, oldest first, at most 20.
	LastLines []string `json:"last_lines,omitempty"`
}

// String says in one line, for people, how a program ended.
func (x Exit) String() string {
	how := fmt.Sprintf("the program ended with exit code %d", x.Code)
	if x.Signal != "" {
		how = "the program was ended by signal " + x.Signal
	}
	switch x.Reason {
	case ReasonCrashLoop:
		how = "the program kept ending; the last time, " + how
	case ReasonGuestPanic:
		how = "the guest's kernel panicked"
	case ReasonHostLost:
		how = "the virtual machine went away with its host"
	}
	if n := len(x.LastLines); n > 0 {
		how += "; its last line was: " + x.LastLines[n-1]
	}
	return how
}

// ConsoleOptions says which part of a console log is wanted.
type ConsoleOptions struct {
	// TailLines is how many of the last lines to begin with; 0 is all that is kept.
	TailLines int
	// Follow goes on with what comes until the context ends or the instance is gone.
	Follow bool
}
