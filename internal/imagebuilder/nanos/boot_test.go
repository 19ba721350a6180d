package nanos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/tfs"
)

// guest builds the boot tests' program and packs it.
var guestBinary = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir, "./testdata/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building the guest: %w: %s", err, out)
	}
	return os.ReadFile(filepath.Join(dir, "guest"))
})

func guestImage(t testing.TB, k *Kernel, manifest string, more map[string]string) string {
	t.Helper()
	binary, err := guestBinary()
	require.NoError(t, err)
	members := map[string]string{"sysroot/bin/guest": string(binary)}
	for name, body := range more {
		members[name] = body
	}
	return mustBuild(t, k, pack(t, manifest, members))
}

const guestManifest = `{"Name":"guest","Version":"1","Program":"/bin/guest","Args":["base"],"Env":{"WHO":"base"},"Persist":["/data","/var/lib/app"]}`

// machine is a QEMU with one guest.
type machine struct {
	t    testing.TB
	cmd  *exec.Cmd
	url  string
	seen chan string // lines of the console
	log  *bytes.Buffer
	done chan struct{} // closed when the console has ended
}

// baseDisk attaches an image as it is.
func baseDisk(image string) []string {
	return []string{"-blockdev", "driver=raw,node-name=root,file.driver=file,file.filename=" + filepath.Join(image, diskName), "-device", "virtio-blk-pci,drive=root"}
}

// overlayDisks attaches an image and what makes it a tenant's.
func overlayDisks(image string, f fleet.TenantFiles) []string {
	return []string{
		"-blockdev", "driver=raw,node-name=base,read-only=on,file.driver=file,file.filename=" + filepath.Join(image, diskName),
		"-blockdev", "driver=qcow2,node-name=root,file.driver=file,file.filename=" + f.OverlayPath + ",backing=base",
		"-device", "virtio-blk-pci,drive=root,bootindex=0",
		"-blockdev", "driver=raw,node-name=config,read-only=on,file.driver=file,file.filename=" + f.ConfigPath,
		"-device", "virtio-blk-pci,drive=config",
	}
}

func volumeDisk(path string) []string {
	return []string{"-blockdev", "driver=raw,node-name=data,cache.direct=off,file.driver=file,file.filename=" + path, "-device", "virtio-blk-pci,drive=data"}
}

// start boots a guest whose port 8080 at an address becomes one of ours.
func start(t testing.TB, network, address string, disks ...string) *machine {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	args := append([]string{
		"-nodefaults", "-no-user-config", "-accel", "tcg", "-cpu", "max", "-m", "256", "-display", "none", "-serial", "stdio", "-no-reboot", "-machine", "q35",
		"-netdev", fmt.Sprintf("user,id=n,%s,hostfwd=tcp:127.0.0.1:%d-%s:8080", network, port, address), "-device", "virtio-net-pci,netdev=n",
	}, disks...)
	m := &machine{t: t, cmd: exec.Command("qemu-system-x86_64", args...), url: fmt.Sprintf("http://127.0.0.1:%d", port), seen: make(chan string, 1000), log: &bytes.Buffer{}, done: make(chan struct{})}
	out, err := m.cmd.StdoutPipe()
	require.NoError(t, err)
	m.cmd.Stderr = m.cmd.Stdout
	require.NoError(t, m.cmd.Start(), "QEMU comes with qemu-system-x86")
	t.Cleanup(m.kill)
	go func() {
		defer close(m.done)
		defer close(m.seen)
		s := bufio.NewScanner(out)
		for s.Scan() {
			fmt.Fprintln(m.log, s.Text())
			m.seen <- s.Text()
		}
	}()
	return m
}

// kill ends the machine as a power cut does.
func (m *machine) kill() {
	if m.cmd.ProcessState == nil {
		_ = m.cmd.Process.Kill()
		m.wait()
	}
}

// wait waits until the machine has ended by itself.
func (m *machine) wait() {
	limit := time.AfterFunc(2*time.Minute, func() {
		m.t.Error("the guest did not end")
		_ = m.cmd.Process.Kill()
	})
	defer limit.Stop()
	for range m.seen { // until the console has ended
	}
	<-m.done
	_ = m.cmd.Wait()
}

