package api

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// ExplainRollout says what a rollout waits for, or why it has stopped.
func ExplainRollout(v RolloutView, now time.Time) client.Explanation {
	e := client.Explanation{About: string(fleet.ResourceRollout), Name: string(v.ID), State: string(v.State), Accepts: []string{},
		Detail: v.Detail, WaitingFor: string(v.Reason), Since: v.ProgressAt}
	for _, verb := range fleet.RolloutAccepts(v.State) {
		e.Accepts = append(e.Accepts, string(verb))
	}
	names := ringNames(v.Spec)
	e.StepsTotal, e.StepNumber = len(names), min(v.Ring, len(names)-1)+1
	e.Step = fmt.Sprintf("%s, wave %d", names[e.StepNumber-1], v.Wave+1)
	if v.Operation != nil {
		op := wireOperation(v.Operation)
		e.Operation, e.Attempts = &op, v.Operation.Attempt
	}
	if len(v.Failures) > 0 {
		m := v.Failures[0]
		e.LastError = m.Name + because(m.Reason) + colon(m.Detail)
	}
	what := fmt.Sprintf("the rollout of group %s to revision %d", v.GroupName, v.To)
	switch {
	case v.State.Finished():
		e.Since, e.Next = v.FinishedAt, "nothing: it has ended"
		e.WaitingFor = ""
		inWork := membersInWork(&v)
		if inWork != "" {
			e.Next = "nothing more: it has ended, and what it had begun comes to its end"
		}
		e.Summary = fmt.Sprintf("%s is %s%s%s", what, v.State, because(v.Reason), colon(v.Detail)) + inWork
	default:
		explainOpen(&e, &v, what, now)
	}
	unreadable(&e, v.Detail)
	return e
}

// explainOpen is for a rollout that has not come to its end.
func explainOpen(e *client.Explanation, v *RolloutView, what string, now time.Time) {
	id := string(v.ID)
	inWork := membersInWork(v)
	switch v.State {
	case fleet.RolloutPaused:
		e.Summary = what + " is paused: nothing new is begun" + inWork
		e.Next = "nothing, until somebody decides"
		e.Advice = []string{"go on: cloudctl rollout resume " + id, "or take it back: cloudctl rollout rollback " + id}
	case fleet.RolloutHalted:
		e.Summary = fmt.Sprintf("%s was halted%s%s%s", what, because(v.Reason), colon(v.Detail), inWork)
		e.Next = "nothing, until somebody decides"
		e.Advice = []string{"see who failed, and why: cloudctl rollout members " + id + " --state failed",
			"take it back: cloudctl rollout rollback " + id,
			"or try again on those that failed: cloudctl rollout retry " + id,
			"or go on against the judge: cloudctl rollout resume " + id + " --force"}
	case fleet.RolloutRollingBack:
		e.Summary = what + " is being taken back" + because(v.Reason) + colon(v.Detail) + inWork
		e.Next = "it ends when every member that was touched has its old release back"
	default:
		e.Since = v.WaveSince
		e.Summary = what + " runs, at ring " + e.Step
		e.Next = "it looks again when a member is done, or at next_at"
	}
	op := v.Operation
	if op == nil || op.State.Finished() {
		e.WaitingFor = string(fleet.WaitWorker)
		e.Summary += "; but no work is recorded for it: nobody carries it out"
		e.Next = "nothing by itself"
		if op != nil && op.Error != "" {
			e.LastError = op.Error
		}
		e.Advice = []string{"have it taken up again: cloudctl rollout resume " + id + ", or retry or roll it back where it was halted"}
		return
	}
	e.NextAt = op.DueAt
	switch {
	case v.State != fleet.RolloutRunning && v.State != fleet.RolloutRollingBack:
	case op.WaitReason == fleet.WaitBackoff:
		e.WaitingFor, e.Detail, e.LastError = string(op.WaitReason), op.WaitDetail, op.Error
		e.Summary += fmt.Sprintf("; looking at it failed %s and is tried again%s", times(op.Attempt), in(op.DueAt, now))
		e.Advice = adviceOn(fleet.WaitBackoff, id)
	case v.State == fleet.RolloutRunning && (op.WaitDetail != "" || op.WaitReason != ""):
		e.WaitingFor, e.Detail = string(op.WaitReason), op.WaitDetail
		e.Summary += ", " + words(op.WaitReason) + colon(op.WaitDetail) + inWork
		e.Advice = adviceOnRollout(op.WaitReason, id)
	}
	x := work{op: op, host: op.Executor, now: now}
	if op.Worker == "" || !op.DueAt.After(now) {
		x.abandoned(e)
	}
}

// membersInWork counts those whose own work has not ended; "" for none.
func membersInWork(v *RolloutView) string {
	n := map[fleet.MemberState]int{}
	for _, c := range v.Counts {
		n[c.State] += c.N
	}
	var parts []string
	for _, s := range []fleet.MemberState{fleet.MemberRolling, fleet.MemberVerifying, fleet.MemberRollingBack} {
		if n[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[s], strings.ReplaceAll(string(s), "-", " ")))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "; in work: " + strings.Join(parts, ", ")
}

// adviceOnRollout says what an operator can do about what a rollout waits for.
func adviceOnRollout(r fleet.Reason, id string) []string {
	force := "or go on without it: cloudctl rollout resume " + id + " --force"
	switch r {
	case fleet.WaitMembers:
		return []string{"see them: cloudctl rollout members " + id + ", and what one of them waits for: cloudctl installation explain NAME"}
	case fleet.WaitSoak, fleet.WaitEvidence:
		return []string{"nothing: this is what it is to wait for", force}
	case fleet.WaitSamples:
		return []string{"wake installations of this ring, or wait until their owners do", force}
	case fleet.WaitObserver:
		return []string{"see whether the clusters, or what looks at their health, are broken: the release is not held responsible", force}
	case fleet.WaitMetric:
		return []string{"see the metric's server and its query", force}
	}
	return nil
}

func (s *server) explainRollout(w http.ResponseWriter, r *http.Request) error {
	id, err := rolloutID(r)
	if err != nil {
		return err
	}
	v, err := s.Store.Rollout(r.Context(), id)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, ExplainRollout(v, s.Clock()))
}
