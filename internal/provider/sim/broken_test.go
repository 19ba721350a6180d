package sim_test

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/providertest"
	"dormouse/internal/provider/sim"
)

// brokenVariable tells a child of this test which rule its provider breaks.
const brokenVariable = "DORMOUSE_TEST_BROKEN_PROVIDER"

// breakages are the rules that a provider may break, and the subtest of the
// conformance suite that must find it.
var breakages = map[string]string{
	"no signal":                     "Life/CreateBecomesHealthy",
	"unknown is no error":           "Unknown",
	"no tombstone":                  "Unknown",
	"ensure is not fenced":          "Life/LowerEpochIsFenced",
	"power is not fenced":           "Life/LowerEpochIsFenced",
	"delete is not fenced":          "Life/LowerEpochIsFenced",
	"made anew by each ensure":      "Life/EnsureTwiceIsOneInstance",
	"volume shared":                 "Life/VolumeInUse",
	"volume shrinks":                "Volumes",
	"volume goes with its instance": "Life",
	"restart forgets":               "Life/ReopenWhileOn",
	"list ends early":               "Concurrent/List",
	"list without tags":             "Life/EnsureTwiceIsOneInstance",
	"context ignored":               "CancelledContext",
	"stop is a crash":               "Life/PowerOffTwice",
	"delete leaves it listed":       "Unknown",
	"clone takes the volume":        "Clone/CloneOfASleeper",
	"clone does not say so":         "Clone/CloneOfASleeper",
	"clone is not fenced":           "Clone/CloneIsFenced",
	"clone becomes an instance":     "Clone/CloneIsNoInstance",
	"clone goes on without its ID":  "Clone/CloneTwiceIsOne",
}

// TestBrokenProvidersAreCaught checks the conformance suite itself: a provider
// that breaks one rule fails in the subtest that is about it.
func TestBrokenProvidersAreCaught(t *testing.T) {
	t.Parallel()
	for how, where := range breakages {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			// A failing subtest can't be had without failing oneself, so a child has it.
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBrokenProvider$", "-test.timeout=60s")
			child.Env = append(os.Environ(), brokenVariable+"="+how)
			output, err := child.CombinedOutput()
			require.Error(t, err, "the suite passed:\n%s", output)
			require.Contains(t, string(output), "--- FAIL: TestBrokenProvider/"+where)
		})
	}
}

// TestBrokenProvider is what the children of TestBrokenProvidersAreCaught run;
// without the variable there is nothing to check.
func TestBrokenProvider(t *testing.T) {
	how := os.Getenv(brokenVariable)
	if how == "" {
		return
	}
	cluster := newCluster(map[string]string{"boot_time": "2ms", "stop_time": "2ms"})
	options := sim.Options{Dir: t.TempDir(), PageSize: 3}
	b := &broken{how: how}
	open := func(t *testing.T) providertest.Provider {
		p, err := sim.New(options)
		require.NoError(t, err)
		require.NoError(t, p.Configure(cluster))
		b.Provider = p
		return b
	}
	providertest.Run(t, providertest.Harness{
		Cluster: cluster, Timeout: 2 * time.Second, Prompt: 500 * time.Millisecond,
		New: func(t *testing.T, onChange func(fleet.InstanceID)) providertest.Provider {
			options.OnChange = onChange
			if how == "no signal" {
				options.OnChange = nil
			}
			return open(t)
		},
		Reopen: func(t *testing.T) providertest.Provider {
			require.NoError(t, b.Close())
			if how == "restart forgets" {
				options.Dir = t.TempDir()
			}
			return open(t)
		},
		Spec: func(_ *testing.T, name string) fleet.InstanceSpec { return newSpec(cluster.ID, name) },
	})
}

// broken is a simulator that breaks one rule.
type broken struct {
	*sim.Provider
	how string
}

// anyEpoch is higher than those of the suite, but for its cleaning up.
const anyEpoch = 1 << 30

