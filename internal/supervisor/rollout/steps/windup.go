package steps

import (
	"fmt"
	"time"

	"dormouse/internal/fleet"
)

const (
	// windUpAtMost bounds how seldom an ended rollout looks at what it had begun.
	windUpAtMost = 10 * time.Second
	// windUpShare: it looks again after this part of the time since its end. Nobody
	// waits for a slot any more, and what waits for capacity may do so for hours.
	windUpShare = 8
)

// windUp follows what a rollout had begun when it was cancelled or superseded, until
// each of its members has come to an end that can be told. Nothing is begun. Trials on
// clones are given up: a success would pin a release that nobody asks for any
// more, and who comes next need not wait for it.
func windUp(look fleet.RolloutLook) fleet.Outcome {
	r := look.Rollout
	c := fleet.RolloutChange{Rollout: r, Before: r.State}
	left := 0
	for _, l := range look.Members {
		m, trial := l.RolloutMember, l.State == fleet.MemberVerifying
		switch {
		case settle(&m, l, look):
			if trial && m.State == fleet.MemberRolledBack {
				m.Detail = fmt.Sprintf("its trial on a clone was given up: the rollout was %s", r.State)
			}
			c.Members = append(c.Members, m)
		default:
			left++
			if trial && !l.Recalled {
				c.Recall = append(c.Recall, m.OperationID)
			}
		}
	}
	out := fleet.Advance(fleet.Changes{})
	if left > 0 {
		rest := min(max(look.Now.Sub(r.FinishedAt)/windUpShare, lookEvery), windUpAtMost)
		out = fleet.Wait(rest, fleet.WaitMembers, fmt.Sprintf("%d installations that it had begun on are in work", left))
	}
	if len(c.Members)+len(c.Recall) > 0 {
		out.Changes.Rollout = &c
	}
	return out
}
