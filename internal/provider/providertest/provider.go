package providertest

import (
	"context"
	"io"

	"dormouse/internal/fleet"
)

// Provider is what the supervisors ask of a provider. It repeats the callers'
// own interfaces, which no provider imports, so that all of them are held to
// the same words.
type Provider interface {
	// Ensure creates the instance if absent and powers it on. It is idempotent
	// by ID, and may answer PowerPending and signal later.
	Ensure(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error)
	// Observe tells what is known of an instance; KindNotFound if it is unknown.
	Observe(ctx context.Context, ref fleet.InstanceRef) (fleet.InstanceStatus, error)
	// Power switches to PowerOn, or to PowerOff by a clean stop. It may answer
	// PowerPending and signal later; the same target twice is harmless.
	Power(ctx context.Context, ref fleet.InstanceRef, target fleet.Power) (fleet.InstanceStatus, error)
	// Delete removes the instance, whatever its state. It is idempotent and
	// leaves a tombstone with the epoch.
	Delete(ctx context.Context, ref fleet.InstanceRef) error
	// List returns a page of the cluster's instances that follow after, and
	// where the next page begins; next is "" on the last one.
	List(ctx context.Context, cluster fleet.ClusterID, after string) (page []fleet.InstanceStatus, next string, err error)
	// Check looks whether the cluster can be used and finds its hosts.
	Check(ctx context.Context, cluster fleet.Cluster) (fleet.CheckReport, error)
}

// Volumes is the power to keep disks that outlive an instance.
type Volumes interface {
	// EnsureVolume creates the volume if absent, or grows it, which is refused
	// while in use. It never shrinks one.
	EnsureVolume(ctx context.Context, spec fleet.VolumeSpec) (fleet.VolumeStatus, error)
	// DeleteVolume removes the volume and its data; idempotent, refused while in use.
	DeleteVolume(ctx context.Context, ref fleet.VolumeRef) error
	// ListVolumes returns all volumes of the cluster.
	ListVolumes(ctx context.Context, cluster fleet.ClusterID) ([]fleet.VolumeStatus, error)
}

// VolumeMover is the power to take a disk from host to host.
type VolumeMover interface {
	// MoveVolume takes the volume to another host of its cluster; idempotent,
	// refused while in use.
	MoveVolume(ctx context.Context, ref fleet.VolumeRef, to fleet.HostID) (fleet.VolumeStatus, error)
}

// Consoles is the power to read what an instance wrote to its console.
type Consoles interface {
	// Console reads the console log; the caller closes the reader.
	Console(ctx context.Context, ref fleet.InstanceRef, options fleet.ConsoleOptions) (io.ReadCloser, error)
}

// Cloner is the power to make throw-away copies of what sleeps.
type Cloner interface {
	// Clone makes an instance of spec that nobody reaches, on a copy of spec.Volume,
	// which is neither touched nor taken. It is idempotent by spec.ID like Ensure;
	// Observe, Power and Delete apply, and Delete removes the copy too.
	Clone(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error)
}

// Suspender is the power to let machines sleep.
type Suspender interface {
	// Suspend puts a running instance to sleep and returns once it sleeps: off,
	// Asleep, with Saved. The end of ctx before that calls it off, and the machine
	// runs on. One that sleeps already does so; one that is off otherwise is KindConflict.
	// Power and Delete end a sleep, and Power to on or Ensure wakes.
	Suspend(ctx context.Context, ref fleet.InstanceRef, o fleet.SuspendOptions) (fleet.InstanceStatus, error)
}
