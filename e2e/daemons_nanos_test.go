package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// onNanos is how a daemon fares on Nanos.
type onNanos struct {
	daemon
	// as is the name in the table, where it is not the daemon's.
	as string
	// files are laid over examples/daemons/NAME, its manifest among them.
	files func(t *testing.T, e *harness.Environment) map[string]string
	// packed makes the arguments of package create, instead of examples/daemons/NAME.
	packed func(t *testing.T) []string
	// refused is a part of what admission says, evidence of what the boot told; both are empty where it works.
	refused, evidence string
	// client, where it boots and does not work, is what must fail.
	client func(d *tenant) error
}

// onNanosMemory is what each machine gets: mosquitto does not come up in 128 MiB, and does in 160.
const onNanosMemory = "192MiB"

// TestDaemonsOnNanos runs the programs of TestDaemons on a real unikernel, and
// prints how each fared as a table.
func TestDaemonsOnNanos(t *testing.T) {
	t.Parallel()
	if os.Getenv("NANOS_DIR") == "" {
		t.Skip("NANOS_DIR names no release of Nanos (a directory with boot.img, kernel.img and klibs/): nothing was booted")
	}
	e := suite.Own(t, harness.Options{})
	require.NoError(t, e.Start(t.Context()))
	require.NoError(t, e.CreateCluster(t.Context()))
	table := []string{"| daemon | version | before a boot | worked | after a restart | evidence on the package |", "|---|---|---|---|---|---|"}
	for _, d := range daemonsOnNanos() {
		t.Run(d.as, func(t *testing.T) { // one after another: each boot takes a core
			if d.as != "redis" && d.as != "mosquitto" && os.Getenv("DORMOUSE_E2E_DAEMONS") != "all" {
				t.Skip("left out to keep the suite short: DORMOUSE_E2E_DAEMONS=all runs every daemon")
			}
			for _, program := range d.clients {
				_, err := exec.LookPath(program)
				require.NoError(t, err, "there is no %s: apt-get install %s", program, d.from)
			}
			r := nanosRow{version: "—", worked: "no", again: "—"}
			d.run(t, e, &r)
			table = append(table, fmt.Sprintf("| %s | %s | %s | %s | %s | %s |", d.as, r.version, r.before, r.worked, r.again, strings.Join(r.evidence, "; ")))
		})
	}
	t.Run("too little memory", func(t *testing.T) {
		pkg := upload(t, e, append([]string{"--kernel", "nanos"}, suite.Daemon(t, "redis")...)...)
		ctl(t, e, "installation", "create", "small", "--owner", "carol", "--cluster", harness.Cluster, "--package", pkg, "--memory", "96MiB", "--disk", "64MiB")
		require.Eventually(t, func() bool {
			return strings.Contains(strings.Join(evidenceOf(t, e, pkg), "\n"), "the kernel stopped without a word, as it does where memory runs out")
		}, late, tick)
		ctl(t, e, "installation", "delete", "small", "--yes", "--wait")
	})
	images := decoded[[]client.Image](t, ctl(t, e, "-o", "json", "image", "list").Stdout)
	require.NotEmpty(t, images)
	t.Logf("kernel %s, digest %s", images[0].Kernel, images[0].KernelDigest)
	t.Logf("\n%s", strings.Join(table, "\n"))
}

// nanosRow is a line of the table.
type nanosRow struct {
	version, before, worked, again string
	evidence                       []string
}

