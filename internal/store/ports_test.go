package store

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// broker is a package with two ports of protocol tcp.
func (w *world) broker(version string, ports ...int) {
	w.t.Helper()
	m := fleet.Manifest{Program: "/broker", Ports: []fleet.Port{{Number: 80, Protocol: fleet.ProtocolHTTP}}}
	for _, p := range ports {
		m.Ports = append(m.Ports, fleet.Port{Number: p, Protocol: fleet.ProtocolTCP})
	}
	_, err := w.CreatePackage(context.Background(), fleet.Package{Name: "broker", Version: version, Digest: "b" + version, Kernel: fleet.KernelLinux, Manifest: m})
	require.NoError(w.t, err)
}

func (w *world) createBroker(name string) (fleet.Accepted, error) {
	in := w.request(name)
	in.PackageRef = "broker@1"
	in.Key = fleet.IdempotencyKey{Key: name, RequestHash: name}
	return w.CreateInstallation(context.Background(), in)
}

func (w *world) remove(name string) {
	w.t.Helper()
	w.mustChange(name, fleet.OperationDelete)
	for _, s := range w.claim() {
		if s.Operation.Kind == fleet.OperationDelete {
			w.commit(finish(s, fleet.StateDeleted))
		}
	}
}

func TestGatewayPorts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	w.broker("1", 5432, 1883)
	w.broker("2", 1883, 9000)
	a, err := w.createBroker("none")
	require.NoError(t, err)
	require.Empty(t, a.Installation.GatewayPorts, "the gateway has no ports")

	require.NoError(t, w.SetGatewayPorts(ctx, 30000, 30001))
	first := []fleet.RoutePort{{Gateway: 30000, Port: 1883}, {Gateway: 30001, Port: 5432}}
	require.Equal(t, first, w.installation("none").GatewayPorts, "what was there before")
	w.sqlExec(t, "UPDATE gateway_port SET installation_id = NULL, guest_port = NULL")
	w.sqlExec(t, "UPDATE installation SET deleted_at = dormouse_now(), state = 'deleted' WHERE name = 'none'")
	require.NoError(t, w.SetGatewayPorts(ctx, 30000, 30004))
	require.NoError(t, w.SetGatewayPorts(ctx, 30000, 30004))
	a, err = w.createBroker("one")
	require.NoError(t, err)
	require.Equal(t, first, a.Installation.GatewayPorts, "from the first day")
	require.Equal(t, first, w.installation("one").GatewayPorts)
	require.Equal(t, first, w.list(fleet.InstallationQuery{})[0].GatewayPorts)
	a, err = w.createBroker("one")
	require.NoError(t, err)
	require.True(t, a.Replayed)
	require.Equal(t, first, a.Installation.GatewayPorts)
	_, err = w.createBroker("two")
	require.NoError(t, err)
	w.create("web") // which needs none

	// One is left, and two are wanted: nothing is written of it.
	_, err = w.createBroker("three")
	require.Equal(t, fleet.KindCapacity, fleet.KindOf(err))
	require.ErrorContains(t, err, "--gateway-ports")
	require.Equal(t, 0, w.count(t, "SELECT count(*) FROM installation WHERE name = 'three'"))
	require.Equal(t, 4, w.count(t, "SELECT count(*) FROM gateway_port WHERE installation_id IS NOT NULL"))

	// Another release: a port more, and the one that it has no more stays.
	v, err := w.patch("one", fleet.Change{PackageRef: ptr("broker@2")})
	require.NoError(t, err)
	require.Equal(t, append(first, fleet.RoutePort{Gateway: 30004, Port: 9000}), v.GatewayPorts)
	_, err = w.patch("two", fleet.Change{PackageRef: ptr("broker@2")})
	require.Equal(t, fleet.KindCapacity, fleet.KindOf(err))
	require.Equal(t, "broker@1", w.installation("two").PackageRef)

	// What was released is leased again as late as possible.
	w.remove("two")
	require.Equal(t, 0, w.count(t, "SELECT count(*) FROM gateway_port WHERE port IN (30002, 30003) AND installation_id IS NOT NULL"))
	require.NoError(t, w.SetGatewayPorts(ctx, 30001, 30006))
	require.Equal(t, "30000,30001,30002,30003,30004,30005,30006", w.text(t, "SELECT string_agg(port::text, ',' ORDER BY port) FROM gateway_port"), "what is leased stays")
	a, err = w.createBroker("four")
	require.NoError(t, err)
	require.Equal(t, []fleet.RoutePort{{Gateway: 30005, Port: 1883}, {Gateway: 30006, Port: 5432}}, a.Installation.GatewayPorts)
	w.later(time.Minute)
	w.remove("one")
	a, err = w.createBroker("five")
	require.NoError(t, err)
	require.Equal(t, []fleet.RoutePort{{Gateway: 30002, Port: 1883}, {Gateway: 30003, Port: 5432}}, a.Installation.GatewayPorts)
	require.NoError(t, w.SetGatewayPorts(ctx, 1, 0))
	require.Equal(t, 4, w.count(t, "SELECT count(*) FROM gateway_port"))
}

