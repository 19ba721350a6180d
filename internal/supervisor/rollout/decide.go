package rollout

import (
	"fmt"
	"time"

	"dormouse/internal/fleet"
)

// backstop is after how long to decide again even if nothing seems to be due.
const backstop = 5 * time.Minute

// Decide says what is to be done about a rollout now. It is a pure function: the
// same view gives the same decision, whoever asks, and in whatever order its
// members come. It takes about a tenth of a microsecond per member.
func Decide(v View) Decision {
	r := &v.Rollout
	d := Decision{State: r.State, Reason: r.Reason, Detail: r.Detail, Ring: r.Ring, Wave: r.Wave, WaveSince: r.WaveSince}
	if r.State.Finished() {
		return d
	}
	c := takeCensus(&v)
	var verdict verdict
	if r.State != fleet.RolloutRollingBack { // there is nothing left to judge
		verdict = c.judge()
	}
	d.Evidence = Evidence{Begun: c.begun, Failures: c.failures, Odds: verdict.odds, Where: verdict.where,
		ControlBad: c.control.all.bad[c.control.grade], ControlSeen: c.control.all.known(c.control.grade)}
	switch r.State {
	case fleet.RolloutRunning:
		c.run(&d, verdict)
	case fleet.RolloutRollingBack:
		c.rollBack(&d)
	default: // paused or halted: what is under way comes to its end
		d.Done = c.done
	}
	d.Cleared = c.cleared
	if !d.State.Finished() {
		c.wake(backstop)
		d.Next = c.next
	}
	return d
}

// run decides for a rollout that runs.
func (c *census) run(d *Decision, verdict verdict) {
	r := &c.v.Rollout
	if reason, detail := c.halts(verdict); reason != "" && !r.Forced {
		d.State, d.Reason, d.Detail = fleet.RolloutHalted, reason, detail
		if r.Spec.AutoRollback {
			d.State = fleet.RolloutRollingBack
			c.rollBack(d)
			return
		}
		d.Done = c.done
		return
	}
	d.Done = c.done
	d.Reason, d.Detail = "", ""
	reason, detail := c.holds(verdict)
	if r.Forced {
		reason, detail = "", ""
	}
	finished := false
	if reason == "" {
		finished, reason, detail = c.advance(d)
	}
	if c.busyIn(d) {
		c.wake(BusyLook)
	}
	w := c.newWork(d)
	w.putBack()
	w.retry()
	switch {
	case reason == fleet.WaitMembers:
		w.begin()
	case !finished:
	case !w.idle():
		reason, detail = fleet.WaitMembers, "the last ones are in work"
	case verdict.pending && verdict.potential >= haltOdds && !r.Forced:
		reason, detail = fleet.WaitEvidence, "those that failed are tried again, and could show that the release is to blame"
	default:
		d.State, d.Reason, d.Detail = fleet.RolloutSucceeded, "", c.summary()
		return
	}
	d.Reason, d.Detail = reason, detail
}

// halts says why a rollout must stop; an empty reason is that it need not.
func (c *census) halts(verdict verdict) (fleet.Reason, string) {
	s := &c.v.Rollout.Spec
	switch {
	case verdict.bad() && !c.doubt:
		return fleet.ReasonJudgedBad, fmt.Sprintf("the release is bad for %s: %s", verdict.where, verdict.detail)
	case s.MaxFailures > 0 && c.failures > s.MaxFailures:
		return fleet.ReasonFailureLimit, fmt.Sprintf("%d installations failed, more than %d", c.failures, s.MaxFailures)
	case s.MaxFailuresPercent > 0 && c.begun >= max(1, s.MinSamples) && float64(c.failures)*100 > s.MaxFailuresPercent*float64(c.begun):
		return fleet.ReasonFailureLimit, fmt.Sprintf("%d of %d installations failed, more than %g %%", c.failures, c.begun, s.MaxFailuresPercent)
	}
	if m := c.v.Metric; s.Metric != nil && c.answered() && m.Value > s.Metric.Max {
		if above := c.above(); above >= s.Metric.For {
			return fleet.ReasonMetric, fmt.Sprintf("the metric has been %g for %s, above %g", m.Value, above.Round(time.Second), s.Metric.Max)
		}
	}
	if deadline := s.ProgressDeadline; deadline > 0 && c.hung > 0 && c.hung*20 >= c.begun {
		if since := c.v.Now.Sub(c.progressAt()); since > deadline {
			return fleet.ReasonNoProgress, fmt.Sprintf("nothing has come to an end for %s, and %d installations have been in work for longer than %s",
				since.Round(time.Second), c.hung, deadline)
		}
	}
	return "", ""
}

