package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm"
)

func TestEndingIsEvidenceOfAPackageThatNeverServed(t *testing.T) {
	t.Parallel()
	const pkg = fleet.PackageID("p")
	tcp := fleet.InstanceSpec{Manifest: fleet.Manifest{Health: fleet.Health{Type: fleet.HealthTCP, Port: 5432}}}
	ended := func(reason fleet.Reason, code int) kvm.Boot {
		return kvm.Boot{Spec: tcp, Log: "[0.2] en1: assigned 10.0.0.2\n\"root\" execution is not permitted.\n[0.9] clone: attempted to create new process", Exit: &fleet.Exit{Reason: reason, Code: code}}
	}
	process := "the program tried to make a process, which Nanos can't"
	told := []string{`the program exited with 1: "root" execution is not permitted.`, process}
	var e evidence
	require.Equal(t, []string{process}, e.of(pkg, kvm.Boot{Spec: tcp, Log: ended("", 0).Log}), "it runs")
	require.Equal(t, []string{process}, e.of(pkg, ended("", 1)), "somebody stopped it")
	require.Equal(t, []string{process}, e.of(pkg, ended(fleet.ReasonHostLost, -1)), "the host's doing")
	require.Equal(t, []string{process}, e.of(pkg, ended(fleet.ReasonProvider, -1)))
	require.Equal(t, told, e.of(pkg, ended(fleet.ReasonCrashLoop, 1)))
	require.Equal(t, []string{process}, e.of(pkg, ended(fleet.ReasonProgramExited, 2)), "once")
	require.Equal(t, told, e.of("q", ended(fleet.ReasonProgramExited, 1)), "another package")

	// One that has served is a good one: what ends it then is rather its tenant's.
	served := kvm.Boot{Spec: tcp, Served: true}
	require.Empty(t, e.of("r", served))
	require.Equal(t, []string{process}, e.of("r", ended(fleet.ReasonCrashLoop, 1)))

	// A task without a health check that ends well has done its work.
	task := ended(fleet.ReasonProgramExited, 0)
	require.Equal(t, `the program exited with 0: "root" execution is not permitted.`, e.of("s", task)[0])
	task.Spec.Manifest.Health = fleet.Health{Type: fleet.HealthNone}
	require.Equal(t, []string{process}, e.of("t", task))
	task.Exit.Code = 3
	require.Len(t, e.of("t", task), 2)
}
