package client

import (
	"context"
	"net/http"
)

// Hosts are the methods on the hosts of clusters. Where an ID is taken, a name
// does as well.
type Hosts struct{ c *Client }

// Host is a machine of a cluster.
type Host struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// State is up, cordoned, draining or down.
	State         string `json:"state"`
	MemoryMiB     int64  `json:"memory_mib"`
	MemoryHeldMiB int64  `json:"memory_held_mib"`
	DiskMiB       int64  `json:"disk_mib"`
	DiskHeldMiB   int64  `json:"disk_held_mib"`
	// Cluster is the cluster's name; empty where the host is shown with its cluster.
	Cluster string `json:"cluster,omitempty"`
	// Installations is how many lie there, nil where they were not counted.
	Installations *int `json:"installations,omitempty"`
	// Drain is the last one, nil where there was none or the host is up again.
	Drain *Drain `json:"drain,omitempty"`
}

// Drain is how far the installations of a host have been moved away.
type Drain struct {
	// Operation carries the drain out; its WaitReason and WaitDetail say what it waits for.
	Operation Operation `json:"operation"`
	// AtOnce is how many are moved at a time.
	AtOnce int `json:"at_once"`
	Total  int `json:"total"`
	Done   int `json:"done"`
	// Left are those that lie there still: the sum of the four that follow.
	Left    int `json:"left"`
	Moving  int `json:"moving"`
	Waiting int `json:"waiting"`
	Failed  int `json:"failed"`
	Stays   int `json:"stays"`
	// Members are those left, at most 100: those that failed and those that stay first.
	Members []DrainMember `json:"members"`
}

// DrainMember is an installation that lies on a host that is drained.
type DrainMember struct {
	InstallationID string `json:"installation_id"`
	Name           string `json:"name"`
	State          string `json:"state"`
	// Progress is moving, waiting, failed (and tried again) or stays.
	Progress string `json:"progress"`
	// Busy is the kind of operation that is at work on it; empty for none.
	Busy string `json:"busy,omitempty"`
	// Failures counts its moves that failed; Reason and Detail are the last one's.
	Failures int    `json:"failures"`
	Reason   string `json:"reason,omitempty"`
	Detail   string `json:"detail,omitempty"`
}

// DrainHost is the body of POST /api/v1/clusters/{id}/hosts/{host}/drain.
type DrainHost struct {
	// AtOnce is how many installations are moved at a time; the server's own if 0.
	AtOnce int `json:"at_once,omitempty"`
}

// List returns the hosts of a cluster in order of their names.
func (s *Hosts) List(ctx context.Context, cluster string) (Page[Host], error) {
	return get[Page[Host]](ctx, s.c, nil, "clusters", cluster, "hosts")
}

// Get returns a host with what lies there.
func (s *Hosts) Get(ctx context.Context, cluster, host string) (Host, error) {
	return get[Host](ctx, s.c, nil, "clusters", cluster, "hosts", host)
}

// Cordon has a host take no new installations. What lies there stays.
func (s *Hosts) Cordon(ctx context.Context, cluster, host string, options ...RequestOption) (Host, error) {
	return mutate[Host](ctx, s.c, http.MethodPost, nil, options, "clusters", cluster, "hosts", host, "cordon")
}

// Uncordon has a host take installations again. It cancels a drain.
func (s *Hosts) Uncordon(ctx context.Context, cluster, host string, options ...RequestOption) (Host, error) {
	return mutate[Host](ctx, s.c, http.MethodPost, nil, options, "clusters", cluster, "hosts", host, "uncordon")
}

// Drain cordons a host and moves everything away from it. It is returned as
// accepted, with the operation that does so.
func (s *Hosts) Drain(ctx context.Context, cluster, host string, in DrainHost, options ...RequestOption) (Host, error) {
	return mutate[Host](ctx, s.c, http.MethodPost, in, options, "clusters", cluster, "hosts", host, "drain")
}

// Remove forgets a cordoned host on which nothing lies.
func (s *Hosts) Remove(ctx context.Context, cluster, host string, options ...RequestOption) error {
	path, err := pathOf("clusters", cluster, "hosts", host)
	if err != nil {
		return err
	}
	return s.c.remove(ctx, path, options)
}
