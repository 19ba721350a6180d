package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"dormouse/internal/fleet"
)

// work hands out the slots of one decision.
type work struct {
	c             *census
	d             *Decision
	slots, verify int
	retries       int
}

func (c *census) newWork(d *Decision) *work {
	s := &c.v.Rollout.Spec
	verify := s.VerifySlots
	if verify == 0 {
		verify = defaultVerifySlots
	}
	return &work{c: c, d: d, slots: slots(*s, c.members) - c.slotsUsed + len(d.Done), verify: verify - c.verifyUsed}
}

// idle tells whether nothing is under way and nothing was given out.
func (w *work) idle() bool {
	c := w.c
	return c.slotsUsed == len(w.d.Done) && c.verifyUsed == 0 && len(w.d.RollBack) == 0 && w.retries == 0
}

// first returns the n members of a list that come first in the plan.
func (w *work) first(list []int, n int) []int {
	members := w.c.v.Members
	before := func(a, b int) int {
		x, y := &members[a], &members[b]
		return cmp.Or(cmp.Compare(x.Ring, y.Ring), cmp.Compare(x.Wave, y.Wave), cmp.Compare(x.Order, y.Order),
			cmp.Compare(x.InstallationID, y.InstallationID))
	}
	if !slices.IsSortedFunc(list, before) {
		slices.SortFunc(list, before)
	}
	return list[:min(max(n, 0), len(list))]
}

// putBackLeast is how many members of a cluster may be put back at once where none
// on the old release is seen to be well there.
const putBackLeast = 3

// putBack gives members that are bad on the new release their old one back. Not
// more at once than are known to be well on the old one in the same cluster: where
// all look bad, a few show whether that helps.
func (w *work) putBack() {
	c := w.c
	room := map[fleet.ClusterID]int{}
	for id, a := range c.control.clusters {
		room[id] = max(putBackLeast, a.wellOnOld)
	}
	var proving, faulty []int
	for _, i := range c.backing {
		room[c.v.Members[i].ClusterID]--
	}
	for _, i := range c.faulty {
		if c.v.Members[i].State == fleet.MemberRolling {
			proving = append(proving, i) // it has a slot
		} else {
			faulty = append(faulty, i)
		}
	}
	take := func(list []int, slots int) {
		for _, i := range w.first(list, len(list)) {
			m := &c.v.Members[i]
			if slots <= 0 || room[m.ClusterID] <= 0 {
				continue
			}
			if m.State != fleet.MemberRolling {
				w.slots--
			}
			slots--
			room[m.ClusterID]--
			reason := fleet.ReasonTurnedUnhealthy
			if !c.late(m) {
				reason = fleet.ReasonNotHealthy
			}
			w.d.RollBack = append(w.d.RollBack, PutBack{ID: m.InstallationID, Reason: reason,
				Detail: fmt.Sprintf("it answers badly since %s after the update", max(0, m.BadSince.Sub(m.FinishedAt)).Round(time.Second))})
		}
	}
	take(proving, len(proving))
	take(faulty, w.slots)
}

// The old release must have been well for so long before the new one is put on
// again; operations that failed for the platform's reasons wait longer each time.
const (
	cureFor      = 2 * time.Minute
	cureForLater = 10 * time.Minute
)

// retriesLeast is how many attempts there may be at once; more where they went
// well, or where many were begun.
const (
	retriesLeast = 3
	retriesShare = 0.02
)

// retry puts the new release on members again that failed and have recovered.
func (w *work) retry() {
	c := w.c
	budget := max(retriesLeast, 2*c.resolved, int(retriesShare*float64(c.begun))) - c.retrying
	if c.doubt || c.control.all.blind() || budget <= 0 {
		return
	}
	var awake, asleep []int
	for _, i := range c.old {
		switch m := &c.v.Members[i]; {
		case m.Busy || !c.retryable(m) || c.control.doubtfulIn(m.ClusterID):
		case m.Asleep:
			if left := cureForLater - c.v.Now.Sub(m.FinishedAt); left > 0 {
				c.wake(left)
			} else if !c.v.NoClones[m.ClusterID] {
				asleep = append(asleep, i)
			}
		case c.cured(m):
			awake = append(awake, i)
		}
	}
	for _, i := range w.first(awake, min(budget, w.slots)) {
		w.d.Retry = append(w.d.Retry, c.v.Members[i].InstallationID)
		w.slots--
		w.retries++
	}
	for _, i := range w.first(asleep, min(budget, w.verify)) {
		w.d.Verify = append(w.d.Verify, c.v.Members[i].InstallationID)
		w.verify--
		w.retries++
	}
}

