package installation

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"dormouse/internal/fleet"
)

// at begins a finding about a row.
func at(kind FindingKind, row fleet.ExpectedInstance, format string, args ...any) Finding {
	return Finding{Kind: kind, InstallationID: row.InstallationID, InstallationName: row.InstallationName, InstanceID: row.ID,
		Detail: fmt.Sprintf(format, args...), Action: ActionNone, row: row}
}

func (p *pass) add(f Finding) { p.r.Findings = append(p.r.Findings, f) }

// resting tells whether a row may be judged: nobody is at work on it, and it has
// been left alone long enough for the list to have seen the same.
func (p *pass) resting(row fleet.ExpectedInstance) bool {
	return !row.OperationActive && row.Rested-p.took >= p.o.Settle
}

// wantedOn tells whether the instance should be on now.
func wantedOn(row fleet.ExpectedInstance) bool {
	return row.State == fleet.StateStable && row.Serving && row.Power == fleet.PowerOn
}

// here tells whether the list would show an instance on that host.
func (p *pass) here(host fleet.HostID) bool {
	return !p.place.Local || slices.Contains(p.o.Hosts, host)
}

// compare finds what differs between the rows and the list of machines.
func (p *pass) compare() {
	rows := make(map[fleet.InstanceID]fleet.ExpectedInstance, len(p.rows))
	serving := map[fleet.InstallationID]fleet.ExpectedInstance{}
	for _, row := range p.rows {
		rows[row.ID] = row
		if !p.here(row.HostID) {
			continue
		}
		if !wantedOn(row) || row.OperationActive {
			p.drift(row)
			continue
		}
		p.r.Expected++
		if !p.resting(row) {
			continue
		}
		serving[row.InstallationID] = row
		switch st, listed := p.listed[row.ID]; {
		case !listed && p.r.Partial == "":
			p.r.Broken++
			p.add(at(FindingLost, row, "the provider has no such machine"))
		case listed && st.Power == fleet.PowerOff:
			p.r.Broken++
			f := at(FindingOff, row, "the machine is off")
			if st.Exit != nil && st.Exit.Reason != "" {
				f.Detail = st.Exit.String()
			}
			p.add(f)
		}
	}
	// In the order of the IDs, so that two passes over the same do the same.
	for _, id := range slices.Sorted(maps.Keys(p.listed)) {
		st := p.listed[id]
		row, known := rows[id]
		s, settled := serving[st.InstallationID]
		switch {
		case settled && s.ID != id && st.Power == fleet.PowerOn && !st.Clone: // a clone serves nobody
			f := at(FindingDouble, s, "the machine is on beside %s, which serves", s.ID)
			f.InstanceID, f.status = id, st
			f.row.ID, f.row.HostID, f.row.ProviderRef = id, row.HostID, st.ProviderRef
			p.add(f)
		case !known:
			f := Finding{Kind: FindingStray, InstallationID: st.InstallationID, InstanceID: id, status: st, Action: ActionNone}
			p.ageOf(&f, st.CreatedAt, p.o.Grace)
			p.add(f)
		}
	}
}

// drift records what differs where nothing is to be done, or somebody is at it.
func (p *pass) drift(row fleet.ExpectedInstance) {
	if !p.resting(row) || row.State.Transient() || wantedOn(row) {
		return
	}
	if st, listed := p.listed[row.ID]; listed && st.Power == fleet.PowerOn && row.Power == fleet.PowerOff && !st.Woken {
		p.add(at(FindingDrift, row, "the machine is on, though the installation is %s and the machine should be off", row.State))
	}
}

// ageOf lets a stray wait that is younger than the grace.
func (p *pass) ageOf(f *Finding, created time.Time, grace time.Duration) {
	if created.IsZero() {
		if first, ok := p.memory.firstSeen[f.key()]; ok {
			created = first
		} else {
			created = p.now
			p.memory.firstSeen[f.key()] = p.now
		}
	}
	age := p.now.Sub(created)
	f.Detail = fmt.Sprintf("it has no live row and is %s old", age.Round(time.Second))
	if age < grace {
		f.Action = ActionWait
	}
}

// compareVolumes finds volumes without a row. The store is asked only where
// there is a volume that no instance's installation accounts for.
func (p *pass) compareVolumes(ctx context.Context) error {
	if len(p.volumes) == 0 {
		return nil
	}
	known := make(map[fleet.VolumeID]bool, len(p.rows))
	for _, row := range p.rows {
		known[volumeID(row.InstallationID)] = true
	}
	stray := slices.DeleteFunc(slices.Clone(p.volumes), func(v fleet.VolumeStatus) bool { return known[v.ID] })
	if len(stray) == 0 {
		return nil
	}
	rows, err := p.o.Store.ExpectedVolumes(ctx, p.cluster.ID)
	if err != nil {
		return err
	}
	for _, row := range rows {
		known[row.ID] = true
	}
	stray = slices.DeleteFunc(stray, func(v fleet.VolumeStatus) bool { return known[v.ID] })
	if len(stray) == 0 {
		return nil
	}
	ids := make([]fleet.VolumeID, len(stray))
	for i, v := range stray {
		ids[i] = v.ID
	}
	deleted, err := p.o.Store.DeletedVolumes(ctx, ids)
	if err != nil {
		return err
	}
	for _, v := range stray {
		f := Finding{Kind: FindingStrayVolume, VolumeID: v.ID, volume: v, deleted: deleted[v.ID], Action: ActionNone}
		grace := p.o.VolumeGrace
		if f.deleted {
			grace = p.o.Grace
		}
		p.ageOf(&f, v.CreatedAt, grace)
		if f.deleted {
			f.Detail = "its row says deleted; " + f.Detail
		}
		p.add(f)
	}
	return nil
}

// volumeID is the ID that plan gives an installation's volume.
func volumeID(id fleet.InstallationID) fleet.VolumeID {
	return fleet.VolumeID(fleet.DeriveID(string(id), "volume"))
}
