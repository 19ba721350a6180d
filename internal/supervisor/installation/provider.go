package installation

import (
	"context"

	"dormouse/internal/fleet"
)

// Provider makes instances true in one kind of place. Every call is idempotent
// and carries an epoch: a lower one than was seen for the instance is refused
// with fleet.KindFenced.
type Provider interface {
	// Ensure creates the instance if it is absent and powers it on.
	Ensure(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error)
	// Observe returns KindNotFound for an instance that does not exist.
	Observe(ctx context.Context, ref fleet.InstanceRef) (fleet.InstanceStatus, error)
	// Power starts or cleanly stops; PowerPending while it is at it.
	Power(ctx context.Context, ref fleet.InstanceRef, want fleet.Power) (fleet.InstanceStatus, error)
	// Delete leaves nothing; nil if there was nothing.
	Delete(ctx context.Context, ref fleet.InstanceRef) error
	// List pages through all instances of a cluster under our tags.
	List(ctx context.Context, cluster fleet.ClusterID, after string) (page []fleet.InstanceStatus, next string, err error)
}

// Volumes is what a provider with persistent disks can do besides.
type Volumes interface {
	// EnsureVolume creates the volume or grows it; it never shrinks one.
	EnsureVolume(ctx context.Context, spec fleet.VolumeSpec) (fleet.VolumeStatus, error)
	DeleteVolume(ctx context.Context, ref fleet.VolumeRef) error
	ListVolumes(ctx context.Context, cluster fleet.ClusterID) ([]fleet.VolumeStatus, error)
}

// VolumeMover is what a provider that can take data from host to host can do besides.
type VolumeMover interface {
	// MoveVolume takes a volume that no instance uses to another host of its
	// cluster. Until it returns, the volume may be on either; DeleteVolume removes it
	// from both. Idempotent; fenced and failing like EnsureVolume, and with
	// KindNotFound where there is no such volume.
	MoveVolume(ctx context.Context, ref fleet.VolumeRef, to fleet.HostID) (fleet.VolumeStatus, error)
}

// VolumeOverlays is what a provider that can lay overlays over volumes can do
// besides. All three are idempotent and fenced like EnsureVolume.
type VolumeOverlays interface {
	// BeginOverlay has what is written to the volume from now on kept apart from
	// what is there; refused with KindConflict while an instance is on it.
	BeginOverlay(ctx context.Context, ref fleet.VolumeRef) error
	// CommitOverlay makes that part of the volume, while an instance runs on it or
	// not, and DropOverlay takes it away, while none does; KindConflict with
	// ReasonCommitting once a commit has begun. Nothing without an overlay.
	CommitOverlay(ctx context.Context, ref fleet.VolumeRef) error
	DropOverlay(ctx context.Context, ref fleet.VolumeRef) error
}

// Cloner is what a provider that can make throw-away copies can do besides.
type Cloner interface {
	// Clone makes a throw-away copy of a sleeping installation: an instance of
	// spec on an isolated network without egress, on a copy-on-write of
	// spec.Volume, which is not touched. Idempotent by spec.ID like Ensure; Observe,
	// Power and Delete apply, and Delete removes the copy too.
	Clone(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error)
}

// Suspender is what a provider that lets machines sleep can do besides.
type Suspender interface {
	// Suspend puts a running instance to sleep: off, Asleep, with Saved. It returns
	// once it sleeps, or PowerPending while it is at it. The machine that runs is not ended before what was saved
	// has been read back; where that fails it runs on, and the error has
	// ReasonNotSaved. Until then the end of ctx calls it off, and the machine runs on.
	// An instance that sleeps already does so. Power and Delete end a sleep;
	// Power to on wakes, by the saved memory if it fits, else by a boot.
	// KindPermanent with ReasonCannotSleep says that this one can only be stopped.
	Suspend(ctx context.Context, ref fleet.InstanceRef, o fleet.SuspendOptions) (fleet.InstanceStatus, error)
	// EndSleep makes a sleeper an instance that is off: what was saved of it is
	// dropped, and no visit wakes it any more. Nothing where it is off already;
	// KindConflict with ReasonVisited where it runs, because a visit was quicker.
	EndSleep(ctx context.Context, ref fleet.InstanceRef) (fleet.InstanceStatus, error)
}

// Images builds images; one that exists costs nothing.
type Images interface {
	Ensure(ctx context.Context, pkg fleet.Package) (fleet.ImageID, error)
}

// Opener opens what was sealed under the same context (fleet.SecretContext).
type Opener interface {
	Open(sealed, context string) (string, error)
}

// Place is everything that the workflows need of one kind of provider.
type Place struct {
	Provider Provider
	Images   Images
	// Local: the steps run on the host on which the instance lies.
	Local bool
}
