package client

import (
	"context"
	"iter"
	"net/http"
)

// Groups are the methods on groups. Where an ID is taken, a name does as well.
// Changes are made at once: there is no operation to wait for.
type Groups struct{ c *Client }

// Create makes a group with its first revision.
func (s *Groups) Create(ctx context.Context, in CreateGroup, options ...RequestOption) (Group, error) {
	return mutate[Group](ctx, s.c, http.MethodPost, in, options, "groups")
}

// Get returns a group by ID or name.
func (s *Groups) Get(ctx context.Context, id string) (Group, error) {
	return get[Group](ctx, s.c, nil, "groups", id)
}

// List returns one page of groups, oldest first.
func (s *Groups) List(ctx context.Context, q ListPage) (Page[Group], error) {
	return get[Page[Group]](ctx, s.c, q.values(), "groups")
}

// All goes through all pages from q.Cursor on. An error ends it.
func (s *Groups) All(ctx context.Context, q ListPage) iter.Seq2[Group, error] {
	return all(q.Cursor, func(cursor string) (Page[Group], error) {
		q.Cursor = cursor
		return s.List(ctx, q)
	})
}

// Update changes a group. A change of its configuration makes a new revision;
// members get it from a rollout.
func (s *Groups) Update(ctx context.Context, id string, in UpdateGroup, options ...RequestOption) (Group, error) {
	return mutate[Group](ctx, s.c, http.MethodPatch, in, options, "groups", id)
}

// Delete removes a group, which is not accepted while it has members or a
// rollout that is not finished.
func (s *Groups) Delete(ctx context.Context, id string, options ...RequestOption) error {
	path, err := pathOf("groups", id)
	if err != nil {
		return err
	}
	return s.c.remove(ctx, path, options)
}

// Revisions returns one page of a group's revisions, oldest first.
func (s *Groups) Revisions(ctx context.Context, id string, q ListPage) (Page[GroupRevision], error) {
	return get[Page[GroupRevision]](ctx, s.c, q.values(), "groups", id, "revisions")
}

// AllRevisions goes through all pages of a group's revisions from q.Cursor on. An error ends it.
func (s *Groups) AllRevisions(ctx context.Context, id string, q ListPage) iter.Seq2[GroupRevision, error] {
	return all(q.Cursor, func(cursor string) (Page[GroupRevision], error) {
		q.Cursor = cursor
		return s.Revisions(ctx, id, q)
	})
}