// cured tells whether the old release has been well on a member for long enough.
func (c *census) cured(m *fleet.RolloutMember) bool {
	if m.Health != fleet.HealthHealthy || !m.BadSince.IsZero() || m.GoodSince.IsZero() {
		return false
	}
	need := cureFor
	switch {
	case m.Reason == fleet.ReasonTurnedUnhealthy:
		need = cureForLater
	case platformReason(m.Reason):
		for range m.Strikes - 1 {
			need *= 3
		}
	}
	since := m.GoodSince
	if since.Before(m.FinishedAt) {
		since = m.FinishedAt
	}
	if left := need - m.ObservedAt.Sub(since); left > 0 {
		c.wake(max(left, need-c.v.Now.Sub(since)))
		return false
	}
	return true
}

// begin puts the new release on waiting members of the open waves, and tries it
// on clones of sleepers.
func (w *work) begin() {
	c := w.c
	quota := w.quota()
	var awake, asleep, bad []int
	for _, i := range c.waiting {
		m := &c.v.Members[i]
		if m.Ring > w.d.Ring || m.Ring == w.d.Ring && m.Wave > w.d.Wave || c.control.doubtfulIn(m.ClusterID) {
			continue
		}
		switch {
		case m.Asleep && c.v.NoClones[m.ClusterID]:
			w.d.Unverifiable = append(w.d.Unverifiable, m.InstallationID)
		case m.Asleep:
			asleep = append(asleep, i)
		case badRun(m) > 0:
			bad = append(bad, i)
		default:
			awake = append(awake, i)
		}
	}
	if len(awake) == 0 && len(asleep) == 0 && w.d.Wave >= len(c.rings[w.d.Ring])-1 {
		awake = bad
	}
	slices.Sort(w.d.Unverifiable)
	for _, i := range w.first(asleep, min(w.verify, quota)) {
		w.d.Verify = append(w.d.Verify, c.v.Members[i].InstallationID)
		quota--
	}
	for _, i := range w.first(awake, min(w.slots, quota)) {
		w.d.Update = append(w.d.Update, c.v.Members[i].InstallationID)
	}
}

// quota is how many members may be begun as far as evidence allows: what is in
// work or was begun may not be more than growth times what has been judged. As many as
// a first wave has may be in work without any: all of that one may be gone by now.
func (w *work) quota() int {
	begun, judged, first := 0, 0, 0
	for r := range w.d.Ring + 1 {
		for i, x := range w.c.rings[r] {
			if i == 0 {
				first += x.members
			}
			begun += x.working + x.proving + x.judged
			judged += x.judged
		}
	}
	return max(first, w.c.v.Rollout.Spec.FirstWave, growth*judged) - begun
}

// Rolling back is urgent: it has backTimes the slots of the way forward, and at
// least so many that what was begun is back after backRounds rounds.
const (
	backTimes  = 4
	backRounds = 5
)

// backSlots is how many members may be put back at once when everything is.
func (c *census) backSlots() int {
	return max(backTimes*slots(c.v.Rollout.Spec, c.members), (c.begun+backRounds-1)/backRounds)
}

// rollBack puts the old release back on everything that the new one is on or is
// meant for, and ends when nothing is left. What is under way is given up.
func (c *census) rollBack(d *Decision) {
	w := c.newWork(d)
	var back []int
	busy := 0
	for i := range c.facts {
		m, s := &c.v.Members[i], c.facts[i].stand
		moved := s == standAside && c.v.Unverifiable == fleet.UnverifiableMove
		switch {
		case s == standWorking && m.State != fleet.MemberRollingBack:
			d.Recall = append(d.Recall, m.InstallationID)
		case s != standProving && s != standSound && s != standFaulty && s != standDoubted && !moved:
		case m.Busy:
			busy++
			c.wake(BusyLook)
		default:
			back = append(back, i)
		}
	}
	slices.Sort(d.Recall)
	for _, i := range w.first(back, c.backSlots()-len(c.backing)) {
		d.RollBack = append(d.RollBack, PutBack{ID: c.v.Members[i].InstallationID})
	}
	if len(back)+busy == 0 && c.slotsUsed == 0 && c.verifyUsed == 0 {
		d.State = fleet.RolloutRolledBack
	}
}