func (b *broken) Ensure(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	switch b.how {
	case "clone becomes an instance":
		st, err := b.Provider.Ensure(ctx, spec)
		if fleet.KindOf(err) == fleet.KindConflict {
			if clone, known := b.Observe(ctx, refOf(spec)); known == nil && clone.Clone {
				return clone, nil
			}
		}
		return st, err
	case "context ignored":
		if ctx.Err() != nil {
			<-time.After(time.Second)
		}
	case "made anew by each ensure":
		if err := b.Provider.Delete(ctx, refOf(spec)); err != nil {
			return fleet.InstanceStatus{}, err
		}
	case "volume shared":
		spec.Volume = nil
	case "no tombstone", "ensure is not fenced":
		_, err := b.Observe(ctx, refOf(spec))
		if exists := err == nil; exists == (b.how == "ensure is not fenced") {
			if st, err := b.Provider.Ensure(ctx, spec); fleet.KindOf(err) != fleet.KindFenced {
				return st, err
			}
			spec.Epoch = anyEpoch
		}
	}
	return b.Provider.Ensure(ctx, spec)
}

func (b *broken) Clone(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	switch b.how {
	case "clone takes the volume":
		return b.Provider.Ensure(ctx, spec)
	case "clone goes on without its ID":
		if _, err := b.Observe(ctx, refOf(spec)); err == nil {
			spec.ID = fleet.InstanceID(fleet.NewID())
		}
	}
	st, err := b.Provider.Clone(ctx, spec)
	if b.how == "clone is not fenced" && fleet.KindOf(err) == fleet.KindFenced {
		spec.Epoch = anyEpoch
		return b.Provider.Clone(ctx, spec)
	}
	return st, err
}

func (b *broken) Observe(ctx context.Context, ref fleet.InstanceRef) (fleet.InstanceStatus, error) {
	st, err := b.Provider.Observe(ctx, ref)
	if b.how == "clone does not say so" {
		st.Clone = false
	}
	if b.how == "unknown is no error" && fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.InstanceStatus{ID: ref.ID, Power: fleet.PowerOff}, nil
	}
	if b.how == "stop is a crash" && st.Exit != nil {
		st.Exit.Reason = fleet.ReasonGuestPanic
	}
	return st, err
}

func (b *broken) Power(ctx context.Context, ref fleet.InstanceRef, target fleet.Power) (fleet.InstanceStatus, error) {
	st, err := b.Provider.Power(ctx, ref, target)
	if b.how == "power is not fenced" && fleet.KindOf(err) == fleet.KindFenced {
		ref.Epoch = anyEpoch
		return b.Provider.Power(ctx, ref, target)
	}
	return st, err
}

func (b *broken) Delete(ctx context.Context, ref fleet.InstanceRef) error {
	err := b.Provider.Delete(ctx, ref)
	switch b.how {
	case "delete is not fenced":
		if fleet.KindOf(err) == fleet.KindFenced {
			ref.Epoch = anyEpoch
			return b.Provider.Delete(ctx, ref)
		}
	case "delete leaves it listed":
		ref.Epoch = anyEpoch
		_, err = b.Provider.Ensure(ctx, fleet.InstanceSpec{ID: ref.ID, ClusterID: ref.ClusterID, Epoch: ref.Epoch})
	case "volume goes with its instance":
		volumes, _ := b.ListVolumes(ctx, ref.ClusterID)
		for _, v := range volumes {
			_ = b.DeleteVolume(ctx, fleet.VolumeRef{ID: v.ID, ClusterID: ref.ClusterID, Epoch: anyEpoch})
		}
	}
	return err
}

func (b *broken) EnsureVolume(ctx context.Context, spec fleet.VolumeSpec) (fleet.VolumeStatus, error) {
	st, err := b.Provider.EnsureVolume(ctx, spec)
	if b.how == "volume shrinks" && fleet.KindOf(err) == fleet.KindInvalid {
		return st, nil
	}
	return st, err
}

func (b *broken) List(ctx context.Context, cluster fleet.ClusterID, after string) ([]fleet.InstanceStatus, string, error) {
	page, next, err := b.Provider.List(ctx, cluster, after)
	switch b.how {
	case "list ends early":
		next = ""
	case "list without tags":
		for i := range page {
			page[i].InstallationID = ""
		}
	}
	return page, next, err
}
