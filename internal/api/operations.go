package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/gorilla/mux"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// maxWait bounds a long poll.
const maxWait = time.Minute

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
	if query.Has("wait") {
		d, err := time.ParseDuration(query.Get("wait"))
		if err != nil || d < 0 || d > maxWait {
			return n, invalidQuery("wait", "it must be a duration from 0s to %s, such as 30s", maxWait)
		}
		n.wait = d
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

// awaitNews reads the operation until there is news. It asks to be told of the
// next change and then reads again, so that none falls between; changes by
// other processes it finds by reading now and then. The first read comes before
// all that, so that nobody watches what has ended or does not exist.
func (s *server) awaitNews(ctx context.Context, id fleet.OperationID, n news) (fleet.Operation, error) {
	op, err := s.readOperation(ctx, id)
	if err != nil || n.in(op) {
		return op, err
	}
	over := time.NewTimer(n.wait)
	defer over.Stop()
	again := time.NewTimer(s.Reread)
	defer again.Stop()
	for {
		changed := s.Watch.Changed(string(id))
		if op, err = s.readOperation(ctx, id); err != nil || n.in(op) {
			return op, err
		}
		again.Reset(s.Reread)
		select {
		case <-changed:
		case <-again.C:
		case <-over.C:
			return op, nil
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return op, nil // the server stops: what is known is an answer
			}
			return op, ctx.Err()
		}
	}
}
