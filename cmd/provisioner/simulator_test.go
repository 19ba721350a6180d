package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
	"dormouse/internal/provider/sim/remote"
)

// run runs the command line and returns what it wrote.
func run(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := root()
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

// TestSimulatorCommand: what it serves outlives it, and its ledger can be read.
func TestSimulatorCommand(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "sim") // short enough for a socket's path
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	url := "unix:" + filepath.Join(dir, "s")
	client, err := remote.New(remote.Options{URL: url})
	require.NoError(t, err)
	defer client.Close()
	serve := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := run(ctx, "simulator", "--data-dir", dir, "--listen", url, "--log-level", "error")
			ended <- err
		}()
		require.Eventually(t, func() bool { _, err := client.Totals(t.Context()); return err == nil }, 20*time.Second, 5*time.Millisecond)
		return func() {
			cancel()
			require.NoError(t, <-ended)
		}
	}
	stop := serve()
	cluster := fleet.Cluster{ID: "c", Name: "c"}
	require.NoError(t, client.Configure(t.Context(), cluster))
	for _, id := range []fleet.InstanceID{"a", "b"} {
		_, err = client.Ensure(t.Context(), fleet.InstanceSpec{ID: id, InstallationID: "i", ClusterID: "c", Epoch: 1})
		require.NoError(t, err)
	}
	text, err := run(t.Context(), "simulator", "ledger", "--simulator", url)
	require.NoError(t, err)
	require.Regexp(t, `(?m)^calls\.ensure +2$`, text)
	require.Regexp(t, `(?m)^duplicates\.on_at_once +1$`, text)
	stop()
	_, err = run(t.Context(), "simulator", "ledger", "--simulator", url)
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))

	stop = serve()
	defer stop()
	st, err := client.Observe(t.Context(), fleet.InstanceRef{ID: "a", ClusterID: "c"})
	require.NoError(t, err)
	require.Equal(t, fleet.PowerOn, st.Power)
	text, err = run(t.Context(), "simulator", "ledger", "--simulator", url, "-o", "json")
	require.NoError(t, err)
	var totals sim.Totals
	require.NoError(t, json.Unmarshal([]byte(text), &totals))
	require.Equal(t, uint64(2), totals.Instances)
	require.Equal(t, uint64(1), totals.Duplicates())
	require.Equal(t, 2, totals.Present.On)
}

func TestSimulatorFlags(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"simulator", "--data-dir", t.TempDir(), "--listen", "0.0.0.0:8055"},
		{"simulator", "ledger"},
		{"simulator", "ledger", "--simulator", "http://example.com:80"},
		{"simulator", "ledger", "--simulator", "http://127.0.0.1:80", "-o", "yaml"},
		{"server", "--dev", "--data-dir", t.TempDir(), "--simulator", "127.0.0.1:8055"},
	} {
		_, err := run(t.Context(), args...)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%v: %v", args, err)
	}
}
