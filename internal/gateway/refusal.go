package gateway

import (
	"net/http"
	"time"

	"dormouse/internal/fleet"
)

// refusal is an answer of the gateway's own.
type refusal struct {
	status int
	// reason is one of a few words, for programs and metrics.
	reason        string
	title, detail string
	// retryAfter is sent in seconds, rounded up; 0 is not sent.
	retryAfter time.Duration
	// reloads: a page comes again by itself after retryAfter.
	reloads bool
	// hidden: what an unknown name is answered is to be sent instead.
	hidden bool
}

// ReasonHeader names the field in which an answer of the gateway's own says why,
// in a word: so it can be told from an answer of the workspace's.
const ReasonHeader = "Dormouse-Refused"

func unknown(host string) *refusal {
	return &refusal{status: http.StatusNotFound, reason: "unknown", title: "No such workspace", detail: "There is no workspace at " + host + "."}
}

// barred is for a visitor who may not wake what does not serve.
func barred(v *visit, route Route) *refusal {
	why := refusalOf(route, v.host)
	why.reason = "may-not-wake; " + v.barred
	why.detail = "Requests like this one do not wake it."
	why.hidden = route.Wake.Hidden
	return why
}

// waitingPage is shown to a person whose workspace takes a while.
func waitingPage(route Route) *refusal {
	doing, _ := inWords(route.State)
	if !doing.passing {
		doing.words = "is waking up"
	}
	return &refusal{status: http.StatusServiceUnavailable, reason: "waiting-page", title: "This workspace " + doing.words,
		detail: "This page opens it by itself in a moment.", retryAfter: shortly, reloads: true}
}

// activity is what an installation is doing, in words that follow "This workspace".
type activity struct {
	words      string
	retryAfter time.Duration
	// serves: the instance may answer all the same, so it is asked.
	serves bool
	// passing: work on it is under way, after which it serves.
	passing bool
}

const (
	shortly = 2 * time.Second
	soon    = 5 * time.Second
	later   = time.Minute
)

// inWords describes a state; false for one in which it just runs.
func inWords(state fleet.State) (activity, bool) {
	switch state {
	case fleet.StateCreationRequested, fleet.StateCreationInProgress:
		return activity{"is being created", soon, false, true}, true
	case fleet.StateCreationFailed:
		return activity{"could not be created", later, false, false}, true
	case fleet.StateUpdateRequested, fleet.StateUpdateInProgress:
		return activity{"is being updated", shortly, true, true}, true
	case fleet.StateUpdateFailed:
		return activity{"could not be updated", later, true, false}, true
	case fleet.StateRestartRequested, fleet.StateRestartInProgress:
		return activity{"is restarting", shortly, true, true}, true
	case fleet.StateRestartFailed:
		return activity{"could not be restarted", later, true, false}, true
	case fleet.StateHibernationRequested, fleet.StateHibernationInProgress:
		return activity{"is going to sleep", soon, true, true}, true
	case fleet.StateHibernationFailed:
		return activity{"could not be put to sleep", later, true, false}, true
	case fleet.StateHibernating:
		return activity{"is asleep", later, false, false}, true
	case fleet.StateWakeUpRequested, fleet.StateWakeUpInProgress:
		return activity{"is waking up", shortly, false, true}, true
	case fleet.StateWakeUpFailed:
		return activity{"could not be woken", later, false, false}, true
	case fleet.StateExited:
		return activity{"is not running: its program has ended", later, false, false}, true
	case fleet.StateCrashLooping:
		return activity{"is stopped, because its program keeps crashing", later, false, false}, true
	case fleet.StateDeletionRequested, fleet.StateDeletionInProgress, fleet.StateDeletionFailed:
		return activity{"is being deleted", later, false, false}, true
	}
	return activity{}, false
}
