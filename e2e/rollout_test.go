package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
)

// TestRollout brings a group from one release to the next with cloudctl alone. It
// runs on the simulator: nothing boots.
func TestRollout(t *testing.T) {
	t.Parallel()
	e := suite.Shared(t)
	one, two := upload(t, e, suite.Workspace(t, "1.0.0")), upload(t, e, suite.Workspace(t, "1.1.0"))
	simulate(t, e, "fleet")
	ctl(t, e, "group", "create", "fleet", "--package", one, "--label", "suite=rollout", "--env", "GREETING=group")
	for i := range 6 {
		in := installation(t, e, "create", "member"+itoa(i), "--owner", "dave", "--cluster", "fleet", "--group-match", "suite=rollout",
			"--label", "tier="+[]string{"internal", "free"}[i%2], "--wait")
		require.Equal(t, "fleet", in.Group)
		require.Equal(t, one, in.Package)
		require.Equal(t, "group", in.Env["GREETING"])
	}
	installation(t, e, "update", "member1", "--env", "GREETING=own", "--wait")
	installation(t, e, "hibernate", "member5", "--wait")

	g := decoded[client.Group](t, ctl(t, e, "-o", "json", "group", "update", "fleet", "--package", two, "--env", "GREETING=new").Stdout)
	require.Equal(t, [2]int64{1, 2}, [2]int64{g.Revision, g.LatestRevision})
	require.Equal(t, 6, g.Members)
	flags := []string{"--ring", "inside:label=tier=internal", "--ring", "rest", "--soak", "0s", "--healthy-for", "1s", "--slots", "100%"}
	plan := decoded[client.RolloutPlan](t, ctl(t, e, append([]string{"-o", "json", "rollout", "create", "fleet", "--dry-run"}, flags...)...).Stdout)
	require.Equal(t, [2]int{6, 1}, [2]int{plan.Total, plan.Asleep})
	require.Equal(t, [2]int{3, 3}, [2]int{plan.Rings[0].Total, plan.Rings[1].Total})
	require.ElementsMatch(t, []string{"member0", "member2", "member4"}, plan.Rings[0].FirstWave)

	waited := ctl(t, e, append([]string{"rollout", "create", "fleet", "--wait", "--timeout", late.String()}, flags...)...)
	require.Contains(t, waited.Stderr, "rollout of fleet: succeeded")
	r := decoded[client.Rollout](t, ctl(t, e, "-o", "json", "rollout", "status", "fleet").Stdout)
	require.Equal(t, "succeeded", r.State)
	require.Equal(t, client.RolloutCounts{Done: 5, AsleepVerified: 1}, r.Counts)
	for i := range 6 {
		in := decoded[client.Installation](t, ctl(t, e, "-o", "json", "installation", "get", "member"+itoa(i)).Stdout)
		require.Equal(t, two, in.Package)
		require.Equal(t, int64(2), in.GroupRevision)
		require.Equal(t, i == 1, in.Env["GREETING"] == "own", "what a member sets itself wins")
		require.Equal(t, i == 5, in.State == "hibernating", "who sleeps sleeps on: %s", in.State)
	}

	// One that is taken back, by the ID that its creation gave.
	ctl(t, e, "group", "update", "fleet", "--env", "GREETING=worse")
	r = decoded[client.Rollout](t, ctl(t, e, "-o", "json", "rollout", "create", "fleet", "--soak", "1h", "--healthy-for", "1s", "--slots", "100%").Stdout)
	require.Equal(t, "running", r.State)
	busy := e.Cloudctl(t.Context(), "group", "delete", "fleet")
	require.Equal(t, 4, busy.Code, "%s", busy)
	ctl(t, e, "rollout", "rollback", r.ID, "--wait", "--timeout", late.String())
	g = decoded[client.Group](t, ctl(t, e, "-o", "json", "group", "get", "fleet").Stdout)
	require.Equal(t, "rolled-back", g.Rollout.State)
	require.Equal(t, []client.RevisionMembers{{Revision: 2, Members: 6}}, g.MembersByRevision)
	list := ctl(t, e, "rollout", "list", "--group", "fleet").Stdout
	require.Equal(t, 3, strings.Count(list, "\n"), list)

	kept := installation(t, e, "update", "member0", "--leave-group", "--keep-configuration", "--wait")
	require.Empty(t, kept.Group)
	require.Equal(t, two, kept.Package)
	for i := range 6 {
		ctl(t, e, "installation", "delete", "member"+itoa(i), "--wait")
	}
	ctl(t, e, "group", "delete", "fleet")
}
