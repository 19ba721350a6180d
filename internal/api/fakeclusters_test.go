package api

import (
	"context"
	"slices"
	"strings"

	"dormouse/internal/fleet"
)

// The part of the fake store that is about clusters, packages and operations.

func (f *fakeStore) CreateCluster(_ context.Context, in NewCluster) (ClusterView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return ClusterView{}, err
	}
	op, err := f.replay(in.Key)
	if err != nil {
		return ClusterView{}, err
	}
	if op != nil {
		v := *f.clusters[fleet.ClusterID(op.ResourceID)]
		v.Replayed = true
		return v, nil
	}
	op = f.operation(in.OperationID, fleet.OperationCreateCluster, fleet.ResourceCluster, string(in.ID), in.Name)
	v := &fleet.ClusterView{
		Cluster: fleet.Cluster{
			ID: in.ID, Name: in.Name, Provider: in.Provider, State: fleet.ClusterCreationRequested, Settings: in.Settings,
			AllowInstallations: true, CreatedAt: epochTime, UpdatedAt: epochTime,
			Check: fleet.CheckReport{Items: []fleet.CheckItem{{Name: "qemu", OK: false, Detail: "not found", Mend: "apt-get install qemu-system-x86"}}},
		},
		Hosts:     []fleet.Host{{ID: "h1", Name: "here", State: fleet.HostUp, MemoryMiB: 1024, DiskMiB: 4096, MemoryHeldMiB: 128, DiskHeldMiB: 1024}},
		Operation: op,
	}
	f.clusters[in.ID] = v
	f.remember(in.Key, op.ID)
	return *v, nil
}

func (f *fakeStore) cluster(idOrName string) *fleet.ClusterView {
	for _, v := range f.clusters {
		if string(v.ID) == idOrName || v.Name == idOrName {
			return v
		}
	}
	return nil
}

func (f *fakeStore) DeleteCluster(_ context.Context, idOrName string, key fleet.IdempotencyKey) (ClusterView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return ClusterView{}, err
	}
	v := f.cluster(idOrName)
	if v == nil {
		return ClusterView{}, fleet.Errorf(fleet.KindNotFound, "there is no cluster %q", idOrName)
	}
	if len(f.installations) > 0 {
		return ClusterView{}, fleet.Errorf(fleet.KindNotAccepted, "cluster %s is in use", v.Name)
	}
	v.State = fleet.ClusterDeletionRequested
	v.Operation = f.operation(fleet.OperationID(fleet.NewID()), fleet.OperationDeleteCluster, fleet.ResourceCluster, string(v.ID), v.Name)
	f.remember(key, v.Operation.ID)
	return *v, nil
}

func (f *fakeStore) CheckCluster(_ context.Context, in CheckCluster) (ClusterView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return ClusterView{}, err
	}
	v := f.cluster(in.IDOrName)
	if v == nil {
		return ClusterView{}, fleet.Errorf(fleet.KindNotFound, "there is no cluster %q", in.IDOrName)
	}
	if v.State != fleet.ClusterStable {
		return ClusterView{}, fleet.Errorf(fleet.KindNotAccepted, "cluster %s can't be checked now", v.Name)
	}
	f.checked = in
	v.Operation = f.operation(in.OperationID, fleet.OperationCheckCluster, fleet.ResourceCluster, string(v.ID), v.Name)
	f.remember(in.Key, v.Operation.ID)
	return *v, nil
}

func (f *fakeStore) Cluster(_ context.Context, idOrName string) (ClusterView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return ClusterView{}, err
	}
	v := f.cluster(idOrName)
	if v == nil {
		return ClusterView{}, fleet.Errorf(fleet.KindNotFound, "there is no cluster %q", idOrName)
	}
	return *v, nil
}

func (f *fakeStore) ListClusters(_ context.Context, page Page) ([]ClusterView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return nil, err
	}
	var all []ClusterView
	for _, v := range f.clusters {
		if string(v.ID) > page.After {
			all = append(all, *v)
		}
	}
	return first(all, page.Limit, func(v ClusterView) string { return string(v.ID) }), nil
}

func (f *fakeStore) CreatePackage(_ context.Context, p fleet.Package) (fleet.Package, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return p, err
	}
	for _, have := range f.packages {
		if have.Name == p.Name && have.Version == p.Version {
			if have.Digest != p.Digest {
				return have, fleet.Errorf(fleet.KindConflict, "package %s@%s exists with another content", p.Name, p.Version)
			}
			return have, nil
		}
	}
	p.CreatedAt = epochTime
	f.packages[p.ID] = p
	return p, nil
}

func (f *fakeStore) DeletePackage(_ context.Context, idOrRef string) error {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return err
	}
	for _, v := range f.installations {
		if v.PackageRef == f.packages[fleet.PackageID(idOrRef)].Name+"@1.0" {
			return fleet.Errorf(fleet.KindNotAccepted, "the package is used by installation %s", v.Name)
		}
	}
	delete(f.packages, fleet.PackageID(idOrRef))
	return nil
}

func (f *fakeStore) Package(_ context.Context, idOrRef string) (fleet.Package, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return fleet.Package{}, err
	}
	for _, p := range f.packages {
		if string(p.ID) == idOrRef || p.Name == idOrRef || p.Name+"@"+p.Version == idOrRef {
			return p, nil
		}
	}
	return fleet.Package{}, fleet.Errorf(fleet.KindNotFound, "there is no package %q", idOrRef)
}

func (f *fakeStore) ListPackages(_ context.Context, page Page) ([]fleet.Package, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return nil, err
	}
	var all []fleet.Package
	for _, p := range f.packages {
		if string(p.ID) > page.After {
			all = append(all, p)
		}
	}
	return first(all, page.Limit, func(p fleet.Package) string { return string(p.ID) }), nil
}

func (f *fakeStore) Operation(_ context.Context, id fleet.OperationID) (fleet.Operation, error) {
	f.read()
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return fleet.Operation{}, err
	}
	op := f.operations[id]
	if op == nil {
		return fleet.Operation{}, fleet.Errorf(fleet.KindNotFound, "there is no operation %q", id)
	}
	return *op, nil
}

func (f *fakeStore) ListOperations(_ context.Context, q OperationQuery) ([]fleet.Operation, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return nil, err
	}
	var all []fleet.Operation
	for _, op := range f.operations {
		if (q.Before == "" || string(op.ID) < q.Before) && (q.State == "" || op.State == q.State) &&
			(q.Resource == "" || op.ResourceID == q.Resource || op.ResourceName == q.Resource) {
			all = append(all, *op)
		}
	}
	slices.SortFunc(all, func(a, b fleet.Operation) int { return strings.Compare(string(b.ID), string(a.ID)) })
	return all[:min(q.Limit, len(all))], nil
}

func (f *fakeStore) Ping(context.Context) error {
	unlock, err := f.lock()
	defer unlock()
	return err
}
