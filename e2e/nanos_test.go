package e2e

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// TestNanos is a tenant's life on a real unikernel, where NANOS_DIR names a release of it.
func TestNanos(t *testing.T) {
	t.Parallel()
	if os.Getenv("NANOS_DIR") == "" {
		t.Skip("NANOS_DIR names no release of Nanos (a directory with boot.img, kernel.img and klibs/): nothing was booted")
	}
	e := suite.Own(t, harness.Options{})
	require.NoError(t, e.Start(t.Context()))
	require.NoError(t, e.CreateCluster(t.Context()))
	p := decoded[client.Package](t, ctl(t, e, "-o", "json", "package", "create", suite.Workspace(t, "1.0.0"), "--kernel", "nanos").Stdout)
	require.Equal(t, "nanos", p.Kernel)
	pkg := p.Name + "@" + p.Version
	create := func(name string, more ...string) client.Installation {
		args := []string{"create", name, "--owner", "alice", "--cluster", harness.Cluster, "--package", pkg, "--memory", "128MiB", "--disk", "64MiB", "--wait", "--timeout", "10m"}
		return installation(t, e, append(args, more...)...)
	}
	in := create("acme", "--env", "GREETING=hello", "--secret", "TOKEN=hunter2")
	require.Equal(t, "stable", in.State)
	require.Equal(t, "hello", visit[info](t, e, "acme", "/api/info").Greeting)
	require.Equal(t, "acme", visit[info](t, e, "acme", "/api/info").Hostname)
	addNote(t, e, "acme", "remember me")

	// One image for all, and a few KiB for each.
	other := create("beta", "--env", "GREETING=good day")
	require.Equal(t, in.Instance.Image, other.Instance.Image)
	require.Equal(t, "good day", visit[info](t, e, "beta", "/api/info").Greeting)
	instances := decoded[[]client.InstanceDetail](t, ctl(t, e, "-o", "json", "instance", "list", "--installation", "beta").Stdout)
	require.Len(t, instances, 1)
	require.Equal(t, "nanos", instances[0].Kernel)
	require.NotEmpty(t, instances[0].Endpoints[0].Address)

	in = installation(t, e, "hibernate", "acme", "--wait")
	require.Empty(t, e.MachinesOf(in.Instance.ID))
	in = installation(t, e, "wake", "acme", "--wait", "--timeout", "10m")
	requireNote(t, e, "acme", "remember me")
	installation(t, e, "update", "acme", "--env", "GREETING=good morning", "--wait", "--timeout", "10m")
	require.Equal(t, "good morning", visit[info](t, e, "acme", "/api/info").Greeting)
	requireNote(t, e, "acme", "remember me")

	// A power cut of the machine, and then of the provisioner too.
	pids := e.MachinesOf(installation(t, e, "get", "acme").Instance.ID)
	require.Len(t, pids, 1)
	require.NoError(t, syscall.Kill(pids[0].PID, syscall.SIGKILL))
	require.Eventually(t, func() bool {
		a, err := e.Visit(t.Context(), "acme", "GET", "/api/notes", "")
		return err == nil && a.Status == 200 && strings.Contains(string(a.Body), "remember me")
	}, late, tick, "it comes back with what was on its volume")
	require.NoError(t, e.End(syscall.SIGKILL))
	require.NoError(t, e.Start(t.Context()))
	requireNote(t, e, "acme", "remember me")

	// What is not there can't be read by the other kernel.
	linux := upload(t, e, suite.Workspace(t, "1.1.0"))
	refused := e.Cloudctl(t.Context(), "installation", "update", "acme", "--package", linux, "--wait", "--timeout", "10m")
	require.NotZero(t, refused.Code)
	require.Contains(t, refused.Stderr, "has the file system of the kernel nanos")
	ctl(t, e, "installation", "update", "acme", "--package", pkg, "--wait", "--timeout", "10m")
	requireNote(t, e, "acme", "remember me")

	files := ctl(t, e, "image", "ls", pkg).Stdout
	require.Contains(t, files, "/workspace")
	require.Equal(t, strconv.FormatInt(int64(len(ctl(t, e, "image", "cat", pkg, "/workspace").Stdout)), 10), sizeIn(files, "/workspace"))
	for _, name := range []string{"acme", "beta"} {
		in := installation(t, e, "get", name)
		ctl(t, e, "installation", "delete", name, "--yes", "--wait")
		requireGone(t, e, in)
	}
	ctl(t, e, "image", "delete", pkg)
	require.Len(t, e.Files("images"), 1, "that of the other kernel, which nothing could use")
}

// sizeIn returns the size column of a path's line.
func sizeIn(list, path string) string {
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == path {
			return f[1]
		}
	}
	return ""
}
