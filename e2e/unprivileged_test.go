package e2e

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/e2e/harness"
)

// TestUnprivileged: a user without any rights has virtual machines too, through
// user networking and forwarded loopback ports.
func TestUnprivileged(t *testing.T) {
	t.Parallel()
	o := harness.Options{}
	if os.Geteuid() == 0 {
		o.Credential = &syscall.Credential{Uid: 65534, Gid: 65534} // nobody, on every system of ours
	}
	e := suite.Own(t, o)
	require.NoError(t, e.Start(t.Context()))
	require.NoError(t, e.CreateCluster(t.Context()))
	pkg := upload(t, e, suite.Workspace(t, "1.0.0"))
	in := installation(t, e, "create", "humble", "--owner", "heidi", "--package", pkg, "--disk", "64MiB", "--wait", "--timeout", "10m")
	require.True(t, strings.HasPrefix(in.Endpoints[0].Address, "127.0.0.1:"), in.Endpoints[0].Address)
	addNote(t, e, "humble", "mine")
	ctl(t, e, "installation", "hibernate", "humble", "--wait")
	ctl(t, e, "installation", "wake", "humble", "--wait", "--timeout", "10m")
	requireNote(t, e, "humble", "mine")
	for _, m := range e.Machines() {
		info, err := os.Stat("/proc/" + itoa(m.PID))
		require.NoError(t, err)
		require.NotZero(t, info.Sys().(*syscall.Stat_t).Uid, "a machine never runs as root")
	}
	deleteAndLook(t, e, in)
	require.Empty(t, e.Machines())
}
