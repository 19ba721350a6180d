package simulate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/store"
	"dormouse/internal/supervisor/cluster"
	"dormouse/internal/supervisor/engine"
	"dormouse/internal/supervisor/installation"
)

// backend is the store as processes use it; planted bugs stand before the real one.
type backend interface {
	engine.Store
	installation.SweepStore
	installation.Requests
	cluster.DrainStore
	ControlHost(ctx context.Context, in fleet.HostControl) (fleet.HostView, error)
	CheckCluster(ctx context.Context, in fleet.CheckCluster) (fleet.ClusterView, error)
	groups
	CreateInstallation(ctx context.Context, in fleet.NewInstallation) (fleet.Accepted, error)
	CreateCluster(ctx context.Context, in fleet.NewCluster) (fleet.ClusterView, error)
	CreatePackage(ctx context.Context, p fleet.Package) (fleet.Package, error)
	Installation(ctx context.Context, owner, idOrName string) (fleet.InstallationView, error)
}

var _ backend = (*store.Store)(nil)

// gatedStore is the store of one process: every call waits for its turn.
type gatedStore struct{ p *process }

func (g gatedStore) Claim(ctx context.Context, in fleet.ClaimRequest) (out []fleet.Snapshot, err error) {
	what := fmt.Sprintf("claim %d %d %s", in.Interactive, in.Bulk, shorts(in.Signalled))
	err = g.p.store(within(ctx, place{step: "claim"}), what, func(ctx context.Context, b backend) (err error) {
		out, err = b.Claim(ctx, in)
		return err
	}, func(error) { g.p.s.world.claimed(g.p, out) })
	return out, err
}

func (g gatedStore) Commit(ctx context.Context, results []fleet.Result) (out []fleet.Committed, err error) {
	words := make([]string, len(results))
	for i, r := range results {
		words[i] = short(r.OperationID)
	}
	at := place{step: stepName(results[0].Kind, nameOfResult(results[0])) + "/commit"}
	err = g.p.store(within(ctx, at), "commit "+strings.Join(words, ","), func(ctx context.Context, b backend) (err error) {
		out, err = b.Commit(ctx, results)
		return err
	}, func(err error) { g.p.s.world.committed(g.p, results, out, err) })
	return out, err
}

// nameOfResult is the step that ran.
func nameOfResult(r fleet.Result) string {
	if r.Done != "" {
		return r.Done
	}
	return r.Step
}

func (g gatedStore) Extend(ctx context.Context, held map[fleet.OperationID]fleet.Epoch, lease time.Duration) (out map[fleet.OperationID]bool, err error) {
	what := "extend " + shorts(slices.Sorted(maps.Keys(held)))
	err = g.p.store(within(ctx, place{step: "extend"}), what, func(ctx context.Context, b backend) (err error) {
		out, err = b.Extend(ctx, held, lease)
		return err
	})
	return out, err
}

func (g gatedStore) Release(ctx context.Context, worker fleet.WorkerID) (n int64, err error) {
	err = g.p.store(within(ctx, place{step: "release-leases"}), "release "+string(worker), func(ctx context.Context, b backend) (err error) {
		n, err = b.Release(ctx, worker)
		return err
	})
	return n, err
}

func (g gatedStore) InstancePlace(ctx context.Context, id fleet.InstanceID) (out fleet.Snapshot, err error) {
	err = g.p.store(ctx, "instance-place "+short(id), func(ctx context.Context, b backend) (err error) {
		out, err = b.InstancePlace(ctx, id)
		return err
	})
	return out, err
}

func (g gatedStore) ObserveExit(ctx context.Context, id fleet.InstanceID, exit fleet.Exit, to fleet.State) (done bool, err error) {
	err = g.p.store(ctx, "observe-exit "+short(id), func(ctx context.Context, b backend) (err error) {
		done, err = b.ObserveExit(ctx, id, exit, to)
		return err
	})
	return done, err
}

func (g gatedStore) ChangeInstallation(ctx context.Context, in fleet.Change) (out fleet.Accepted, err error) {
	err = g.p.store(ctx, "change "+short(in.OperationID), func(ctx context.Context, b backend) (err error) {
		out, err = b.ChangeInstallation(ctx, in)
		return err
	})
	return out, err
}

func (g gatedStore) CreateInstallation(ctx context.Context, in fleet.NewInstallation) (out fleet.Accepted, err error) {
	err = g.p.store(ctx, "create "+short(in.OperationID), func(ctx context.Context, b backend) (err error) {
		out, err = b.CreateInstallation(ctx, in)
		return err
	})
	return out, err
}

func (g gatedStore) ExpectedInstances(ctx context.Context, id fleet.ClusterID) (out []fleet.ExpectedInstance, err error) {
	err = g.p.store(ctx, "expected-instances", func(ctx context.Context, b backend) (err error) {
		out, err = b.ExpectedInstances(ctx, id)
		return err
	})
	return out, err
}

func (g gatedStore) ExpectedVolumes(ctx context.Context, id fleet.ClusterID) (out []fleet.ExpectedVolume, err error) {
	err = g.p.store(ctx, "expected-volumes", func(ctx context.Context, b backend) (err error) {
		out, err = b.ExpectedVolumes(ctx, id)
		return err
	})
	return out, err
}

func (g gatedStore) DeletedVolumes(ctx context.Context, ids []fleet.VolumeID) (out map[fleet.VolumeID]bool, err error) {
	err = g.p.store(ctx, "deleted-volumes", func(ctx context.Context, b backend) (err error) {
		out, err = b.DeletedVolumes(ctx, ids)
		return err
	})
	return out, err
}

func (g gatedStore) NextEpoch(ctx context.Context) (out fleet.Epoch, err error) {
	err = g.p.store(ctx, "next-epoch", func(ctx context.Context, b backend) (err error) {
		out, err = b.NextEpoch(ctx)
		return err
	})
	return out, err
}

func (g gatedStore) ListClusters(ctx context.Context, page fleet.Page) (out []fleet.ClusterView, err error) {
	err = g.p.store(ctx, "list-clusters", func(ctx context.Context, b backend) (err error) {
		out, err = b.ListClusters(ctx, page)
		return err
	})
	return out, err
}

// short is the random end of an ID: enough to tell one from another in a trace.
func short[T ~string](id T) string { return string(id[max(0, len(id)-6):]) }

func shorts[T ~string](ids []T) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = short(id)
	}
	return strings.Join(words, ",")
}

func stepName(kind fleet.OperationKind, step string) string { return string(kind) + "/" + step }
