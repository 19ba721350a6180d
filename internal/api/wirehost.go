package api

import (
	"slices"
	"strconv"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// drainMembersShown bounds how many installations a host shows of its drain.
const drainMembersShown = 100

// wireHost is a host as its cluster lists it.
func wireHost(h *fleet.Host) client.Host {
	return client.Host{
		ID: string(h.ID), Name: h.Name, State: string(h.State),
		MemoryMiB: h.MemoryMiB, MemoryHeldMiB: h.MemoryHeldMiB, DiskMiB: h.DiskMiB, DiskHeldMiB: h.DiskHeldMiB,
	}
}

func wireHostView(v *HostView) client.Host {
	out := wireHost(&v.Host)
	out.Cluster = v.ClusterName
	if v.Members != nil {
		n := len(v.Members)
		out.Installations = &n
	}
	if v.Operation != nil && v.State != fleet.HostUp {
		out.Drain = wireDrain(v)
	}
	return out
}

// wireDrain counts where the members of a host's drain stand.
func wireDrain(v *HostView) *client.Drain {
	op := wireOperation(v.Operation)
	d := &client.Drain{Operation: op, AtOnce: v.DrainAtOnce, Members: []client.DrainMember{}}
	counts := map[fleet.DrainProgress]*int{
		fleet.DrainMoving: &d.Moving, fleet.DrainWaiting: &d.Waiting, fleet.DrainFailed: &d.Failed, fleet.DrainStays: &d.Stays,
	}
	for i := range v.Members {
		m := &v.Members[i]
		progress := m.Progress()
		*counts[progress]++
		out := client.DrainMember{InstallationID: string(m.InstallationID), Name: m.Name, State: string(m.State), Progress: string(progress),
			Busy: string(m.Busy), Failures: m.Failures}
		if m.Failures > 0 {
			out.Reason, out.Detail = string(m.Reason), m.Detail
		}
		d.Members = append(d.Members, out)
	}
	d.Left = len(v.Members)
	total, _ := strconv.Atoi(v.Operation.Observed["total"]) // 0 before the first look
	d.Total = max(total, d.Left)
	d.Done = d.Total - d.Left
	// Those that somebody may want to look at go first.
	order := []string{string(fleet.DrainFailed), string(fleet.DrainStays), string(fleet.DrainMoving), string(fleet.DrainWaiting)}
	slices.SortStableFunc(d.Members, func(a, b client.DrainMember) int {
		return slices.Index(order, a.Progress) - slices.Index(order, b.Progress)
	})
	d.Members = d.Members[:min(len(d.Members), drainMembersShown)]
	return d
}
