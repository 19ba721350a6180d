package integration

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// acme, acme-1 and acme-10 are three tenants: what is done to one, or asked about
// it, is never done to another whose name begins alike.
func TestOutageANameThatIsAPrefixOfAnothers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	e := w.start(setup{})
	create := func(name string) *kase {
		c := &kase{world: w, scenario: scenario{name: name, end: "stable"}, subject: name}
		w.finished(c.create(nil, "web"))
		return c
	}
	acme, one, ten := create("acme"), create("acme-1"), create("acme-10")
	front := w.api(w.store)

	for _, c := range []*kase{acme, one, ten} {
		route, err := w.store.Route(w.ctx, c.subject)
		require.NoError(t, err)
		require.EqualValues(t, c.id, route.InstallationID)
		var page client.Page[client.Operation]
		require.Equal(t, http.StatusOK, front.get("/api/v1/operations?resource="+c.subject, &page).StatusCode)
		require.Len(t, page.Items, 1)
		require.Equal(t, c.id, page.Items[0].ResourceID)
	}
	for _, part := range []string{"acm", "acme-", acme.id[:13]} {
		_, err := w.store.Installation(w.ctx, "", part)
		require.Equal(t, fleet.KindNotFound, fleet.KindOf(err), part)
		_, err = w.store.Route(w.ctx, part)
		require.Equal(t, fleet.KindNotFound, fleet.KindOf(err), part)
	}
	before := w.strings(`SELECT to_jsonb(i)::text FROM installation i WHERE name LIKE 'acme-%' ORDER BY id`)
	instances := w.strings(`SELECT to_jsonb(x)::text FROM instance x WHERE installation_id IN ($1, $2) ORDER BY id`, one.id, ten.id)
	_, err := w.store.ChangeInstallation(w.ctx, fleet.Change{OperationID: newOp(), IDOrName: "acme", Kind: fleet.OperationUpdate, Env: map[string]*string{"A": &acme.subject}})
	require.NoError(t, err)
	w.wake()
	w.settled()
	w.finished(acme.remove())
	acme.gone()
	require.Equal(t, before, w.strings(`SELECT to_jsonb(i)::text FROM installation i WHERE name LIKE 'acme-%' ORDER BY id`))
	require.Equal(t, instances, w.strings(`SELECT to_jsonb(x)::text FROM instance x WHERE installation_id IN ($1, $2) ORDER BY id`, one.id, ten.id))
	// The name is free again, and its new bearer another one.
	again := create("acme")
	require.NotEqual(t, acme.id, again.id)
	for _, c := range []*kase{again, one, ten} {
		w.finished(c.remove())
		c.gone()
	}
	e.stop()
}

// The same with groups, and with rings that name installations.
func TestOutageAGroupWhoseNameIsAPrefixOfAnothers(t *testing.T) {
	t.Parallel()
	g := newGroup(t, 11, 0, nil) // t000 … t010, in group prod
	web := "web@1"
	_, err := g.store.CreateGroup(g.ctx, fleet.NewGroup{ID: fleet.GroupID(fleet.NewID()), Name: "prod-eu", Config: fleet.GroupChange{PackageRef: &web}})
	require.NoError(t, err)
	c := &kase{world: g.world, scenario: scenario{name: "t0", end: "stable"}, subject: "t0"}
	a, err := g.store.CreateInstallation(g.ctx, fleet.NewInstallation{ID: fleet.InstallationID(fleet.NewID()), OperationID: newOp(), Name: c.subject,
		Owner: "acme", DiskMiB: 10, WhenFull: fleet.WhenFullWait, Group: fleet.GroupMembership{Join: "prod-eu"}})
	require.NoError(t, err)
	g.wake()
	g.finished(a.Operation.ID)
	spec := quick()
	spec.Rings = []fleet.RolloutRing{{Name: "first", Installations: []string{"t00", "t0", "t001"}}, {Name: "rest"}}
	long := time.Hour
	spec.Rings[0].Soak = &long
	id := g.release(fleet.GroupChange{PackageRef: &second}, spec)
	g.explains("rollouts/"+string(id), explained{waiting: fleet.WaitSoak})
	require.Equal(t, []string{"t001"}, g.strings(`SELECT name FROM rollout_member WHERE ring = 0 ORDER BY name`), "of the names in the ring, one is a member's")
	require.Equal(t, []string{"t001"}, g.strings(`SELECT i.name FROM installation i JOIN package p ON p.id = i.package_id WHERE p.version = '2'`))
	g.cancel(id)
	require.Equal(t, []string{"1"}, g.strings(`SELECT p.version FROM installation i JOIN package p ON p.id = i.package_id WHERE i.name = 't0'`))
}
