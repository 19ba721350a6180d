package gateway

import (
	"encoding/json"
	"html/template"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

// refusal is an answer of the gateway's own.
type refusal struct {
	status        int
	title, detail string
	// retryAfter is sent in seconds, rounded up; 0 is not sent.
	retryAfter time.Duration
}

func unknown(name string) *refusal {
	return &refusal{status: http.StatusNotFound, title: "No such workspace", detail: "There is no workspace named " + name + "."}
}

// activity is what an installation is doing, in words that follow "This workspace".
type activity struct {
	words      string
	retryAfter time.Duration
	// serves: the instance may answer all the same, so it is asked.
	serves bool
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
		return activity{"is being created", soon, false}, true
	case fleet.StateCreationFailed:
		return activity{"could not be created", later, false}, true
	case fleet.StateUpdateRequested, fleet.StateUpdateInProgress:
		return activity{"is being updated", shortly, true}, true
	case fleet.StateUpdateFailed:
		return activity{"could not be updated", later, true}, true
	case fleet.StateRestartRequested, fleet.StateRestartInProgress:
		return activity{"is restarting", shortly, true}, true
	case fleet.StateRestartFailed:
		return activity{"could not be restarted", later, true}, true
	case fleet.StateHibernationRequested, fleet.StateHibernationInProgress:
		return activity{"is going to sleep", soon, true}, true
	case fleet.StateHibernationFailed:
		return activity{"could not be put to sleep", later, true}, true
	case fleet.StateHibernating:
		return activity{"is asleep", later, false}, true
	case fleet.StateWakeUpRequested, fleet.StateWakeUpInProgress:
		return activity{"is waking up", shortly, false}, true
	case fleet.StateWakeUpFailed:
		return activity{"could not be woken", later, false}, true
	case fleet.StateExited:
		return activity{"is not running: its program has ended", later, false}, true
	case fleet.StateCrashLooping:
		return activity{"is stopped, because its program keeps crashing", later, false}, true
	case fleet.StateDeletionRequested, fleet.StateDeletionInProgress, fleet.StateDeletionFailed:
		return activity{"is being deleted", later, false}, true
	}
	return activity{}, false
}

// unavailable returns why an installation can't be asked now; nil if it can.
func unavailable(route Route) *refusal {
	if route.State == fleet.StateDeleted {
		return unknown(route.Name)
	}
	doing, described := inWords(route.State)
	if route.Address != "" && (doing.serves || !described) {
		return nil
	}
	switch {
	case route.Moving:
		doing = activity{"is being moved to another machine", shortly, false}
	case !described:
		doing = activity{"has no web address", later, false}
	}
	return &refusal{status: http.StatusServiceUnavailable, title: "This workspace " + doing.words, retryAfter: doing.retryAfter}
}

// problem is a problem document (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

// write sends the refusal: as JSON to who asks for it, as a page to browsers,
// as text to others.
func (f *refusal) write(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if f.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(f.retryAfter.Seconds()))))
	}
	accept := strings.ToLower(strings.Join(r.Header.Values("Accept"), ","))
	// What follows fails only where the client is gone.
	switch {
	case strings.Contains(accept, "text/html"):
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		w.WriteHeader(f.status)
		_ = page().Execute(w, map[string]string{"Title": f.title, "Detail": f.detail})
	case strings.Contains(accept, "json"):
		header.Set("Content-Type", "application/problem+json")
		w.WriteHeader(f.status)
		_ = json.NewEncoder(w).Encode(problem{Type: "about:blank", Title: f.title, Status: f.status, Detail: f.detail})
	default:
		header.Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(f.status)
		_, _ = w.Write([]byte(strings.TrimSpace(f.title+"\n"+f.detail) + "\n"))
	}
}

func page() *template.Template {
	return template.Must(template.New("refusal").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{.Title}}</title>
<style>body{font:1rem/1.5 system-ui,sans-serif;max-width:32rem;margin:20vh auto;padding:0 1rem}</style>
<h1>{{.Title}}</h1>{{with .Detail}}<p>{{.}}</p>{{end}}</html>
`))
}
