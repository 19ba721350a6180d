package installation

import (
	"context"
	"fmt"
	"slices"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
)

// repair acts on the findings that nothing holds back. One that fails does not
// stop the others.
//
// Doubles go first. Where one was found, the serving machine is not started
// before a later pass sees it alone: the other may still have the volume.
func (p *pass) repair(ctx context.Context) {
	double := map[fleet.InstallationID]bool{}
	for _, turn := range [][]FindingKind{{FindingDouble}, {FindingLost, FindingOff}, {FindingStray}, {FindingStrayVolume}} {
		for i := range p.r.Findings {
			f := &p.r.Findings[i]
			if !slices.Contains(turn, f.Kind) {
				continue
			}
			if f.Kind == FindingDouble {
				double[f.InstallationID] = true
			} else if double[f.InstallationID] && f.Kind != FindingStray && f.Action == ActionNone {
				f.Action = ActionWait
			}
			if f.Action != ActionNone {
				continue
			}
			if err := p.mend(ctx, f); err != nil {
				f.Err = err.Error()
			}
		}
	}
}

// mend acts on one finding, after another look at it; a panic of a provider
// fails this one only.
func (p *pass) mend(ctx context.Context, f *Finding) (err error) {
	defer contain(&err, p.log.WithField("finding", f.Kind))
	if err := ctx.Err(); err != nil {
		return err
	}
	switch f.Kind {
	case FindingLost, FindingOff:
		f.Action, err = p.bringBack(ctx, f)
	case FindingDouble:
		f.Action, err = p.stopDouble(ctx, f)
	case FindingStray:
		f.Action, err = p.reap(ctx, f)
	case FindingStrayVolume:
		f.Action, err = p.reapVolume(ctx, f)
	}
	return err
}

// bringBack asks the provider and the store once more about a machine that
// should be on, and settles what became of it.
func (p *pass) bringBack(ctx context.Context, f *Finding) (Action, error) {
	s, err := p.o.Store.InstancePlace(ctx, f.InstanceID)
	if fleet.KindOf(err) == fleet.KindNotFound || err == nil && !servesNow(s) {
		return ActionNone, nil
	}
	if err != nil {
		return ActionNone, err
	}
	var exit *fleet.Exit
	st, err := p.place.Provider.Observe(ctx, instanceRef(s.Instances[0]))
	switch {
	case fleet.KindOf(err) == fleet.KindNotFound:
	case err != nil:
		return ActionNone, fmt.Errorf("looking at instance %s: %w", f.InstanceID, err)
	case st.Power != fleet.PowerOff:
		// The list and the look differ, or it has come on meanwhile.
		f.Kind, f.Detail = FindingDrift, fmt.Sprintf("%s in the list, but it is %s", f.Detail, st.Power)
		return ActionNone, nil
	default:
		exit = st.Exit
	}
	return p.o.Endings.settle(ctx, s, exit)
}

// stopDouble powers a machine off that runs beside the one that serves: two of
// them on one volume would spoil it.
func (p *pass) stopDouble(ctx context.Context, f *Finding) (Action, error) {
	ref := fleet.InstanceRef{ID: f.InstanceID, ClusterID: p.cluster.ID, HostID: f.row.HostID, ProviderRef: f.status.ProviderRef}
	st, err := p.place.Provider.Observe(ctx, ref)
	if fleet.KindOf(err) == fleet.KindNotFound || err == nil && st.Power != fleet.PowerOn {
		return ActionNone, nil
	}
	if err == nil {
		if ref.Epoch, err = p.nextEpoch(ctx); err == nil {
			_, err = p.place.Provider.Power(ctx, ref, fleet.PowerOff)
		}
	}
	switch fleet.KindOf(err) {
	case "":
	case fleet.KindNotFound, fleet.KindFenced:
		return ActionNone, nil // somebody with a newer epoch is at it
	default:
		return ActionNone, fmt.Errorf("stopping instance %s: %w", f.InstanceID, err)
	}
	p.log.WithFields(f.fields()).Error("two machines of one installation were on: the one that does not serve is stopped")
	return ActionStopped, nil
}

// reap deletes a machine that no row knows of.
func (p *pass) reap(ctx context.Context, f *Finding) (Action, error) {
	epoch, err := p.nextEpoch(ctx)
	if err == nil {
		err = p.place.Provider.Delete(ctx, fleet.InstanceRef{ID: f.InstanceID, ClusterID: p.cluster.ID, ProviderRef: f.status.ProviderRef, Epoch: epoch})
	}
	switch fleet.KindOf(err) {
	case "":
	case fleet.KindNotFound, fleet.KindFenced:
		return ActionNone, nil
	default:
		return ActionNone, fmt.Errorf("deleting instance %s: %w", f.InstanceID, err)
	}
	p.log.WithFields(f.fields()).Warn("a machine that the database does not know of is deleted")
	return ActionDeleted, nil
}

// reapVolume deletes a volume that no row knows of, or whose row is deleted.
func (p *pass) reapVolume(ctx context.Context, f *Finding) (Action, error) {
	epoch, err := p.nextEpoch(ctx)
	if err == nil {
		err = p.place.Provider.(Volumes).DeleteVolume(ctx, fleet.VolumeRef{ID: f.VolumeID, ClusterID: p.cluster.ID,
			ProviderRef: f.volume.ProviderRef, Epoch: epoch})
	}
	switch fleet.KindOf(err) {
	case "":
	case fleet.KindNotFound, fleet.KindFenced:
		return ActionNone, nil
	default:
		return ActionNone, fmt.Errorf("deleting volume %s: %w", f.VolumeID, err)
	}
	p.log.WithFields(f.fields()).WithField("size_mib", f.volume.SizeMiB).Error("a volume that the database does not know of, or knows as deleted, is deleted with its data")
	return ActionDeleted, nil
}

func (f *Finding) fields() logrus.Fields {
	fields := logrus.Fields{"finding": f.Kind, "detail": f.Detail}
	for name, value := range map[string]string{
		"installation": f.InstallationName, "installation_id": string(f.InstallationID),
		"instance": string(f.InstanceID), "volume": string(f.VolumeID),
	} {
		if value != "" {
			fields[name] = value
		}
	}
	return fields
}

// say logs what the repairs have not said: the brake, what failed, a partial
// list, and each drift once.
func (p *pass) say() {
	r := p.r
	seen, strays := map[string]bool{}, map[string]bool{}
	for i := range r.Findings {
		f := &r.Findings[i]
		log := p.log.WithFields(f.fields())
		switch {
		case f.Err != "":
			log.WithField("error", f.Err).Warn("a repair did not succeed; the next pass tries again")
		case f.Kind == FindingDrift:
			seen[f.key()] = true
			if !p.memory.said[f.key()] {
				log.Warn("the provider and the database differ")
			}
		case f.Kind == FindingStray, f.Kind == FindingStrayVolume:
			strays[f.key()] = true
		}
	}
	p.memory.said = seen
	for key := range p.memory.firstSeen {
		if !strays[key] {
			delete(p.memory.firstSeen, key)
		}
	}
	if r.Brake != "" {
		p.log.WithFields(logrus.Fields{"broken": r.Broken, "expected": r.Expected, "listed": r.Listed}).Error("sweep held back: " + r.Brake)
	}
	if r.Partial != "" {
		p.log.WithField("detail", r.Partial).Warn("the provider's list is not whole: nothing is concluded from what is missing in it")
	}
	p.log.WithFields(logrus.Fields{"listed": r.Listed, "expected": r.Expected, "findings": len(r.Findings)}).Debug("swept")
}
