package installation

import (
	"fmt"
	"strings"
	"time"
)

// Repairs in one pass, and what may look broken before the brake is put on: so
// many, or that part of what is expected, whichever is more.
const (
	repairsAtLeast = 3
	repairsPart    = 5 // a fifth: 20 %
)

func limitOf(of int) int { return max(repairsAtLeast, of/repairsPart) }

// brake holds repairs back. Where too much looks broken at once, the observer
// is more likely to be wrong than so many machines: an empty directory, another
// host's journal, a database restored from yesterday. Then this pass repairs
// nothing, and the next one only what still looks the same, at most as many as
// the limit. Volumes are data: more of them than the limit that no row knows of
// are never deleted, until somebody has found out why.
func (p *pass) brake() {
	r := p.r
	var machines, strays, deleted, unknown []*Finding
	for i := range r.Findings {
		f := &r.Findings[i]
		switch {
		case f.Action == ActionWait:
		case f.Kind == FindingLost, f.Kind == FindingOff, f.Kind == FindingDouble:
			machines = append(machines, f)
		case f.Kind == FindingStray:
			strays = append(strays, f)
		case f.Kind == FindingStrayVolume && f.deleted:
			deleted = append(deleted, f)
		case f.Kind == FindingStrayVolume:
			unknown = append(unknown, f)
		}
	}
	var why []string
	machineLimit, strayLimit, volumeLimit := limitOf(r.Expected), limitOf(r.Listed), limitOf(r.ListedVolumes)
	doubted := map[string]time.Time{}
	doubt := func(group []*Finding, words string) {
		why = append(why, words)
		for _, f := range group {
			doubted[f.key()] = p.now
			if since, ok := p.memory.doubted[f.key()]; ok {
				doubted[f.key()] = since
			}
		}
	}
	switch {
	case len(machines) > machineLimit:
		doubt(machines, fmt.Sprintf("%d of %d machines that should be on look broken, more than %d", len(machines), r.Expected, machineLimit))
	case r.Listed == 0 && len(machines) > 0:
		doubt(machines, fmt.Sprintf("the provider lists nothing at all, and %d machines should be on", r.Expected))
	}
	if len(strays) > strayLimit {
		doubt(strays, fmt.Sprintf("%d of %d machines have no row, more than %d", len(strays), r.Listed, strayLimit))
	}
	// Deleted volumes are on record as such: bounded, and not doubted.
	p.hold(deleted, volumeLimit)
	if len(unknown) > volumeLimit {
		r.Brake = fmt.Sprintf("%d of %d volumes are unknown to the database, more than %d: none is deleted; delete them by hand, or find out whether this is the right database",
			len(unknown), r.ListedVolumes, volumeLimit)
		p.hold(unknown, 0)
	}
	p.memory.doubted = doubted
	if len(why) > 0 {
		confirmed := p.confirm(doubted)
		if confirmed == 0 {
			r.Brake = strings.Join(append(why, "no repair is made until the next pass sees the same", r.Brake), "; ")
			for _, group := range [][]*Finding{machines, strays, deleted, unknown} {
				p.hold(group, 0)
			}
			r.Brake = strings.TrimSuffix(r.Brake, "; ")
			return
		}
		for _, group := range [][]*Finding{machines, strays} {
			for _, f := range group {
				if since, ok := doubted[f.key()]; ok && p.now.Sub(since) < p.o.Interval/2 {
					f.Action = ActionHeld
				}
			}
		}
	}
	p.hold(machines, machineLimit)
	p.hold(strays, strayLimit)
}

// confirm counts the doubted findings that were there in an earlier pass too.
func (p *pass) confirm(doubted map[string]time.Time) int {
	n := 0
	for _, since := range doubted {
		if p.now.Sub(since) >= p.o.Interval/2 {
			n++
		}
	}
	return n
}

// hold holds back all that are not held yet but the first so many.
func (p *pass) hold(group []*Finding, but int) {
	for _, f := range group {
		switch {
		case f.Action == ActionHeld:
		case but > 0:
			but--
		default:
			f.Action = ActionHeld
		}
	}
}
