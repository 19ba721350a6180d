package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// daemon is a program of Debian's that nobody here has built, as a tenant.
type daemon struct {
	name string
	// always: also where DORMOUSE_E2E_DAEMONS does not say all.
	always bool
	// clients are the stock programs that speak to it, and the Debian package that has them.
	clients []string
	from    string
	// env is the tenant's own configuration; memory and disk are the least of both.
	env          []string
	memory, disk string
	// work does real work. again sees after a restart what must have lasted, or that
	// it still works where nothing does.
	work, again func(d *tenant)
}

// tenant is a daemon's installation.
type tenant struct {
	*testing.T
	e  *harness.Environment
	in client.Installation
}

// TestDaemons runs programs from Debian's archive as tenants, each spoken to by a stock client.
func TestDaemons(t *testing.T) {
	t.Parallel()
	all := os.Getenv("DORMOUSE_E2E_DAEMONS") == "all"
	table := []string{"| daemon | version | memory | worked | after a restart |", "|---|---|---|---|---|"}
	for _, d := range daemons() {
		t.Run(d.name, func(t *testing.T) { // one after another: each boot takes a core
			if !d.always && !all {
				t.Skip("left out to keep the suite short: DORMOUSE_E2E_DAEMONS=all runs every daemon")
			}
			for _, program := range d.clients {
				_, err := exec.LookPath(program)
				require.NoError(t, err, "there is no %s: apt-get install %s", program, d.from)
			}
			d.run(t, suite.Shared(t), &table)
		})
	}
	t.Logf("\n%s", strings.Join(table, "\n"))
}

func (d daemon) run(t *testing.T, e *harness.Environment, table *[]string) {
	pkg := upload(t, e, suite.Daemon(t, d.name)...)
	args := []string{"create", d.name, "--owner", "carol", "--cluster", harness.Cluster, "--package", pkg, "--memory", d.memory, "--wait", "--timeout", "10m"}
	if d.disk != "" {
		args = append(args, "--disk", d.disk)
	}
	for _, v := range d.env {
		args = append(args, "--secret", v)
	}
	in := installation(t, e, args...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console of %s:\n%s", d.name, e.Cloudctl(context.Background(), "installation", "logs", d.name, "--tail", "60").Stdout)
			e.Cloudctl(context.Background(), "installation", "delete", d.name, "--yes", "--wait")
		}
	})
	require.Equal(t, "stable", in.State)
	d.work(&tenant{t, e, in})
	in = installation(t, e, "restart", d.name, "--wait", "--timeout", "10m")
	require.Equal(t, "stable", in.State)
	d.again(&tenant{t, e, in})
	_, version, _ := strings.Cut(pkg, "@")
	*table = append(*table, fmt.Sprintf("| %s | %s | %s | yes | %s |", d.name, version, d.memory, d.lasting()))
	deleteAndLook(t, e, in)
}

// lasting is what a table says of a restart that went well.
func (d daemon) lasting() string {
	if d.disk != "" {
		return "yes, with its data"
	}
	return "yes"
}

// address is where the guest's port is reached.
func (d *tenant) address(port int) (host, at string) {
	d.Helper()
	for _, e := range d.in.Endpoints {
		if e.Port == port {
			host, at, err := net.SplitHostPort(e.Address)
			require.NoError(d, err)
			return host, at
		}
	}
	require.FailNow(d, "no endpoint", "of port %d in %v", port, d.in.Endpoints)
	return "", ""
}

// command is a client inside the provisioner's network namespace, or on the
// loopback where user networking forwards a port. HOST and PORT in its arguments stand for the
// address of the guest's port.
func (d *tenant) command(ctx context.Context, port int, args ...string) *exec.Cmd {
	d.Helper()
	host, at := d.address(port)
	stand := strings.NewReplacer("HOST", host, "PORT", at)
	for i := range args {
		args[i] = stand.Replace(args[i])
	}
	if !net.ParseIP(host).IsLoopback() {
		args = append([]string{"ip", "netns", "exec", d.e.Namespace()}, args...)
	}
	return exec.CommandContext(ctx, args[0], args[1:]...)
}

// say runs a client with some input and returns what it prints.
func (d *tenant) say(port int, input string, args ...string) string {
	d.Helper()
	out, err := d.try(port, input, args...)
	require.NoError(d, err)
	return out
}

// await runs a client until it says that: databases listen before they have read
// what they know.
func (d *tenant) await(port int, want string, args ...string) {
	d.Helper()
	host, at := d.address(port)
	want = strings.NewReplacer("HOST", host, "PORT", at).Replace(want)
	require.Eventually(d, func() bool {
		out, err := d.try(port, "", slices.Clone(args)...)
		return err == nil && out == want
	}, late, tick)
}

func (d *tenant) try(port int, input string, args ...string) (string, error) {
	d.Helper()
	ctx, cancel := context.WithTimeout(d.Context(), soon)
	defer cancel()
	cmd := d.command(ctx, port, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(input), &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), &clientError{args: cmd.Args, said: stderr.String(), err: err}
	}
	return string(out), nil
}

type clientError struct {
	args []string
	said string
	err  error
}

func (e *clientError) Error() string {
	return strings.Join(e.args, " ") + ": " + e.err.Error() + ": " + e.said
}

// http is a request with curl.
func (d *tenant) http(port int, path string, args ...string) string {
	d.Helper()
	return d.say(port, "", append(append([]string{"curl", "--silent", "--show-error", "--fail", "--max-time", "20"}, args...), "http://HOST:PORT"+path)...)
}

// retained publishes a message that is under way, and one that is kept.
func retained(d *tenant) {
	listening, stop := context.WithTimeout(d.Context(), late)
	defer stop()
	live := d.command(listening, 1883, "mosquitto_sub", "-h", "HOST", "-p", "PORT", "-t", "news", "-C", "1")
	var heard bytes.Buffer
	live.Stdout = &heard
	require.NoError(d, live.Start())
	ended := make(chan error, 1)
	go func() { ended <- live.Wait() }()
	for again := true; again; {
		// Sent until somebody has subscribed: there is no sign of that from outside.
		d.say(1883, "", "mosquitto_pub", "-h", "HOST", "-p", "PORT", "-t", "news", "-m", "hello")
		select {
		case err := <-ended:
			require.NoError(d, err)
			again = false
		case <-time.After(200 * time.Millisecond):
		}
	}
	require.Equal(d, "hello\n", heard.String())
	d.say(1883, "", "mosquitto_pub", "-h", "HOST", "-p", "PORT", "-t", "state", "-m", "retained", "-r", "-q", "1")
	stillRetained(d)
	// Also over a sleep, of which only the volume is left.
	d.in = installation(d.T, d.e, "hibernate", d.in.Name, "--wait")
	require.Empty(d, d.e.MachinesOf(d.in.Instance.ID))
	d.in = installation(d.T, d.e, "wake", d.in.Name, "--wait", "--timeout", "10m")
	stillRetained(d)
}

func stillRetained(d *tenant) {
	require.Equal(d, "retained\n", d.say(1883, "", "mosquitto_sub", "-h", "HOST", "-p", "PORT", "-t", "state", "-C", "1", "-W", "30"))
}

// count is a number in what a client printed.
func count(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(text))
	require.NoError(t, err, "%q", text)
	return n
}
