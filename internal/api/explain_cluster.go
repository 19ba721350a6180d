package api

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// ExplainCluster says what a cluster waits for, or what it lacks.
func ExplainCluster(v ClusterView, now time.Time) client.Explanation {
	e := client.Explanation{About: string(fleet.ResourceCluster), Name: v.Name, State: string(v.State), Accepts: []string{}}
	for _, t := range fleet.ClusterTransitions() {
		if t.From == v.State && t.To == fleet.ClusterDeletionRequested {
			e.Accepts = append(e.Accepts, string(fleet.OperationDelete))
		}
	}
	if _, _, ok := v.State.Recheck(); ok && (v.Operation == nil || v.Operation.State.Finished()) {
		e.Accepts = append(e.Accepts, "check")
	}
	if v.Operation != nil {
		op := wireOperation(v.Operation)
		e.Operation = &op
		if !v.Operation.State.Finished() {
			x := work{op: v.Operation, host: v.Operation.Executor, now: now}
			x.explain(&e)
			unreadable(&e, v.StateDetail)
			return e
		}
	}
	e.Since, e.Detail = v.UpdatedAt, v.StateDetail
	e.Next = "nothing, until there is a request"
	switch v.State {
	case fleet.ClusterStable:
		explainStable(&e, &v, now)
	case fleet.ClusterDeleted:
		e.Summary = "cluster " + v.Name + " is deleted"
	case fleet.ClusterCreationFailed, fleet.ClusterDeletionFailed:
		e.Summary = fmt.Sprintf("cluster %s is %s%s%s%s", v.Name, v.State, lasting(v.UpdatedAt, now), because(v.StateReason), colon(v.StateDetail))
		e.LastError, e.Advice = v.StateDetail, adviceOn(v.StateReason, v.Name)
	default:
		e.Summary = fmt.Sprintf("cluster %s is %s%s, but no work is recorded for it", v.Name, v.State, lasting(v.UpdatedAt, now))
		e.Advice = []string{"delete it, and create it again"}
	}
	unreadable(&e, v.StateDetail)
	return e
}

// explainStable is for a cluster that runs: whether there is room in it.
func explainStable(e *client.Explanation, v *ClusterView, now time.Time) {
	up, free, largest := 0, int64(0), int64(0)
	var away []string
	for _, h := range v.Hosts {
		if h.State != fleet.HostUp {
			away = append(away, h.Name+" is "+string(h.State))
			continue
		}
		up++
		free += max(0, h.FreeMemoryMiB()) // a host may have become smaller than what is held there
		largest = max(largest, h.FreeMemoryMiB())
	}
	e.Summary = fmt.Sprintf("cluster %s runs, with %d of %d hosts up and %d MiB of memory free, at most %d MiB on one host",
		v.Name, up, len(v.Hosts), free, largest)
	if len(away) > 0 {
		e.Detail = strings.Join(away, ", ")
		e.Summary += "; " + e.Detail
	}
	switch {
	case !v.AllowInstallations:
		e.Summary += "; it takes no new installations"
	case largest <= 0:
		e.WaitingFor = string(fleet.WaitCapacity)
		e.Advice = []string{"nothing more can be started here: hibernate or delete installations, or give it more hosts: cloudctl cluster check " + v.Name}
	}
	if op := v.Operation; op != nil && op.Kind == fleet.OperationCheckCluster && op.State == fleet.OperationFailed {
		e.LastError = op.Error
		e.Summary += fmt.Sprintf("; its last check failed %s ago%s%s, and changed nothing", age(op.FinishedAt, now), because(op.FailReason), colon(op.Error))
		e.Advice = append(e.Advice, "mend what the check names, then check it again: cloudctl cluster check "+v.Name)
	}
}

func (s *server) explainCluster(w http.ResponseWriter, r *http.Request) error {
	v, err := s.cluster(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, ExplainCluster(v, s.Clock()))
}
