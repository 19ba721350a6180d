package providertest

import (
	"testing"
	"time"

	"dormouse/internal/fleet"
)

// Harness is how the suite gets at one provider.
type Harness struct {
	// New returns the provider on fresh state, closed by t.Cleanup. It is called
	// once. The cluster must be usable when it returns.
	New func(t *testing.T, onChange func(fleet.InstanceID)) Provider
	// Cluster is the cluster in which everything is made.
	Cluster fleet.Cluster
	// Spec returns the spec of an instance with that name: new IDs, a host that
	// Check finds and, where the provider does not choose it, an address of its
	// own, an epoch of 1, no volume. Its manifest has at least one port,
	// RestartNever where End is set, and the paths that are to persist, if any.
	Spec func(t *testing.T, name string) fleet.InstanceSpec
	// Reopen stops the provider and returns another on the same state with the
	// same onChange, as after a restart of the provisioner; nil if that can't be.
	Reopen func(t *testing.T) Provider

	// Write stores data on the volume through the running instance, and Read
	// gets it back; both nil where nothing really runs.
	Write func(t *testing.T, status fleet.InstanceStatus, data string)
	Read  func(t *testing.T, status fleet.InstanceStatus) string
	// End makes the instance's program end by itself with exit code 3, under
	// RestartNever; nil where the test can't.
	End func(t *testing.T, p Provider, ref fleet.InstanceRef)
	// BadCluster is a cluster whose Check finds something missing; nil to leave that out.
	BadCluster *fleet.Cluster

	// Timeout bounds the wait for one change of power or health; 0 is 10 s,
	// 60 s where Slow.
	Timeout time.Duration
	// Prompt bounds how long a call may go on after its context has ended; 0 is 2 s.
	Prompt time.Duration
	// VolumeMiB is the size of the volumes made here; 0 is 64.
	VolumeMiB int
	// ClonesGiveWay says that a clone reads the volume itself, and is killed
	// (ReasonGaveWay) before anybody else uses it.
	ClonesGiveWay bool
	// Slow says that each boot takes seconds: fewer machines at a time.
	Slow bool
}

func (h Harness) timeout() time.Duration {
	switch {
	case h.Timeout > 0:
		return h.Timeout
	case h.Slow:
		return 60 * time.Second
	}
	return 10 * time.Second
}

func (h Harness) prompt() time.Duration {
	if h.Prompt > 0 {
		return h.Prompt
	}
	return 2 * time.Second
}

func (h Harness) volumeMiB() int {
	if h.VolumeMiB > 0 {
		return h.VolumeMiB
	}
	return 64
}
