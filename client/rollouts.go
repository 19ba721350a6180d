package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// Rollouts are the methods on rollouts. A group is taken by ID or name, a
// rollout by its ID.
type Rollouts struct{ c *Client }

// ListRollouts says which rollouts to list; empty fields are any.
type ListRollouts struct {
	// Group is a group's ID or name.
	Group string
	// Limit is the most that one page holds; the server's own if 0.
	Limit int
	// Cursor is Page.NextCursor of the page before; All takes it as its start.
	Cursor string
}

func (q ListRollouts) values() url.Values {
	v := url.Values{}
	set(v, "group", q.Group)
	page(v, q.Limit, q.Cursor)
	return v
}

// ListRolloutMembers says which members of a rollout to list; empty fields are any.
type ListRolloutMembers struct {
	State string
	// Limit is the most that one page holds; the server's own if 0.
	Limit int
	// Cursor is Page.NextCursor of the page before; AllMembers takes it as its start.
	Cursor string
}

func (q ListRolloutMembers) values() url.Values {
	v := url.Values{}
	set(v, "state", q.State)
	page(v, q.Limit, q.Cursor)
	return v
}

// Create begins a rollout to the members of a group. It is returned as
// accepted, with the operation that carries it out. One that is under way is
// superseded. in.DryRun is left out: see Plan.
func (s *Rollouts) Create(ctx context.Context, group string, in CreateRollout, options ...RequestOption) (Rollout, error) {
	in.DryRun = false
	return mutate[Rollout](ctx, s.c, http.MethodPost, in, options, "groups", group, "rollouts")
}

// Plan says what a rollout would do, and changes nothing.
func (s *Rollouts) Plan(ctx context.Context, group string, in CreateRollout) (RolloutPlan, error) {
	in.DryRun = true
	return mutate[RolloutPlan](ctx, s.c, http.MethodPost, in, nil, "groups", group, "rollouts")
}

// Get returns a rollout as it is now.
func (s *Rollouts) Get(ctx context.Context, id string) (Rollout, error) {
	return get[Rollout](ctx, s.c, nil, "rollouts", id)
}

// Explain says what a rollout waits for, or why it has stopped.
func (s *Rollouts) Explain(ctx context.Context, id string) (Explanation, error) {
	return get[Explanation](ctx, s.c, nil, "rollouts", id, "explain")
}

// List returns one page of rollouts, newest first.
func (s *Rollouts) List(ctx context.Context, q ListRollouts) (Page[RolloutSummary], error) {
	return get[Page[RolloutSummary]](ctx, s.c, q.values(), "rollouts")
}

// All goes through all pages from q.Cursor on, newest first. An error ends it.
func (s *Rollouts) All(ctx context.Context, q ListRollouts) iter.Seq2[RolloutSummary, error] {
	return all(q.Cursor, func(cursor string) (Page[RolloutSummary], error) {
		q.Cursor = cursor
		return s.List(ctx, q)
	})
}

// Members returns one page of a rollout's members, in order of installation ID.
func (s *Rollouts) Members(ctx context.Context, id string, q ListRolloutMembers) (Page[RolloutMember], error) {
	return get[Page[RolloutMember]](ctx, s.c, q.values(), "rollouts", id, "members")
}

// AllMembers goes through all pages of a rollout's members from q.Cursor on. An error ends it.
func (s *Rollouts) AllMembers(ctx context.Context, id string, q ListRolloutMembers) iter.Seq2[RolloutMember, error] {
	return all(q.Cursor, func(cursor string) (Page[RolloutMember], error) {
		q.Cursor = cursor
		return s.Members(ctx, id, q)
	})
}

// Pause begins nothing new until the rollout is resumed.
func (s *Rollouts) Pause(ctx context.Context, id string, options ...RequestOption) (Rollout, error) {
	return s.control(ctx, id, "pause", options)
}

// Resume goes on after a pause.
func (s *Rollouts) Resume(ctx context.Context, id string, options ...RequestOption) (Rollout, error) {
	return s.control(ctx, id, "resume", options)
}

// Force goes on against the judge and the limits, which halt the rollout no more.
func (s *Rollouts) Force(ctx context.Context, id string, options ...RequestOption) (Rollout, error) {
	return s.control(ctx, id, "force", options)
}

// Cancel ends a rollout and leaves every member where it is.
func (s *Rollouts) Cancel(ctx context.Context, id string, options ...RequestOption) (Rollout, error) {
	return s.control(ctx, id, "cancel", options)
}

// Rollback puts back what was touched.
func (s *Rollouts) Rollback(ctx context.Context, id string, options ...RequestOption) (Rollout, error) {
	return s.control(ctx, id, "rollback", options)
}

// Retry puts the new release again on the members that failed.
func (s *Rollouts) Retry(ctx context.Context, id string, options ...RequestOption) (Rollout, error) {
	return s.control(ctx, id, "retry", options)
}

func (s *Rollouts) control(ctx context.Context, id, verb string, options []RequestOption) (Rollout, error) {
	return mutate[Rollout](ctx, s.c, http.MethodPost, nil, options, "rollouts", id, verb)
}

// Wait returns the rollout as soon as it is finished, and after wait (a minute
// at the most) at the latest as it then is. With a version above 0 a later
// version is news too: a busy rollout has many in a second.
func (s *Rollouts) Wait(ctx context.Context, id string, wait time.Duration, version int64) (Rollout, error) {
	r, err := longPoll("rollouts", id, wait)
	if err != nil {
		return Rollout{}, err
	}
	if version > 0 && r.timeout > 0 {
		setNumber(r.query, "version", version)
	}
	var out Rollout
	err = s.c.do(ctx, r, &out)
	return out, err
}
