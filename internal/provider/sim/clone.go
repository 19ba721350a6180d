package sim

import (
	"context"

	"dormouse/internal/fleet"
)

// Clone makes a throw-away copy of a sleeping installation: an instance of spec
// that has no endpoints, since nobody reaches it, on a copy of spec.Volume. That is neither
// touched nor taken: its own instance may run meanwhile, and it may be grown or deleted.
// Clone is idempotent by spec.ID like Ensure, takes memory like it, and answers and
// fails like it; besides, with KindPermanent and ReasonUnverifiable where the
// cluster's settings say that there are no clones.
func (p *Provider) Clone(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	return p.make(ctx, CallClone, spec)
}

// cloneable refuses where there are no clones.
func (o *call) cloneable() error {
	if o.kind == CallClone && !o.config.Clones {
		return fleet.Failure(fleet.ReasonUnverifiable, "clone %s: cluster %s makes no clones (its setting clones=false): what sleeps there can't be verified", o.object, o.id)
	}
	return nil
}
