package simulate

import (
	"context"
	"errors"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
	"dormouse/internal/store"
)

func (g gatedStore) LookAtDrain(ctx context.Context, id fleet.HostID, known []fleet.InstallationID) (out fleet.DrainLook, err error) {
	err = g.p.store(ctx, "look-at-drain "+short(id), func(ctx context.Context, b backend) (err error) {
		out, err = b.LookAtDrain(ctx, id, known)
		return err
	})
	return out, err
}

func (g gatedStore) ControlHost(ctx context.Context, in fleet.HostControl) (out fleet.HostView, err error) {
	err = g.p.store(ctx, string(in.Verb)+" "+short(in.Host), func(ctx context.Context, b backend) (err error) {
		out, err = b.ControlHost(ctx, in)
		return err
	})
	return out, err
}

func (g gatedStore) CheckCluster(ctx context.Context, in fleet.CheckCluster) (out fleet.ClusterView, err error) {
	err = g.p.store(ctx, "check-cluster", func(ctx context.Context, b backend) (err error) {
		out, err = b.CheckCluster(ctx, in)
		return err
	})
	return out, err
}

// hosts are those that the cluster has in this seed.
func (s *simulation) hosts() (all []string) {
	settings, err := sim.ParseSettings(s.draw.settings)
	if err != nil {
		s.fail("reading the settings: %v", err)
	}
	for n := range settings.Hosts {
		all = append(all, string(sim.HostID(s.world.cluster, n)))
	}
	return all
}

// check has the cluster checked again.
func (c *client) check() {
	in := fleet.CheckCluster{IDOrName: clusterName, Key: c.key()}
	_, err := c.ask("check", func(ctx context.Context, g gatedStore) (fleet.Accepted, error) {
		in.OperationID = fleet.OperationID(fleet.NewID())
		_, err := g.CheckCluster(ctx, in)
		return fleet.Accepted{}, err
	})
	if err != nil && fleet.KindOf(err) != fleet.KindNotAccepted && !errors.Is(err, errDead) {
		c.s.world.broken("NoInternalError", "checking the cluster: %v", err)
	}
}

// host cordons, drains or takes back a host. Half of the requests take back, so
// that there is somewhere to go most of the time. Some have the cluster checked again.
func (c *client) host(string) {
	if c.rng.IntN(8) == 0 {
		c.check()
		return
	}
	all := c.s.hosts()
	in := fleet.HostControl{Cluster: clusterName, Host: all[c.rng.IntN(len(all))], Verb: fleet.HostUncordon, Key: c.key()}
	switch c.rng.IntN(6) {
	case 0:
		in.Verb = fleet.HostCordon
	case 1, 2:
		in.Verb, in.AtOnce = fleet.HostDrain, 1+c.rng.IntN(8)
	}
	_, err := c.ask(string(in.Verb), func(ctx context.Context, g gatedStore) (fleet.Accepted, error) {
		in.OperationID = fleet.OperationID(fleet.NewID())
		_, err := g.ControlHost(ctx, in)
		return fleet.Accepted{}, err
	})
	if err != nil && fleet.KindOf(err) != fleet.KindNotFound && fleet.KindOf(err) != fleet.KindConflict && !errors.Is(err, errDead) {
		c.s.world.broken("NoInternalError", "%s of a host: %v", in.Verb, err)
	}
}

// takeBack has all hosts take installations again, so that everything can come to its end.
func (s *simulation) takeBack() {
	for _, h := range s.hosts() {
		if err := s.directly(func(ctx context.Context, st *store.Store) error {
			_, err := st.ControlHost(ctx, fleet.HostControl{Cluster: clusterName, Host: h, Verb: fleet.HostUncordon})
			return err
		}); err != nil && fleet.KindOf(err) != fleet.KindNotFound { // it was just removed
			s.fail("taking back host %s: %v", h, err)
		}
	}
}
