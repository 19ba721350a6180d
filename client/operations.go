package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// Operations are the methods on operations.
type Operations struct{ c *Client }

// ListOperations says which operations to list; empty fields are any.
type ListOperations struct {
	// Resource is the ID or name of an installation or cluster, or the ID of a rollout.
	Resource string
	State    string
	// Limit is the most that one page holds; the server's own if 0.
	Limit int
	// Cursor is Page.NextCursor of the page before; All takes it as its start.
	Cursor string
}

func (q ListOperations) values() url.Values {
	v := url.Values{}
	set(v, "resource", q.Resource)
	set(v, "state", q.State)
	page(v, q.Limit, q.Cursor)
	return v
}

// Get returns an operation as it is now.
func (s *Operations) Get(ctx context.Context, id string) (Operation, error) {
	return get[Operation](ctx, s.c, nil, "operations", id)
}

// Explain says what an operation waits for, or how it ended.
func (s *Operations) Explain(ctx context.Context, id string) (Explanation, error) {
	return get[Explanation](ctx, s.c, nil, "operations", id, "explain")
}

// Wait returns the operation as soon as its revision is above the given one or
// it is finished, and after wait (a minute at the most) at the latest as it then is.
func (s *Operations) Wait(ctx context.Context, id string, wait time.Duration, revision int64) (Operation, error) {
	r, err := waitRequest(id, wait, revision)
	if err != nil {
		return Operation{}, err
	}
	var out Operation
	err = s.c.do(ctx, r, &out)
	return out, err
}

// List returns one page of operations, newest first.
func (s *Operations) List(ctx context.Context, q ListOperations) (Page[Operation], error) {
	return get[Page[Operation]](ctx, s.c, q.values(), "operations")
}

// All goes through all pages from q.Cursor on, newest first. An error ends it.
func (s *Operations) All(ctx context.Context, q ListOperations) iter.Seq2[Operation, error] {
	return all(q.Cursor, func(cursor string) (Page[Operation], error) {
		q.Cursor = cursor
		return s.List(ctx, q)
	})
}

func waitRequest(id string, wait time.Duration, revision int64) (request, error) {
	r, err := longPoll("operations", id, wait)
	if err == nil && r.timeout > 0 {
		setNumber(r.query, "revision", revision)
	}
	return r, err
}

// longPoll asks for a thing, and for the answer to be held until there is news of it.
func longPoll(collection, id string, wait time.Duration) (request, error) {
	path, err := pathOf(collection, id)
	if err != nil {
		return request{}, err
	}
	r := request{method: http.MethodGet, path: path, query: url.Values{}}
	if wait = min(wait, maxWait); wait > 0 {
		r.query.Set("wait", wait.String())
		// A server that died without a word must not hold us for ever.
		r.timeout = wait + longPollGraceExtra
	}
	return r, nil
}
