package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/gorilla/mux"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// rolloutGap is the least time between two reads of a long poll on a rollout:
// one with many slots changes with every slot that is refilled.
const rolloutGap = 200 * time.Millisecond

func (s *server) listRollouts(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	p, err := page(query)
	if err != nil {
		return err
	}
	q := RolloutQuery{Before: p.After, Limit: p.Limit, Group: query.Get("group")}
	if query.Has("group") && !fleet.ValidID(q.Group) && !isDNSLabel(q.Group) {
		return invalidQuery("group", "it must be the ID or name of a group")
	}
	views, err := s.Store.ListRollouts(r.Context(), q)
	if err != nil {
		return err
	}
	views, next := cut(p, views, func(v *RolloutView) string { return string(v.ID) })
	items := make([]client.RolloutSummary, len(views))
	for i := range views {
		items[i] = wireRolloutSummary(&views[i].Rollout)
	}
	return writeJSON(w, http.StatusOK, client.Page[client.RolloutSummary]{Items: items, NextCursor: next})
}

// createRollout begins a rollout, or with dry_run says what it would do.
func (s *server) createRollout(w http.ResponseWriter, r *http.Request) error {
	group, err := resourceID(r, "group")
	if err != nil {
		return err
	}
	var in client.CreateRollout
	m, body, err := decodeBody(r, &in, "application/json")
	if err != nil {
		return err
	}
	n := NewRollout{Group: group, To: fleet.RevisionNumber(in.ToRevision)}
	if n.Spec, err = rolloutSpec(in, m); err != nil {
		return err
	}
	if n.Key, err = s.idempotencyKey(r, body); err != nil {
		return err
	}
	if in.DryRun {
		plan, err := s.planRollout(r.Context(), n)
		if err != nil {
			return err
		}
		return writeJSON(w, http.StatusOK, plan)
	}
	n.ID, n.OperationID = fleet.RolloutID(s.NewID()), fleet.OperationID(s.NewID())
	v, err := s.beginRollout(r.Context(), n)
	if err != nil {
		return err
	}
	if v.Operation != nil {
		w.Header().Set("Location", "/api/v1/operations/"+string(v.Operation.ID))
	}
	return s.writeRollout(w, http.StatusAccepted, v)
}

// beginRollout fills in the defaults of a rollout, which depend on how many
// members there are, and has it made.
func (s *server) beginRollout(ctx context.Context, n NewRollout) (RolloutView, error) {
	group, err := s.Store.Group(ctx, n.Group)
	if fleet.KindOf(err) == fleet.KindNotFound && n.Key.Key != "" {
		// Gone since the request was accepted? The store is asked for the answer
		// under an ID that nothing has, so that it can do nothing else.
		n.Group = s.NewID()
		if v, other := s.Store.CreateRollout(ctx, n); fleet.KindOf(other) != fleet.KindNotFound {
			return v, other
		}
	}
	if err != nil {
		return RolloutView{}, err
	}
	members := 0
	for _, count := range group.Members {
		members += count
	}
	n.Group = string(group.ID)
	if n.Spec, err = s.Planner.Normalise(n.Spec, members); err != nil {
		return RolloutView{}, err
	}
	return s.Store.CreateRollout(ctx, n)
}

func (s *server) planRollout(ctx context.Context, n NewRollout) (client.RolloutPlan, error) {
	members, rollout, err := s.Store.RolloutCandidates(ctx, n.Group, n.To)
	if err != nil {
		return client.RolloutPlan{}, err
	}
	if rollout.Spec, err = s.Planner.Normalise(n.Spec, len(members)); err != nil {
		return client.RolloutPlan{}, err
	}
	return wirePlan(rollout, s.Planner.Plan(rollout.Spec, members)), nil
}

// writeRollout answers with a rollout as it is after what was asked for.
func (s *server) writeRollout(w http.ResponseWriter, status int, v RolloutView) error {
	w.Header()["Etag"] = []string{etag(v.Version)}
	if v.Replayed {
		w.Header()["Idempotency-Replayed"] = []string{"true"}
	}
	return writeJSON(w, status, wireRollout(&v, s.Clock()))
}

// rolloutID returns the ID in the path; rollouts have no names.
func rolloutID(r *http.Request) (fleet.RolloutID, error) {
	id := mux.Vars(r)["id"]
	if !fleet.ValidID(id) {
		return "", fleet.Errorf(fleet.KindNotFound, "there is no rollout %s: give its ID", printable(id))
	}
	return fleet.RolloutID(id), nil
}

// getRollout answers at once, or with ?wait when there is news: the end of the
// rollout, or with ?version=N any version after N. When the wait is over
// without news, it answers with the rollout as it is.
func (s *server) getRollout(w http.ResponseWriter, r *http.Request) error {
	id, err := rolloutID(r)
	if err != nil {
		return err
	}
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	wait, after, err := rolloutNews(query)
	if err != nil {
		return err
	}
	infoOf(r).waited = wait > 0
	v, err := await(r.Context(), s, wait, poll[RolloutView]{
		read: func(ctx context.Context) (RolloutView, error) {
			ctx, cancel := context.WithTimeout(ctx, s.Timeout)
			defer cancel()
			return s.Store.Rollout(ctx, id)
		},
		news: func(v RolloutView) bool { return v.State.Finished() || after > 0 && v.Version > after },
		watch: func(v RolloutView) string {
			if v.Operation == nil {
				return ""
			}
			return string(v.Operation.ID)
		},
		gap: rolloutGap,
	})
	if err != nil {
		return err
	}
	return s.writeRollout(w, http.StatusOK, v)
}

func rolloutNews(query url.Values) (wait time.Duration, after int64, err error) {
	if wait, err = waitOf(query); err != nil || !query.Has("version") {
		return wait, 0, err
	}
	after, err = strconv.ParseInt(query.Get("version"), 10, 64)
	if err != nil || after < 1 {
		return 0, 0, invalidQuery("version", "it must be the version of an earlier answer")
	}
	return wait, after, nil
}

func (s *server) listRolloutMembers(w http.ResponseWriter, r *http.Request) error {
	id, err := rolloutID(r)
	if err != nil {
		return err
	}
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	q := MemberQuery{Rollout: id, State: fleet.MemberState(query.Get("state"))}
	if q.Page, err = page(query); err != nil {
		return err
	}
	if query.Has("state") && !slices.Contains(fleet.MemberStates(), q.State) {
		return invalidQuery("state", "there is no state %s of a rollout's member", printable(string(q.State)))
	}
	members, err := s.Store.RolloutMembers(r.Context(), q)
	if err != nil {
		return err
	}
	members, next := cut(q.Page, members, func(m *fleet.RolloutMember) string { return string(m.InstallationID) })
	return writeJSON(w, http.StatusOK, client.Page[client.RolloutMember]{Items: wireMembers(members), NextCursor: next})
}

// controlRollout handles a verb on a rollout. It takes effect at once; what
// follows from it, the rollout's operation does.
func (s *server) controlRollout(verb fleet.RolloutVerb) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		id, err := rolloutID(r)
		if err != nil {
			return err
		}
		body, err := emptyBody(r)
		if err != nil {
			return err
		}
		c := RolloutControl{ID: id, Verb: verb}
		if c.IfMatch, err = ifMatch(r); err != nil {
			return err
		}
		if c.Key, err = s.idempotencyKey(r, body); err != nil {
			return err
		}
		v, err := s.Store.ControlRollout(r.Context(), c)
		if err != nil {
			return err
		}
		return s.writeRollout(w, http.StatusOK, v)
	}
}