func (d onNanos) run(t *testing.T, e *harness.Environment, r *nanosRow) {
	made := e.Cloudctl(t.Context(), append([]string{"-o", "json", "package", "create", "--kernel", "nanos"}, d.source(t, e)...)...)
	if d.refused != "" {
		require.NotZero(t, made.Code, "%s", made)
		r.before = "refused: " + decoded[client.Problem](t, made.Stderr).Detail
		require.Contains(t, r.before, d.refused)
		return
	}
	require.Zero(t, made.Code, "%s", made)
	p := decoded[client.Package](t, made.Stdout)
	pkg := p.Name + "@" + p.Version
	r.version, r.before = p.Version, fmt.Sprintf("admitted, %d warnings", len(p.Warnings))

	args := []string{"-o", "json", "installation", "create", p.Name, "--owner", "carol", "--cluster", harness.Cluster, "--package", pkg, "--memory", onNanosMemory, "--wait", "--timeout", "10m"}
	if d.disk != "" {
		args = append(args, "--disk", d.disk)
	}
	for _, v := range d.env {
		args = append(args, "--secret", v)
	}
	created := e.Cloudctl(t.Context(), args...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console of %s:\n%s", p.Name, e.Cloudctl(context.Background(), "installation", "logs", p.Name, "--tail", "60").Stdout)
			e.Cloudctl(context.Background(), "installation", "delete", p.Name, "--yes", "--wait")
		}
	})
	if d.evidence != "" {
		d.fail(t, e, created, pkg)
		r.evidence = evidenceOf(t, e, pkg)
		return
	}
	require.Zero(t, created.Code, "%s", created)
	in := decoded[client.Installation](t, created.Stdout)
	require.Equal(t, "stable", in.State)
	d.work(&tenant{t, e, in})
	r.worked = "yes"
	in = installation(t, e, "restart", p.Name, "--wait", "--timeout", "10m")
	require.Equal(t, "stable", in.State)
	d.again(&tenant{t, e, in})
	r.again = d.lasting()
	r.evidence = evidenceOf(t, e, pkg)
	deleteAndLook(t, e, in)
}

// fail sees that a daemon does not work, and that the package says why.
func (d onNanos) fail(t *testing.T, e *harness.Environment, created harness.Result, pkg string) {
	if d.client == nil {
		require.NotZero(t, created.Code, "%s", created)
	} else {
		require.Zero(t, created.Code, "%s", created)
		require.Error(t, d.client(&tenant{t, e, decoded[client.Installation](t, created.Stdout)}))
	}
	require.Eventually(t, func() bool {
		return strings.Contains(strings.Join(evidenceOf(t, e, pkg), "\n"), d.evidence)
	}, soon, tick)
	name, _, _ := strings.Cut(pkg, "@")
	ctl(t, e, "installation", "delete", name, "--yes", "--wait")
	traced := decoded[client.Trace](t, ctl(t, e, "-o", "json", "package", "trace", pkg).Stdout)
	t.Logf("package trace %s: evidence %q, exit %+v", pkg, traced.Evidence, traced.Exit)
	require.NotEmpty(t, traced.Lines)
	require.Subset(t, evidenceOf(t, e, pkg), traced.Evidence)
}

func evidenceOf(t *testing.T, e *harness.Environment, pkg string) []string {
	return decoded[client.Package](t, ctl(t, e, "-o", "json", "package", "get", pkg).Stdout).Evidence
}

// source returns the arguments of package create.
func (d onNanos) source(t *testing.T, e *harness.Environment) []string {
	if d.packed != nil {
		return d.packed(t)
	}
	args := suite.Daemon(t, d.name)
	if d.files != nil {
		dir := t.TempDir()
		files := d.files(t, e)
		for _, name := range slices.Sorted(maps.Keys(files)) {
			path := filepath.Join(dir, name)
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
			require.NoError(t, os.WriteFile(path, []byte(files[name]), 0o755))
		}
		args[slices.Index(args, "--manifest")+1] = dir
	}
	return args
}

