package rollout

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"dormouse/internal/fleet"
)

// busyView is a rollout in the middle of its largest wave: half are done, one in
// a hundred has failed, and every slot is used.
func busyView(n int) View {
	spec, err := Normalise(fleet.RolloutSpec{}, n)
	if err != nil {
		panic(err)
	}
	v := View{Rollout: fleet.Rollout{ID: "r", Spec: spec, State: fleet.RolloutRunning, CreatedAt: epoch, WaveSince: epoch, Wave: 4, ProgressAt: epoch},
		Members: Plan(spec, fleetOf(n)), Now: epoch.Add(9 * time.Hour)}
	for i := range v.Members {
		m := &v.Members[i]
		m.ObservedAt = v.Now
		switch {
		case i%100 == 7 && i < n/2:
			m.State, m.Reason, m.Strikes, m.Attempts, m.FinishedAt = fleet.MemberFailed, fleet.ReasonProvider, 1, 1, v.Now.Add(-time.Minute)
		case i < n/2:
			m.State, m.Attempts, m.FinishedAt = fleet.MemberDone, 1, epoch.Add(time.Duration(i)*time.Second)
		case i < n/2+n/10:
			m.State, m.Attempts, m.StartedAt, m.OperationID = fleet.MemberRolling, 1, v.Now, "op"
		}
	}
	return v
}

// processorTime is what the process has used of processors: it means something
// on a busy machine, too.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{2_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			v := busyView(n)
			v.Index = NewIndex(v.Members)
			cpu := processorTime()
			for b.Loop() {
				Decide(v)
			}
			b.ReportMetric(float64((processorTime()-cpu).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			members := fleetOf(n)
			spec := fleet.RolloutSpec{Rings: []fleet.RolloutRing{{Percent: 10}, {}}}
			cpu := processorTime()
			for b.Loop() {
				Plan(spec, members)
			}
			b.ReportMetric(float64((processorTime()-cpu).Microseconds())/float64(b.N), "cpu-us/op")
		})
	}
}