// A rollout's release has a port that the one before had not.
func TestRolloutLeasesPorts(t *testing.T) {
	t.Parallel()
	r := newRolling(t, "a", "b")
	require.NoError(t, r.SetGatewayPorts(context.Background(), 30000, 30000))
	r.sqlExec(t, `UPDATE package SET manifest = '{"program": "/web", "ports": [{"number": 1883, "protocol": "tcp"}]}' WHERE id = $1`, r.second.ID)
	r.begin("a", fleet.OperationUpdate)
	require.Equal(t, []fleet.RoutePort{{Gateway: 30000, Port: 1883}}, r.installation("a").GatewayPorts)
	require.NoError(t, r.InTx(t.Context(), func(tx *Tx) error { return tx.pin(t.Context(), r.installation("b").ID, 2) }))
	require.Empty(t, r.installation("b").GatewayPorts, "a range that has run dry does not stop it")
	require.Equal(t, r.second.ID, r.installation("b").PackageID)
}

func TestGatewayPortsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker("1", 5432, 1883)
	require.NoError(t, w.SetGatewayPorts(context.Background(), 30000, 30099))
	for _, err := range together(16, func(n int) error {
		for i := range 3 {
			if _, err := w.createBroker(fmt.Sprintf("t%d-%d", n, i)); err != nil {
				return err
			}
		}
		return nil
	}) {
		require.NoError(t, err)
	}
	require.Equal(t, 96, w.count(t, "SELECT count(*) FROM gateway_port WHERE installation_id IS NOT NULL"))
}

func TestLowPools(t *testing.T) {
	t.Parallel()
	small, large := hostSize, hostSize
	small.AddressPool = "10.77.0.0/29" // 5 beside the host's own
	large.Name, large.AddressPool = "h2", "10.78.0.0/24"
	w := newWorld(t, small, large)
	ctx := context.Background()
	low := func() (names []string) {
		pools, err := w.LowPools(ctx)
		require.NoError(t, err)
		for _, p := range pools {
			names = append(names, fmt.Sprintf("%s %d/%d %v", p.Name, p.Free, p.Size, p.New))
		}
		return names
	}
	require.Empty(t, low())
	require.NoError(t, w.SetGatewayPorts(ctx, 30000, 30019))
	require.Empty(t, low())
	w.sqlExec(t, "UPDATE gateway_port SET installation_id = 'x', guest_port = port WHERE port < 30018")
	require.Empty(t, low(), "a tenth is free")
	w.sqlExec(t, "UPDATE gateway_port SET installation_id = 'x', guest_port = port WHERE port = 30018")
	w.sqlExec(t, "UPDATE address_lease SET installation_id = id WHERE address LIKE '10.77.%'")
	require.Equal(t, []string{"gateway ports 30000-30019 1/20 true", "h1 10.77.0.0/29 0/5 true"}, low())
	require.Equal(t, []string{"gateway ports 30000-30019 1/20 false", "h1 10.77.0.0/29 0/5 false"}, low())
	require.Equal(t, 2, w.count(t, "SELECT count(*) FROM event WHERE kind = 'pool.low'"), "told once")
	w.sqlExec(t, "UPDATE address_lease SET installation_id = NULL")
	require.Equal(t, []string{"gateway ports 30000-30019 1/20 false"}, low())
	require.Equal(t, 1, w.count(t, "SELECT count(*) FROM event WHERE kind = 'pool.recovered'"))
	w.sqlExec(t, "UPDATE address_lease SET installation_id = id")
	require.Contains(t, low(), "h2 10.78.0.0/24 0/253 true")
}