// await waits for a line on the console.
func (m *machine) await(part string) {
	m.t.Helper()
	limit := time.After(2 * time.Minute)
	for {
		select {
		case line, ok := <-m.seen:
			if !ok {
				require.Fail(m.t, "the machine has ended", "%s", m.log)
			}
			if strings.Contains(line, part) {
				return
			}
		case <-limit:
			_ = m.cmd.Process.Kill()
			<-m.done
			require.Fail(m.t, "the guest did not say "+part, "%s", m.log)
		}
	}
}

func (m *machine) do(method, path string, query url.Values, body string) (int, string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, m.url+path+"?"+query.Encode(), strings.NewReader(body))
	require.NoError(m.t, err)
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	require.NoError(m.t, err)
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	require.NoError(m.t, err)
	return res.StatusCode, string(got)
}

func (m *machine) read(path string) string {
	m.t.Helper()
	_, body := m.do(http.MethodGet, "/file", url.Values{"path": {path}}, "")
	return body
}

func (m *machine) write(path, body string) {
	m.t.Helper()
	status, says := m.do(http.MethodPut, "/file", url.Values{"path": {path}}, body)
	require.Equal(m.t, http.StatusOK, status, "%s: %s", path, says)
}

type about struct {
	Args, Env, Addresses []string
	Hostname, Dir        string
}

func (m *machine) about() about {
	m.t.Helper()
	_, body := m.do(http.MethodGet, "/about", nil, "")
	var a about
	require.NoError(m.t, json.Unmarshal([]byte(body), &a), body)
	return a
}

// The image alone boots, with the package's own arguments and an address by DHCP.
func TestBootBase(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: realRelease(t)})
	image := guestImage(t, k, guestManifest, map[string]string{"sysroot/data/seed": "seed\n"})
	m := start(t, "net=10.0.2.0/24", "10.0.2.15", baseDisk(image)...)
	m.await("guest: serving")
	a := m.about()
	require.Equal(t, []string{"/bin/guest", "base"}, a.Args)
	require.Equal(t, []string{"WHO=base"}, a.Env)
	require.Equal(t, "guest", a.Hostname)
	require.Equal(t, "seed\n", m.read("/data/seed"))
	require.Equal(t, hosts, m.read("/etc/hosts"))
	m.write("/tmp/x", "written")
	require.Equal(t, "written", m.read("/tmp/x"))
}

func mustSpecialise(t testing.TB, k *Kernel, image string, tenant fleet.Tenant) fleet.TenantFiles {
	t.Helper()
	files, err := k.Specialise(context.Background(), image, tenant, t.TempDir())
	require.NoError(t, err)
	return files
}

// Two tenants of one image, each with what is its own.
func TestBootTenants(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: realRelease(t)})
	image := guestImage(t, k, guestManifest, nil)
	before, err := os.ReadFile(filepath.Join(image, diskName))
	require.NoError(t, err)
	for _, c := range []struct {
		tenant  fleet.Tenant
		network string
	}{
		{fleet.Tenant{Hostname: "one", Args: []string{"first"}, Env: map[string]string{"WHO": "one", "SECRET": "s1"},
			Network: fleet.GuestNetwork{Address: "10.1.0.9/16", Gateway: "10.1.0.2", DNS: []string{"10.1.0.3"}}}, "net=10.1.0.0/16"},
		{fleet.Tenant{Hostname: "two", Program: "/bin/guest", Args: []string{"second", "x"}, Env: map[string]string{"WHO": "two", "LARGE": strings.Repeat("v", 100_000)},
			Network: fleet.GuestNetwork{Address: "10.2.0.9/24", Gateway: "10.2.0.2"}}, "net=10.2.0.0/24"},
	} {
		files := mustSpecialise(t, k, image, c.tenant)
		address, _, _ := strings.Cut(c.tenant.Network.Address, "/")
		m := start(t, c.network, address, overlayDisks(image, files)...)
		m.await("guest: serving")
		a := m.about()
		require.Equal(t, append([]string{"/bin/guest"}, c.tenant.Args...), a.Args)
		require.Len(t, a.Env, 2)
		require.Contains(t, a.Env, "WHO="+c.tenant.Env["WHO"])
		require.Equal(t, c.tenant.Hostname, a.Hostname)
		require.Contains(t, a.Addresses, c.tenant.Network.Address)
		require.Contains(t, m.read("/etc/hosts"), address+" "+c.tenant.Hostname+"\n")
		require.Equal(t, resolvConf(c.tenant.Network.DNS), m.read("/etc/resolv.conf"))
		status, says := m.do(http.MethodPut, "/file", url.Values{"path": {"/etc/hosts"}}, "x")
		require.Equal(t, http.StatusInternalServerError, status, "the configuration is read-only")
		require.Contains(t, says, "read-only")
		m.write("/tmp/x", strings.Repeat("written", 1<<20))
		require.Len(t, m.read("/tmp/x"), 7<<20)
		m.kill()
	}
	after, err := os.ReadFile(filepath.Join(image, diskName))
	require.NoError(t, err)
	require.True(t, bytes.Equal(before, after), "the image stays as it is")
}

