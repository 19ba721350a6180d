package client

import (
	"context"
	"iter"
	"net/url"
)

// Instances are the methods on instances: the virtual machines of installations.
type Instances struct{ c *Client }

// InstanceDetail is an instance with whose it is and where it is reached.
type InstanceDetail struct {
	Instance
	InstallationID string `json:"installation_id"`
	Installation   string `json:"installation"`
	Owner          string `json:"owner"`
	Cluster        string `json:"cluster"`
	Role           string `json:"role"`
	// Serving: it answers the installation's users.
	Serving bool `json:"serving"`
	// Clone: a throw-away copy on which a release is tried.
	Clone       bool   `json:"clone"`
	Kernel      string `json:"kernel,omitempty"`
	VCPUs       int    `json:"vcpus"`
	ProviderRef string `json:"provider_ref,omitempty"`
	// Address is the guest's own, in CIDR form; empty where its provider chooses it.
	Address string `json:"address,omitempty"`
	MAC     string `json:"mac,omitempty"`
	// Endpoints are where its ports are reached from the host.
	Endpoints []Endpoint `json:"endpoints"`
}

// ListInstances asks for instances; empty fields do not narrow the list.
type ListInstances struct {
	// Installation and Cluster are an ID or a name.
	Installation, Cluster string
	Limit                 int
	Cursor                string
}

func (q ListInstances) values() url.Values {
	v := url.Values{}
	set(v, "installation", q.Installation)
	set(v, "cluster", q.Cluster)
	page(v, q.Limit, q.Cursor)
	return v
}

// List returns one page of instances, oldest first.
func (s *Instances) List(ctx context.Context, q ListInstances) (Page[InstanceDetail], error) {
	return get[Page[InstanceDetail]](ctx, s.c, q.values(), "instances")
}

// All goes through all pages from q.Cursor on. An error ends it.
func (s *Instances) All(ctx context.Context, q ListInstances) iter.Seq2[InstanceDetail, error] {
	return all(q.Cursor, func(cursor string) (Page[InstanceDetail], error) {
		q.Cursor = cursor
		return s.List(ctx, q)
	})
}

// Get returns an instance by its ID.
func (s *Instances) Get(ctx context.Context, id string) (InstanceDetail, error) {
	return get[InstanceDetail](ctx, s.c, nil, "instances", id)
}
