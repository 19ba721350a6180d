package installation

import (
	"context"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/engine"
)

// overlayKey says that an update has had an overlay laid over the volume.
const overlayKey = "overlay"

// beginOverlayStep keeps the data as they are before a release first starts on
// them, so that the way back gives them back too.
func (w *workflows) beginOverlayStep() engine.Step {
	return engine.Step{Name: "begin-overlay", Executor: w.host, Timeout: overlayTimeout, Run: w.overlayed(func(ctx context.Context, o VolumeOverlays, ref fleet.VolumeRef) error {
		// One that is left has what was written since, by whoever ran: it is kept.
		if err := o.CommitOverlay(ctx, ref); err != nil {
			return err
		}
		return o.BeginOverlay(ctx, ref)
	}, "true"), Skip: func(s *fleet.Snapshot) bool { return !w.overlays(s) || asleep(s) || !newRelease(s) }}
}

// commitOverlayStep makes what a release has written part of the data, once it is healthy.
func (w *workflows) commitOverlayStep() engine.Step {
	return engine.Step{Name: "commit-overlay", Executor: w.host, Timeout: overlayTimeout,
		Run: w.overlayed(func(ctx context.Context, o VolumeOverlays, ref fleet.VolumeRef) error {
			return o.CommitOverlay(ctx, ref)
		}, ""),
		Skip: noOverlay}
}

// dropOverlayStep gives the data back that were there before.
func (w *workflows) dropOverlayStep() engine.Step {
	return engine.Step{Name: "drop-overlay", Executor: w.host, Timeout: overlayTimeout,
		Run: w.overlayed(func(ctx context.Context, o VolumeOverlays, ref fleet.VolumeRef) error {
			err := o.DropOverlay(ctx, ref)
			switch {
			case fleet.ReasonOf(err) == fleet.ReasonCommitting:
				// A commit had begun, and there is no way back from that: the release
				// before goes on with what the new one has written.
				return o.CommitOverlay(ctx, ref)
			case fleet.KindOf(err) == fleet.KindConflict: // the machine that is gone has not quite let go
				return fleet.Errorf(fleet.KindUnavailable, "%w", err)
			}
			return err
		}, ""),
		Skip: noOverlay}
}

// overlayTimeout bounds one try: a commit copies all that was written.
const overlayTimeout = 10 * time.Minute

func noOverlay(s *fleet.Snapshot) bool {
	return s.Volume == nil || s.Operation.Observed[overlayKey] == ""
}

// overlays tells whether the volume is there and its provider can lay overlays over it.
func (w *workflows) overlays(s *fleet.Snapshot) bool {
	place, err := w.place(s)
	if err != nil || s.Volume == nil || s.Volume.ProviderRef == "" || s.Package == nil || s.Package.Kernel != fleet.KernelLinux {
		return false
	}
	_, ok := place.Provider.(VolumeOverlays)
	return ok
}

// newRelease tells whether the successor is of another package than what was there.
func newRelease(s *fleet.Snapshot) bool {
	next := s.Instance(successorID(s))
	if next == nil || next.Power != fleet.PowerPlanned {
		return false
	}
	old := firstOther(s, next.ID)
	return old != nil && old.Spec.PackageID != next.Spec.PackageID
}

// overlayed is a step that does something about the volume's overlay, and then
// remembers whether there is one.
func (w *workflows) overlayed(do func(context.Context, VolumeOverlays, fleet.VolumeRef) error, there string) engine.Run {
	return func(ctx context.Context, s *fleet.Snapshot) (fleet.Outcome, error) {
		place, err := w.place(s)
		if err != nil {
			return fleet.Outcome{}, err
		}
		c := fleet.Changes{Observed: map[string]string{overlayKey: there}}
		overlays, ok := place.Provider.(VolumeOverlays)
		if !ok {
			return fleet.Advance(c), nil
		}
		v := s.Volume
		err = do(ctx, overlays, fleet.VolumeRef{ID: v.ID, ClusterID: v.ClusterID, HostID: v.HostID, ProviderRef: v.ProviderRef, Epoch: s.Operation.Epoch})
		if there != "" && fleet.KindOf(err) == fleet.KindPermanent {
			// Not over this volume: then there is no way back to the data from before.
			c.Observed[overlayKey], err = "", nil
		}
		if err != nil {
			return fleet.Outcome{}, err
		}
		return fleet.Advance(c), nil
	}
}