// What lies on the volume survives power cuts and new overlays. The second boot
// persists more than the first one did.
func TestBootVolume(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: realRelease(t)})
	image := guestImage(t, k, guestManifest, map[string]string{"sysroot/data/seed": "seed\n", "sysroot/var/lib/app/deep/x": "x\n", "sysroot/var/lib/app/l": "->deep/x"})
	v := volume(t, 16<<20)
	var large string
	for round := range 4 {
		persist := []string{"/data", "/var/lib/app"}[:min(round+1, 2)]
		require.NoError(t, k.FormatVolume(context.Background(), image, persist, v))
		files := mustSpecialise(t, k, image, fleet.Tenant{Hostname: "one", Persist: persist, Env: map[string]string{"ROUND": fmt.Sprint(round)}})
		m := start(t, "net=10.0.2.0/24", "10.0.2.15", append(overlayDisks(image, files), volumeDisk(v.Name())...)...)
		m.await("guest: serving")
		require.Equal(t, []string{fmt.Sprint("ROUND=", round)}, m.about().Env)
		if round == 0 {
			require.Equal(t, "seed\n", m.read("/data/seed"))
			m.write("/tmp/gone", "x")
		} else {
			require.Equal(t, "x\n", m.read("/var/lib/app/l"))
			require.Equal(t, fmt.Sprint("changed in ", round-1), m.read("/data/seed"))
			require.Equal(t, large, m.read("/data/large"))
			require.Contains(t, m.read("/tmp/gone"), "no such file")
			m.write("/var/lib/app/deep/x", "x\n")
		}
		large = strings.Repeat(fmt.Sprint(round), 2<<20)
		m.write("/data/large", large)
		m.write("/data/seed", fmt.Sprint("changed in ", round))
		m.write("/tmp/large", large)
		m.kill()

		// What the kernel has written is read as what it is.
		f, err := tfs.Open(v, 16<<20)
		require.NoError(t, err)
		_, err = f.Verify()
		require.NoError(t, err)
		require.Equal(t, large, text(t, f, "data/large"))
		root, _ := tenantRoot(t, image, files)
		require.Equal(t, large, text(t, root, "tmp/large"))
	}
}

// What the kernel leaves on its disk is found, in the overlay as well.
func TestBootExit(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: realRelease(t)})
	image := guestImage(t, k, guestManifest, nil)
	files := mustSpecialise(t, k, image, fleet.Tenant{Hostname: "one", Args: []string{"exit", "7"}})
	read := func() (Exit, bool) {
		overlay, err := os.Open(files.OverlayPath)
		require.NoError(t, err)
		defer overlay.Close()
		disk, err := os.Open(filepath.Join(image, diskName))
		require.NoError(t, err)
		defer disk.Close()
		exit, ok, err := ReadTenantExit(overlay, disk)
		require.NoError(t, err)
		return exit, ok
	}
	_, ok := read()
	require.False(t, ok, "it has not run yet")
	m := start(t, "net=10.0.2.0/24", "10.0.2.15", overlayDisks(image, files)...)
	m.wait()
	exit, ok := read()
	require.True(t, ok)
	require.Equal(t, 7, exit.Code)
	require.Contains(t, string(exit.Log), "guest: leaving with 7")
}
