package kvm_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm/qmp"
)

// qmp connects to the machine's QEMU, as a provider does.
func (n *tenant) qmp() *qmp.Client {
	n.t.Helper()
	dir, err := os.Open(filepath.Join(n.options.DataDir, "instances", string(n.spec.ID)))
	require.NoError(n.t, err)
	defer dir.Close()
	conn, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/qmp.sock", dir.Fd()))
	require.NoError(n.t, err)
	c, err := qmp.New(n.t.Context(), conn, nil)
	require.NoError(n.t, err)
	return c
}

// A provider was killed while the guest was paused for the change from overlay to
// volume: before QEMU was told to change, and before the journal told that it had.
// The next one finds out which, and has the guest go on.
func TestCommitIsCutAtTheChange(t *testing.T) {
	t.Parallel()
	n := newTenant(t)
	execute := func(c *qmp.Client, command string, arguments, result any) {
		t.Helper()
		require.NoError(t, c.Execute(t.Context(), command, arguments, result))
	}
	await := func(c *qmp.Client, status string) {
		t.Helper()
		require.Eventually(t, func() bool {
			var jobs []struct {
				Status string `json:"status"`
			}
			execute(c, "query-jobs", nil, &jobs)
			return len(jobs) == 1 && jobs[0].Status == status
		}, 30*time.Second, time.Millisecond)
	}
	for _, cut := range []string{"paused", "changed"} {
		n.restart(func() { require.NoError(t, n.p.BeginOverlay(t.Context(), n.volume)) })
		n.set("before-" + cut)
		pid := n.pid()
		require.NoError(t, n.p.Close())

		journal := filepath.Join(n.options.DataDir, "journal", "volumes", string(n.volume.ID)+".json")
		body, err := os.ReadFile(journal)
		require.NoError(t, err)
		require.Contains(t, string(body), `"overlay":"begun"`)
		require.NoError(t, os.WriteFile(journal, []byte(strings.Replace(string(body), `"begun"`, `"committing"`, 1)), 0o600))
		c := n.qmp()
		execute(c, "block-commit", map[string]any{"job-id": "commit", "device": "layer0", "base-node": "volume", "auto-dismiss": false}, nil)
		await(c, "ready")
		execute(c, "stop", nil, nil)
		if cut == "changed" {
			execute(c, "block-job-complete", map[string]any{"device": "commit"}, nil)
			await(c, "concluded")
		}
		require.NoError(t, c.Close())

		n.open(t)
		n.set("after-" + cut)
		require.Equal(t, pid, n.pid(), "the same machine")
		require.NoFileExists(t, n.file(".overlay"))
		was, err := n.p.Observe(t.Context(), n.ref())
		require.NoError(t, err)
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		// One that ends while it is still being looked at after its adoption is booted again by itself.
		require.Eventually(t, func() bool {
			st, err := n.p.Observe(t.Context(), n.ref())
			return err == nil && (st.Power == fleet.PowerOff || st.Boot != was.Boot)
		}, 90*time.Second, 10*time.Millisecond)
		n.power(fleet.PowerOn)
		require.Equal(t, "after-"+cut, n.value())
	}
}
