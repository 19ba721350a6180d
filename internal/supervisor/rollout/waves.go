package rollout

import (
	"fmt"
	"time"

	"dormouse/internal/fleet"
)

// soakedShare is up to which part of the group a wave is watched for a soak
// before the next one begins; beyond it, waves flow.
const soakedShare = 0.1

// matureShare of a wave or ring must have been watched to the end: the last few
// may have been tried again, or be out of sight.
const matureShare = 0.95

// unsureShare of the members of the open waves may have begun to answer badly
// before the release is put on them. More are no reason to leave them out and to go on
// to later waves: they are themselves again soon, or the observer is in doubt.
const unsureShare = 0.2

// ailingShare of the members with the release may answer badly at the moment at
// which their wave is left. An observer that is wrong now and then makes it hard
// to say of any one of them that it is bad for good.
const ailingShare = 0.25

// unsureLook is how soon to look again at what changes from one answer to the next.
const unsureLook = 15 * time.Second

// busyGrace is for how long the end of a rollout waits for members that are
// still in somebody else's hands.
const busyGrace = 10 * time.Minute

// advance moves on to later waves and rings while the present one has nothing
// left to wait for. It tells whether the last is behind, or what is waited for.
func (c *census) advance(d *Decision) (finished bool, reason fleet.Reason, detail string) {
	if d.WaveSince.IsZero() {
		d.WaveSince = c.v.Now
	}
	for {
		ring := c.rings[min(d.Ring, len(c.rings)-1)]
		last := d.Wave >= len(ring)-1
		if reason, detail = c.waits(d, last); reason != "" {
			return false, reason, detail
		}
		switch {
		case !last:
			d.Wave++
		case d.Ring < len(c.rings)-1:
			d.Ring++
			d.Wave = 0
		default:
			if busy := c.busy(); busy > 0 {
				if left := busyGrace - c.v.Now.Sub(c.progressAt()); left > 0 {
					c.wake(left)
					return false, fleet.WaitMembers, fmt.Sprintf("%d installations are busy with something else", busy)
				}
			}
			return true, "", ""
		}
		d.WaveSince = c.v.Now
	}
}

// waits says what the present wave waits for; last is the last wave of its ring.
func (c *census) waits(d *Decision, last bool) (fleet.Reason, string) {
	ring := c.rings[min(d.Ring, len(c.rings)-1)]
	var sum waveCount
	for w := range min(d.Wave+1, len(ring)) {
		sum.add(ring[w])
	}
	for _, earlier := range c.rings[:d.Ring] {
		for _, w := range earlier { // those that were busy when their ring was worked on
			sum.free += w.free
			sum.postponed += w.postponed
		}
	}
	what := fmt.Sprintf("ring %d, wave %d", d.Ring+1, d.Wave+1)
	if sum.free > 0 {
		return fleet.WaitMembers, fmt.Sprintf("%s: %d installations wait for a slot", what, sum.free)
	}
	if float64(sum.unsure) > unsureShare*float64(sum.members) {
		c.wake(unsureLook)
		return fleet.WaitObserver, fmt.Sprintf("%s: %d of %d installations have begun to answer badly without the release", what, sum.unsure, sum.members)
	}
	if last && sum.postponed > 0 {
		return fleet.WaitMembers, fmt.Sprintf("%s: %d installations that answer badly come last", what, sum.postponed)
	}
	if !last && !c.soaksNow(d) {
		return "", ""
	}
	if n := sum.working + sum.proving; last && n > 0 || n > sum.allowance() {
		return fleet.WaitMembers, fmt.Sprintf("%s: %d installations are in work", what, n)
	}
	if need := sum.live - sum.allowance(); sum.mature < need {
		return fleet.WaitSoak, fmt.Sprintf("%s: %d of %d installations have been watched for %s", what, sum.mature, sum.live, c.soaks[min(d.Ring, len(c.soaks)-1)])
	}
	if float64(sum.ailing) > ailingShare*float64(sum.answering) {
		c.wake(unsureLook)
		return fleet.WaitSoak, fmt.Sprintf("%s: %d of %d installations that have the release answer badly at this moment", what, sum.ailing, sum.answering)
	}
	if least := min(c.v.Rollout.Spec.MinSamples, sum.members-sum.busy); last && sum.judged < least {
		return fleet.WaitSamples, fmt.Sprintf("%s: %d of at least %d installations have been judged", what, sum.judged, least)
	}
	return "", ""
}

// soaksNow tells whether the present wave is watched before the next begins: the
// first of each ring, and those that bring the group to a small part only.
func (c *census) soaksNow(d *Decision) bool {
	if d.Wave == 0 || c.soaks[d.Ring] == 0 {
		return c.soaks[d.Ring] > 0
	}
	begun := 0
	for r := range min(d.Ring+1, len(c.rings)) {
		for w := range c.rings[r] {
			if r < d.Ring || w <= d.Wave {
				begun += c.rings[r][w].members
			}
		}
	}
	return float64(begun) <= soakedShare*float64(c.members)
}

// busy counts the members that were not begun because they are in somebody else's hands.
func (c *census) busy() int {
	n := 0
	for _, ring := range c.rings {
		for _, w := range ring {
			n += w.busy
		}
	}
	return n
}

// busyIn tells whether members of the open waves are in somebody else's hands: they
// are begun as soon as they are free.
func (c *census) busyIn(d *Decision) bool {
	for r, ring := range c.rings[:min(d.Ring+1, len(c.rings))] {
		for i, w := range ring {
			if w.busy > 0 && (r < d.Ring || i <= d.Wave) {
				return true
			}
		}
	}
	return false
}

func (w *waveCount) add(o waveCount) {
	w.members += o.members
	w.free += o.free
	w.postponed += o.postponed
	w.unsure += o.unsure
	w.answering += o.answering
	w.ailing += o.ailing
	w.busy += o.busy
	w.working += o.working
	w.proving += o.proving
	w.judged += o.judged
	w.live += o.live
	w.mature += o.mature
}

// allowance is how many members may lag behind.
func (w *waveCount) allowance() int { return int((1 - matureShare) * float64(w.live)) }
