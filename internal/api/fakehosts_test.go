package api

import (
	"context"

	"dormouse/internal/fleet"
)

// The part of the fake store that is about hosts.

func (f *fakeStore) ListHosts(_ context.Context, cluster string) ([]HostView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return nil, err
	}
	v := f.cluster(cluster)
	if v == nil {
		return nil, fleet.Errorf(fleet.KindNotFound, "there is no cluster %q", cluster)
	}
	all := []HostView{}
	for i := range v.Hosts {
		all = append(all, f.hostView(v, &v.Hosts[i]))
	}
	return all, nil
}

func (f *fakeStore) hostView(c *fleet.ClusterView, h *fleet.Host) HostView {
	v := HostView{Host: *h, ClusterName: c.Name}
	if h.DrainOperationID != "" {
		v.Operation, v.Members = f.operations[h.DrainOperationID], f.lying
	}
	return v
}

// host finds one; nil where there is none.
func (f *fakeStore) host(cluster, host string) (*fleet.ClusterView, *fleet.Host) {
	if c := f.cluster(cluster); c != nil {
		for i := range c.Hosts {
			if string(c.Hosts[i].ID) == host || c.Hosts[i].Name == host {
				return c, &c.Hosts[i]
			}
		}
	}
	return nil, nil
}

func (f *fakeStore) Host(_ context.Context, cluster, host string) (HostView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return HostView{}, err
	}
	c, h := f.host(cluster, host)
	if h == nil {
		return HostView{}, fleet.Errorf(fleet.KindNotFound, "there is no host %q", host)
	}
	v := f.hostView(c, h)
	v.Members = append([]fleet.DrainMember{}, f.lying...)
	return v, nil
}

func (f *fakeStore) ControlHost(_ context.Context, in HostControl) (HostView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return HostView{}, err
	}
	f.hosted = in
	c, h := f.host(in.Cluster, in.Host)
	if h == nil {
		return HostView{}, fleet.Errorf(fleet.KindNotFound, "there is no host %q", in.Host)
	}
	to, ok := h.State.Accepts(in.Verb)
	if !ok || in.Verb == fleet.HostRemove && len(f.lying) > 0 {
		return HostView{}, fleet.Errorf(fleet.KindNotAccepted, "host %s is %s", h.Name, h.State)
	}
	if in.Verb == fleet.HostRemove {
		v := f.hostView(c, h)
		c.Hosts = nil
		return v, nil
	}
	if in.Verb == fleet.HostDrain {
		op := f.operation(in.OperationID, fleet.OperationDrain, fleet.ResourceHost, string(h.ID), h.Name)
		op.Observed = map[string]string{"total": "7"}
		h.DrainOperationID, h.DrainAtOnce = op.ID, in.AtOnce
	}
	h.State = to
	return f.hostView(c, h), nil
}