// progressAt is when something last came to an end, or could first have been seen to.
func (c *census) progressAt() time.Time {
	r := &c.v.Rollout
	at := r.CreatedAt
	for _, t := range []time.Time{r.WaveSince, r.ProgressAt, c.v.WatchedSince} {
		if t.After(at) {
			at = t
		}
	}
	return at
}

// metricAge is how old a reading of the metric may be.
const metricAge = 5 * time.Minute

func (c *census) answered() bool {
	m := c.v.Metric
	return m != nil && m.Answered && m.Value == m.Value && c.v.Now.Sub(m.At) <= metricAge
}

func (c *census) metricProblem() string {
	if m := c.v.Metric; m != nil && m.Problem != "" {
		return ": " + m.Problem
	}
	return ""
}

func (c *census) above() time.Duration {
	if c.v.Metric.AboveSince.IsZero() {
		return 0
	}
	return c.v.Metric.At.Sub(c.v.Metric.AboveSince)
}

// holds says why nothing new is to begin for the time being.
func (c *census) holds(verdict verdict) (fleet.Reason, string) {
	gate := c.v.Rollout.Spec.Metric
	switch {
	case c.doubt:
		a := &c.control.all
		return fleet.WaitObserver, fmt.Sprintf("%d of %d installations that the release was not put on answer badly: the observer or the platform is in doubt",
			a.bad[c.control.grade]+a.chronic, a.known(c.control.grade)+a.chronic)
	case c.control.all.blind():
		c.wake(30 * time.Second)
		return fleet.WaitObserver, fmt.Sprintf("%d of %d installations that are awake give no answer at present: the observer is out of sight of them",
			c.control.all.unseen, c.control.all.members)
	case gate != nil && !c.answered():
		c.wake(30 * time.Second)
		return fleet.WaitMetric, "the metric's query does not answer" + c.metricProblem()
	case gate != nil && c.v.Metric.Value > gate.Max:
		c.wake(max(time.Second, gate.For-c.above()))
		return fleet.WaitMetric, fmt.Sprintf("the metric is %g, above %g", c.v.Metric.Value, gate.Max)
	case verdict.suspicious() || c.manyFailed():
		return fleet.WaitEvidence, fmt.Sprintf("it is not clear whether the release is to blame (%s: %s): trying again on those that failed", verdict.where, verdict.detail)
	}
	return "", ""
}

// A wave of which more than failedShare (and failedLeast members) failed once is no
// ground to go on, whatever could explain that, while trying again will tell more.
const (
	failedShare = 0.25
	failedLeast = 2
)

// manyFailed tells whether so many of those that were begun failed, and will be
// tried again or are being.
func (c *census) manyFailed() bool {
	n := 0
	for i := range c.failed {
		if c.failed[i].pending {
			n++
		}
	}
	return n >= failedLeast && float64(n) > failedShare*float64(c.begun)
}

// summary says how a rollout that succeeded ended.
func (c *census) summary() string {
	aside := 0
	for i := range c.facts {
		if c.facts[i].stand == standAside {
			aside++
		}
	}
	detail := fmt.Sprintf("%d of %d installations have the new release", c.begun-c.failures, c.members)
	for _, part := range []struct {
		n    int
		what string
	}{{c.failures, "failed"}, {aside, "sleep and could not be verified"}, {c.busy(), "were busy until the end"}} {
		if part.n > 0 {
			detail += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	return detail
}
