package client

import (
	"context"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
)

// Installations are the methods on installations. Where an ID is taken, a name
// does as well; the name of one that is deleted names nothing any more.
type Installations struct{ c *Client }

// ListInstallations says which installations to list; empty fields are any.
type ListInstallations struct {
	Owner string
	// Cluster is a cluster's name.
	Cluster string
	// Group is a group's name.
	Group string
	State string
	// Labels must all be there with these values.
	Labels map[string]string
	// Limit is the most that one page holds; the server's own if 0.
	Limit int
	// Cursor is Page.NextCursor of the page before; All takes it as its start.
	Cursor string
}

func (q ListInstallations) values() url.Values {
	v := url.Values{}
	set(v, "owner", q.Owner)
	set(v, "cluster", q.Cluster)
	set(v, "group", q.Group)
	set(v, "state", q.State)
	for key, value := range q.Labels {
		v.Add("label", key+"="+value)
	}
	page(v, q.Limit, q.Cursor)
	return v
}

// LogOptions says which of an installation's output to read.
type LogOptions struct {
	// Tail is how many of the last lines to begin with; 0 is all that is kept.
	Tail int
	// Follow goes on with what is written from now on, until the context ends.
	Follow bool
}

// Create asks for an installation. It is returned as accepted, with the
// operation that makes it.
func (s *Installations) Create(ctx context.Context, in CreateInstallation, options ...RequestOption) (Installation, error) {
	return mutate[Installation](ctx, s.c, http.MethodPost, in, options, "installations")
}

// Get returns an installation by ID (also one that is deleted) or by name.
func (s *Installations) Get(ctx context.Context, id string) (Installation, error) {
	return get[Installation](ctx, s.c, nil, "installations", id)
}

// List returns one page of installations, in order of ID, which is by age.
func (s *Installations) List(ctx context.Context, q ListInstallations) (Page[Installation], error) {
	return get[Page[Installation]](ctx, s.c, q.values(), "installations")
}

// All goes through all pages from q.Cursor on. An error ends it.
func (s *Installations) All(ctx context.Context, q ListInstallations) iter.Seq2[Installation, error] {
	return all(q.Cursor, func(cursor string) (Page[Installation], error) {
		q.Cursor = cursor
		return s.List(ctx, q)
	})
}

// Update asks for a change. One of an installation that is being worked on is
// accepted too, and follows that work.
func (s *Installations) Update(ctx context.Context, id string, in UpdateInstallation, options ...RequestOption) (Installation, error) {
	return mutate[Installation](ctx, s.c, http.MethodPatch, in, options, "installations", id)
}

// Delete asks to remove an installation with its data. It ends the work under way.
func (s *Installations) Delete(ctx context.Context, id string, options ...RequestOption) (Installation, error) {
	return mutate[Installation](ctx, s.c, http.MethodDelete, nil, options, "installations", id)
}

// Hibernate asks to put an installation to sleep: no VM, its data kept.
func (s *Installations) Hibernate(ctx context.Context, id string, options ...RequestOption) (Installation, error) {
	return mutate[Installation](ctx, s.c, http.MethodPost, nil, options, "installations", id, "hibernate")
}

// Wake asks to bring an installation back from sleep.
func (s *Installations) Wake(ctx context.Context, id string, options ...RequestOption) (Installation, error) {
	return mutate[Installation](ctx, s.c, http.MethodPost, nil, options, "installations", id, "wake")
}

// Restart asks for a clean stop and a new start.
func (s *Installations) Restart(ctx context.Context, id string, options ...RequestOption) (Installation, error) {
	return mutate[Installation](ctx, s.c, http.MethodPost, nil, options, "installations", id, "restart")
}

// Retry asks for whatever failed once more.
func (s *Installations) Retry(ctx context.Context, id string, options ...RequestOption) (Installation, error) {
	return mutate[Installation](ctx, s.c, http.MethodPost, nil, options, "installations", id, "retry")
}

// Explain says what an installation waits for, and why.
func (s *Installations) Explain(ctx context.Context, id string) (Explanation, error) {
	return get[Explanation](ctx, s.c, nil, "installations", id, "explain")
}

// Logs returns the output of an installation's instance, as its console wrote
// it. The caller closes it.
func (s *Installations) Logs(ctx context.Context, id string, options LogOptions) (io.ReadCloser, error) {
	path, err := pathOf("installations", id, "logs")
	if err != nil {
		return nil, err
	}
	query := url.Values{}
	if options.Tail > 0 {
		query.Set("tail", strconv.Itoa(options.Tail))
	}
	if options.Follow {
		query.Set("follow", "true")
	}
	return s.c.stream(ctx, request{method: http.MethodGet, path: path, query: query})
}
