package e2e

import (
	"bytes"
	"context"
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// TestMosquitto runs a program that nobody here has built: Debian's MQTT broker
// from its package, spoken to by a stock MQTT client.
func TestMosquitto(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"mosquitto_pub", "mosquitto_sub"} {
		_, err := exec.LookPath(program)
		require.NoError(t, err, "there is no MQTT client: apt-get install mosquitto-clients")
	}
	e := suite.Shared(t)
	pkg := upload(t, e, suite.Debian(t, "mosquitto"))
	in := installation(t, e, "create", "broker", "--owner", "carol", "--cluster", harness.Cluster, "--package", pkg, "--disk", "64MiB", "--wait", "--timeout", "10m")
	require.Equal(t, "stable", in.State)

	// A message that is under way, and one that is kept.
	listening, stop := context.WithTimeout(t.Context(), late)
	defer stop()
	live := mqtt(listening, t, e, in, "mosquitto_sub", "-t", "news", "-C", "1")
	var heard bytes.Buffer
	live.Stdout = &heard
	require.NoError(t, live.Start())
	ended := make(chan error, 1)
	go func() { ended <- live.Wait() }()
	for again := true; again; {
		// Sent until somebody has subscribed: there is no sign of that from outside.
		say(t, e, in, "mosquitto_pub", "-t", "news", "-m", "hello")
		select {
		case err := <-ended:
			require.NoError(t, err)
			again = false
		case <-time.After(200 * time.Millisecond):
		}
	}
	require.Equal(t, "hello\n", heard.String())
	say(t, e, in, "mosquitto_pub", "-t", "state", "-m", "retained", "-r", "-q", "1")
	require.Equal(t, "retained\n", say(t, e, in, "mosquitto_sub", "-t", "state", "-C", "1", "-W", "30"))

	in = installation(t, e, "hibernate", "broker", "--wait")
	require.Empty(t, e.MachinesOf(in.Instance.ID))
	in = installation(t, e, "wake", "broker", "--wait", "--timeout", "10m")
	require.Equal(t, "retained\n", say(t, e, in, "mosquitto_sub", "-t", "state", "-C", "1", "-W", "30"), "what was retained is there after the sleep")
	deleteAndLook(t, e, in)
}

// mqtt is a client inside the provisioner's network namespace, or on the
// loopback where user networking forwards a port.
func mqtt(ctx context.Context, t *testing.T, e *harness.Environment, in client.Installation, program string, args ...string) *exec.Cmd {
	t.Helper()
	require.Len(t, in.Endpoints, 1)
	host, port, err := net.SplitHostPort(in.Endpoints[0].Address)
	require.NoError(t, err)
	args = append([]string{program, "-h", host, "-p", port}, args...)
	if !net.ParseIP(host).IsLoopback() {
		args = append([]string{"ip", "netns", "exec", e.Namespace()}, args...)
	}
	return exec.CommandContext(ctx, args[0], args[1:]...)
}

func say(t *testing.T, e *harness.Environment, in client.Installation, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	cmd := mqtt(ctx, t, e, in, program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s: %s", program, &stderr)
	return string(out)
}