// daemonsOnNanos are those of daemons, with what is known of them there, and the
// programs themselves of those that a script starts.
func daemonsOnNanos() (all []onNanos) {
	for _, daemon := range daemons() {
		o := onNanos{daemon: daemon, as: daemon.name}
		switch daemon.name {
		case "mariadb":
			o.packed = func(t *testing.T) []string { return suite.MariaDBOnNanos(t, "a-sea-lion") }
			o.again = func(d *tenant) { daemon.again(d); committed(d) }
		case "rsync":
			o.evidence = "the program tried to make a process"
			o.client = func(d *tenant) error {
				_, err := d.try(873, "", "rsync", "--timeout=20", "rsync://HOST:PORT/files/")
				return err
			}
		case "postgresql", "stunnel":
			o.refused = "is a script, and Nanos starts nothing but the program itself"
		}
		all = append(all, o)
		switch daemon.name {
		case "postgresql":
			o.refused, o.evidence = "", `the program exited with 1: "root" execution of the PostgreSQL server is not permitted.`
			o.as, o.files = "postgresql, without its script", func(t *testing.T, _ *harness.Environment) map[string]string {
				return map[string]string{"package.manifest": overlay(t, "postgres", postgresProgram, 5432, "-D", "/var/lib/postgresql/data")}
			}
			all = append(all, o)
			o.as, o.files = "postgresql, renamed", func(t *testing.T, e *harness.Environment) map[string]string {
				// By this name nothing could know it.
				return map[string]string{
					"package.manifest":               overlay(t, "elephant", "/usr/local/bin/elephant", 5432, "-D", "/var/lib/postgresql/data"),
					"sysroot/usr/local/bin/elephant": ctl(t, e, "image", "cat", "postgres", postgresProgram).Stdout,
				}
			}
			all = append(all, o)
		case "stunnel":
			o.refused, o.work, o.again = "", stunnelBefore, stunnelBefore
			o.as, o.files = "stunnel, without its script", func(t *testing.T, _ *harness.Environment) map[string]string {
				return map[string]string{
					"package.manifest": overlay(t, "stunnel", "/usr/bin/stunnel4", 8443, "/etc/stunnel/tenant.conf"),
					"sysroot/etc/stunnel/tenant.conf": "foreground = yes\nsyslog = no\npid =\n[to]\naccept = 0.0.0.0:8443\nciphers = PSK\n" +
						"PSKsecrets = /etc/stunnel/psk\nconnect = " + behindStunnel + ":7007\n",
					"sysroot/etc/stunnel/psk": "tenant:" + stunnelKey + "\n",
				}
			}
			all = append(all, o)
		}
	}
	return all
}

const postgresProgram = "/usr/lib/postgresql/15/bin/postgres"

func overlay(t *testing.T, name, program string, port int, args ...string) string {
	body, err := json.Marshal(map[string]any{
		"Name": name, "Program": program, "Args": args, "Ports": []any{map[string]any{"Number": port, "Protocol": "tcp"}},
		"Health": map[string]any{"Type": "tcp", "Port": port, "Timeout": "2s"}, "Persist": []string{"/var/lib/" + name}, "MinMemory": "96MiB",
	})
	require.NoError(t, err)
	return string(body)
}

// committed cuts MariaDB's power right after it has committed a row.
func committed(d *tenant) {
	d.mariadb("INSERT INTO shop.note VALUES (5000, 'committed')")
	machines := d.e.MachinesOf(d.in.Instance.ID)
	require.Len(d, machines, 1)
	require.NoError(d, syscall.Kill(machines[0].PID, syscall.SIGKILL))
	d.await(3306, "committed\n", "mariadb", "--no-defaults", "-h", "HOST", "-P", "PORT", "--protocol=tcp", "-u", "root", "--password=a-sea-lion", "-N", "-B", "-e", "SELECT text FROM shop.note WHERE id = 5000")
}

// behindStunnel is the guests' gateway, in the provisioner's network namespace:
// the first address of its pool.
const behindStunnel = "10.77.0.1"

// stunnelBefore is stunnel's work where it can't start a program: a connection to one elsewhere.
func stunnelBefore(d *tenant) {
	ctx, cancel := context.WithTimeout(d.Context(), late)
	defer cancel()
	behind := d.command(ctx, 8443, "nc", "-l", "-N", behindStunnel, "7007")
	var heard bytes.Buffer
	behind.Stdin, behind.Stdout = strings.NewReader("welcome\n"), &heard
	require.NoError(d, behind.Start())
	ended := make(chan error, 1)
	go func() { ended <- behind.Wait() }()
	require.Eventually(d, func() bool { // until nc listens
		said, err := d.try(8443, "hello\n", "timeout", "20", "openssl", "s_client", "-connect", "HOST:PORT", "-psk_identity", "tenant", "-psk", stunnelKey, "-quiet")
		return err == nil && strings.Contains(said, "welcome\n")
	}, soon, tick)
	require.NoError(d, <-ended)
	require.Equal(d, "hello\n", heard.String())
	_, err := d.try(8443, "hello\n", "timeout", "20", "openssl", "s_client", "-connect", "HOST:PORT", "-psk_identity", "tenant", "-psk", strings.Repeat("00", 32), "-quiet")
	require.Error(d, err, "with another key")
}
