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

func (s *server) listOperations(w http.ResponseWriter, r *http.Request) error {
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	p, err := page(query)
	if err != nil {
		return err
	}
	q := OperationQuery{
		Before: p.After, Limit: p.Limit,
		Resource: query.Get("resource"), State: fleet.OperationState(query.Get("state")),
	}
	if query.Has("resource") && !fleet.ValidID(q.Resource) && !isDNSLabel(q.Resource) {
		return invalidQuery("resource", "it must be the ID or name of an installation or cluster")
	}
	states := []fleet.OperationState{fleet.OperationQueued, fleet.OperationActive,
		fleet.OperationSucceeded, fleet.OperationFailed, fleet.OperationCancelled}
	if query.Has("state") && !slices.Contains(states, q.State) {
		return invalidQuery("state", "it must be queued, active, succeeded, failed or cancelled")
	}
	ops, err := s.Store.ListOperations(r.Context(), q)
	if err != nil {
		return err
	}
	ops, next := cut(p, ops, func(o *fleet.Operation) string { return string(o.ID) })
	items := make([]client.Operation, len(ops))
	for i := range ops {
		items[i] = wireOperation(&ops[i])
	}
	return writeJSON(w, http.StatusOK, client.Page[client.Operation]{Items: items, NextCursor: next})
}

// getOperation answers at once, or with ?wait when there is news: the end of
// the operation, or with ?revision=N any revision after N. When the wait is
// over without news, it answers with the operation as it is.
func (s *server) getOperation(w http.ResponseWriter, r *http.Request) error {
	id := fleet.OperationID(mux.Vars(r)["id"])
	if !fleet.ValidID(string(id)) {
		return fleet.Errorf(fleet.KindNotFound, "there is no operation %s", printable(string(id)))
	}
	query, err := parseQuery(r)
	if err != nil {
		return err
	}
	news, err := newsOf(query)
	if err != nil {
		return err
	}
	var op fleet.Operation
	if news.wait == 0 {
		op, err = s.readOperation(r.Context(), id)
	} else {
		infoOf(r).waited = true
		op, err = s.awaitNews(r.Context(), id, news)
	}
	if err != nil {
		return err
	}
	writeOperation(w, wireOperation(&op))
	return nil
}

// news is what a long poll waits for, and how long.
type news struct {
	wait time.Duration
	// after is the revision that the caller knows; below 0: only the end counts.
	after int64
}

func newsOf(query url.Values) (news, error) {
	n := news{after: -1}
	var err error
	if n.wait, err = waitOf(query); err != nil {
		return n, err
	}
	if query.Has("revision") {
		rev, err := strconv.ParseInt(query.Get("revision"), 10, 64)
		if err != nil || rev < 0 {
			return n, invalidQuery("revision", "it must be the revision of an earlier answer")
		}
		n.after = rev
	}
	return n, nil
}

func (n news) in(op fleet.Operation) bool {
	return op.State.Finished() || n.after >= 0 && op.Revision > n.after
}

func (s *server) readOperation(ctx context.Context, id fleet.OperationID) (fleet.Operation, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	return s.Store.Operation(ctx, id)
}

func (s *server) awaitNews(ctx context.Context, id fleet.OperationID, n news) (fleet.Operation, error) {
	return await(ctx, s, n.wait, poll[fleet.Operation]{
		read:  func(ctx context.Context) (fleet.Operation, error) { return s.readOperation(ctx, id) },
		news:  n.in,
		watch: func(op fleet.Operation) string { return string(op.ID) },
	})
}
