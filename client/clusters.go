package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
)

// Clusters are the methods on clusters. Where an ID is taken, a name does as well.
type Clusters struct{ c *Client }

// ListPage says which page of a list is wanted.
type ListPage struct {
	// Limit is the most that the page holds; the server's own if 0.
	Limit int
	// Cursor is Page.NextCursor of the page before.
	Cursor string
}

func (p ListPage) values() url.Values {
	v := url.Values{}
	page(v, p.Limit, p.Cursor)
	return v
}

// Create registers a cluster. It is returned as accepted, with the operation that checks it.
func (s *Clusters) Create(ctx context.Context, in CreateCluster, options ...RequestOption) (Cluster, error) {
	return mutate[Cluster](ctx, s.c, http.MethodPost, in, options, "clusters")
}

// Get returns a cluster by ID or name.
func (s *Clusters) Get(ctx context.Context, id string) (Cluster, error) {
	return get[Cluster](ctx, s.c, nil, "clusters", id)
}

// Explain says what a cluster waits for, or what it lacks.
func (s *Clusters) Explain(ctx context.Context, id string) (Explanation, error) {
	return get[Explanation](ctx, s.c, nil, "clusters", id, "explain")
}

// List returns one page of clusters.
func (s *Clusters) List(ctx context.Context, q ListPage) (Page[Cluster], error) {
	return get[Page[Cluster]](ctx, s.c, q.values(), "clusters")
}

// All goes through all pages from q.Cursor on. An error ends it.
func (s *Clusters) All(ctx context.Context, q ListPage) iter.Seq2[Cluster, error] {
	return all(q.Cursor, func(cursor string) (Page[Cluster], error) {
		q.Cursor = cursor
		return s.List(ctx, q)
	})
}

// Check has a cluster checked again, so that hosts join it which its provider shows
// now, and settings change. It is returned as accepted, with the operation that does so.
func (s *Clusters) Check(ctx context.Context, id string, in CheckCluster, options ...RequestOption) (Cluster, error) {
	return mutate[Cluster](ctx, s.c, http.MethodPost, in, options, "clusters", id, "check")
}

// Delete asks to remove a cluster, which is refused while something is in it.
func (s *Clusters) Delete(ctx context.Context, id string, options ...RequestOption) (Cluster, error) {
	return mutate[Cluster](ctx, s.c, http.MethodDelete, nil, options, "clusters", id)
}
