package rollout

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

var epoch = time.Date(2026, 11, 3, 4, 5, 6, 0, time.FixedZone("odd", 5*3600+45*60))

// fleetOf returns n healthy members: three sizes, two clusters, three tiers.
func fleetOf(n int) []fleet.RolloutMember {
	members := make([]fleet.RolloutMember, n)
	for i := range members {
		members[i] = fleet.RolloutMember{
			InstallationID: fleet.InstallationID(fleet.DeriveID("member", fmt.Sprint(i))), Name: fmt.Sprintf("tenant-%d", i),
			ClusterID: fleet.ClusterID([]string{"east", "west"}[i%2]), MemoryMiB: []int{64, 128, 512}[i/2%3],
			Labels: map[string]string{"tier": []string{"free", "free", "pro"}[i/6%3], "owner": fmt.Sprint(i)},
			State:  fleet.MemberWaiting, Health: fleet.HealthHealthy, GoodSince: epoch.Add(-24 * time.Hour), ObservedAt: epoch,
		}
	}
	return members
}

// rolloutOf returns a running rollout over n members as it is planned.
func rolloutOf(t *testing.T, n int, spec fleet.RolloutSpec) View {
	t.Helper()
	spec, err := Normalise(spec, n)
	require.NoError(t, err)
	return View{Rollout: fleet.Rollout{ID: "r", Spec: spec, State: fleet.RolloutRunning, CreatedAt: epoch},
		Members: Plan(spec, fleetOf(n)), Now: epoch}
}

func TestFirstWaveBegins(t *testing.T) {
	t.Parallel()
	v := rolloutOf(t, 2000, fleet.RolloutSpec{})
	d := Decide(v)
	require.Equal(t, fleet.RolloutRunning, d.State)
	require.Len(t, d.Update, 10)
	require.Equal(t, fleet.WaitMembers, d.Reason)
}
