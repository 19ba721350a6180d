package api

import (
	"fmt"
	"net/http"
	"time"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func (s *server) installationTraffic(w http.ResponseWriter, r *http.Request) error {
	id, err := resourceID(r, "installation")
	if err != nil {
		return err
	}
	t, err := s.Store.Traffic(r.Context(), id)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.wireTraffic(&t))
}

func (s *server) listTraffic(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	p, err := page(query)
	if err != nil {
		return err
	}
	all, err := s.Store.ListTraffic(r.Context(), p.Limit-1) // page asks for one more, to know whether there is a next one
	if err != nil {
		return err
	}
	items := make([]client.Traffic, len(all))
	for i := range all {
		items[i] = s.wireTraffic(&all[i])
	}
	return writeJSON(w, http.StatusOK, client.Page[client.Traffic]{Items: items})
}

func (s *server) wireTraffic(t *fleet.Traffic) client.Traffic {
	out := client.Traffic{
		InstallationID: string(t.InstallationID), Name: t.Name, State: string(t.State),
		Requests: t.Requests, BytesIn: t.BytesIn, BytesOut: t.BytesOut, Open: t.Open, ToldAt: t.ToldAt,
		LastActiveAt: t.LastAt, Wakes: t.Wakes, AsleepSince: t.AsleepSince,
		NextSchedule: s.nextSchedule(t.Idle, t.Now),
	}
	if t.State == fleet.StateStable {
		out.AwakeSince = t.AwakeSince
		out.KeepsAwake, out.SleepsAt = keepsAwake(t)
	}
	return out
}

// keepsAwake says why an installation in service is not put to sleep, and when it is
// if nobody comes: what store.IdleCandidates compares, in words.
func keepsAwake(t *fleet.Traffic) (why []string, sleepsAt time.Time) {
	say := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	if t.Busy != "" {
		say("its %s is under way", t.Busy)
	}
	idleAfter := time.Duration(t.Idle.IdleAfterSeconds) * time.Second
	switch {
	case t.Idle.Never:
		say("its idle policy is never to sleep")
		return why, sleepsAt
	case idleAfter == 0:
		say("no idle policy says after what time it is put to sleep: set one with --idle-after")
		return why, sleepsAt
	}
	if t.Open > 0 && t.Now.Sub(t.ToldAt) < fleet.OpenFor {
		say("%d requests or connections are open", t.Open)
	}
	sleepsAt = t.AwakeSince.Add(max(idleAfter, time.Duration(t.Idle.MinimumAwakeSeconds)*time.Second))
	if sleepsAt.After(t.Now) {
		say("it has been awake for %s, and stays so for %s at least", t.Now.Sub(t.AwakeSince).Round(time.Second), sleepsAt.Sub(t.AwakeSince))
	}
	if quiet := t.LastAt.Add(idleAfter); !t.LastAt.IsZero() && quiet.After(t.Now) {
		say("somebody came %s ago, and it is idle after %s", t.Now.Sub(t.LastAt).Round(time.Second), idleAfter)
		if quiet.After(sleepsAt) {
			sleepsAt = quiet
		}
	}
	return why, sleepsAt
}
