package kvm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/linux/stock"
	"dormouse/internal/provider/kvm"
	"dormouse/internal/provider/kvm/hostnet"
	"dormouse/internal/provider/providertest"
)

// imageOf is the image that the tests boot, made once from the tree as it is.
var imageOf = sync.OnceValues(func() (fleet.ImageFiles, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("dormouse-kvm-test-%d", os.Getpid()))
	files := fleet.ImageFiles{
		ID: "test", Kernel: fleet.KernelLinux, Cmdline: stock.Cmdline,
		InitrdPath: filepath.Join(dir, "initrd"), RootPath: filepath.Join(dir, "root.squashfs"),
	}
	kernel, err := testKernel()
	if err != nil {
		return files, err
	}
	files.KernelPath = kernel.BootPath()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"bin", "data", "dev", "proc", "sys", "tmp", "run", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return files, err
		}
	}
	for _, f := range []string{"etc/hosts", "etc/hostname", "etc/resolv.conf"} {
		if err := os.WriteFile(filepath.Join(root, f), nil, 0o644); err != nil {
			return files, err
		}
	}
	for _, cmd := range []*exec.Cmd{
		exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, "init"), "dormouse/cmd/init"),
		exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(root, "bin", "guest"), "dormouse/internal/provider/kvm/testdata/guest"),
		exec.Command("mksquashfs", root, files.RootPath, "-quiet", "-no-progress", "-noappend", "-all-root"),
	} {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return files, fmt.Errorf("%s: %w: %s", cmd, err, out)
		}
	}
	init, err := os.ReadFile(filepath.Join(dir, "init"))
	if err != nil {
		return files, err
	}
	initrd, err := os.Create(files.InitrdPath)
	if err != nil {
		return files, err
	}
	return files, errors.Join(stock.BuildInitrd(initrd, kernel.Dir, init), initrd.Close())
})

// testKernel finds the kernel that scripts/fetch-kernel.sh left.
func testKernel() (stock.Kernel, error) {
	dir := os.Getenv("DORMOUSE_TEST_KERNEL_DIR")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", ".cache", "kernel")
	}
	debs, err := stock.FindPackages(dir)
	if err != nil {
		if k, err := stock.Find(dir); err == nil {
			return k, nil
		}
		return stock.Kernel{}, fmt.Errorf("these tests boot a real kernel: from the top of the tree, run scripts/fetch-kernel.sh .cache/kernel (or set DORMOUSE_TEST_KERNEL_DIR): %w", err)
	}
	return stock.Unpack(context.Background(), filepath.Join(dir, "unpacked"), debs...)
}

// images hands out the one image.
type images struct{ files fleet.ImageFiles }

func (i images) Files(context.Context, fleet.ImageID) (fleet.ImageFiles, error) { return i.files, nil }

func (i images) Specialise(_ context.Context, id fleet.ImageID, t fleet.Tenant, dir string) (fleet.TenantFiles, error) {
	return fleet.TenantFiles{}, fleet.Errorf(fleet.KindInternal, "no disk")
}

func (i images) FormatVolume(context.Context, fleet.ImageID, []string, *os.File) error {
	return nil
}

// bench is a provider for real guests, on a network of its own.
type bench struct {
	dir      string
	net      hostnet.Network
	clones   hostnet.Network
	options  kvm.Options
	p        *kvm.Provider
	nextAddr atomic.Int32
}

func newBench(t testing.TB, mode string, onChange func(fleet.InstanceID)) *bench {
	t.Helper()
	files, err := imageOf()
	require.NoError(t, err)
	return newBenchOf(t, t.TempDir(), mode, images{files}, onChange)
}

// newBenchOf is one for other images, in a directory.
func newBenchOf(t testing.TB, dir, mode string, of kvm.Images, onChange func(fleet.InstanceID)) *bench {
	t.Helper()
	var err error
	b := &bench{dir: dir}
	options := hostnet.Options{Name: hostnet.NameFor(b.dir), StateDir: b.dir}
	if mode == hostnet.ModeBridge {
		b.net, err = hostnet.NewBridge(options)
		require.NoError(t, err)
		options.Name, options.Pool = options.Name+"-clones", "10.78.0.0/16"
		b.clones, err = hostnet.NewBridge(options)
	} else {
		b.net, err = hostnet.NewUser(options)
	}
	require.NoError(t, err)
	b.options = kvm.Options{
		DataDir: filepath.Join(b.dir, "kvm"), HostID: "host", Images: of, Network: b.net, CloneNetwork: b.clones, OnChange: onChange,
		StopGrace: 5 * time.Second, Resume: true, Accel: os.Getenv("DORMOUSE_TEST_ACCEL"),
	}
	b.open(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, b.p.Shutdown(ctx))
		for _, n := range []hostnet.Network{b.net, b.clones} {
			if n != nil {
				require.NoError(t, n.Remove(ctx))
				require.NoError(t, n.Close())
			}
		}
	})
	return b
}

func (b *bench) open(t testing.TB) {
	t.Helper()
	p, err := kvm.New(t.Context(), b.options)
	require.NoError(t, err)
	b.p = p
}

func (b *bench) reopen(t *testing.T) {
	t.Helper()
	require.NoError(t, b.p.Close())
	b.open(t)
}

func (b *bench) spec(_ testing.TB, name string) fleet.InstanceSpec {
	spec := fleet.InstanceSpec{
		ID: fleet.InstanceID(fleet.NewID()), InstallationID: fleet.InstallationID(fleet.NewID()), Name: name, Owner: "owner",
		Role: fleet.RoleApplication, ClusterID: "cluster", HostID: "host", Epoch: 1, Kernel: fleet.KernelLinux, Image: "test",
		MemoryMiB: 128, VCPUs: 1, Env: map[string]string{"GREETING": "hello from " + name},
		Manifest: fleet.Manifest{
			Program: "/bin/guest", Ports: []fleet.Port{{Number: 8080, Protocol: fleet.ProtocolHTTP, Name: "web"}},
			Health:  fleet.Health{Type: fleet.HealthHTTP, Port: 8080, Path: "/"},
			Persist: []string{"/data"}, Restart: fleet.RestartNever,
		},
	}
	if b.net.Pool() != "" {
		n := b.nextAddr.Add(1) + 1
		spec.Network = &fleet.Network{Address: fmt.Sprintf("10.77.0.%d/16", n), Gateway: "10.77.0.1", MAC: fmt.Sprintf("52:54:00:00:00:%02x", n)}
	}
	return spec
}

// get fetches a path from the instance, through its network.
func (b *bench) get(t *testing.T, st fleet.InstanceStatus, path string) string {
	t.Helper()
	body, err := b.fetch(t.Context(), st, path)
	require.NoError(t, err)
	return body
}

func (b *bench) fetch(ctx context.Context, st fleet.InstanceStatus, path string) (string, error) {
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return b.p.Dial(ctx, network, st.Endpoints[0].Address)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://guest"+path, nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, answer.Status, body)
	}
	return string(body), errors.Join(err, answer.Body.Close())
}

func TestConformance(t *testing.T) {
	t.Parallel()
	mode, detail := hostnet.Detect(t.Context())
	t.Log(mode, detail)
	modes := []string{hostnet.ModeUser}
	if mode == hostnet.ModeBridge {
		modes = append(modes, mode)
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			var b *bench
			providertest.Run(t, providertest.Harness{
				New: func(t *testing.T, onChange func(fleet.InstanceID)) providertest.Provider {
					b = newBench(t, mode, onChange)
					return b.p
				},
				Cluster: fleet.Cluster{ID: "cluster", Provider: fleet.ProviderKVM},
				Spec:    func(t *testing.T, name string) fleet.InstanceSpec { return b.spec(t, name) },
				Reopen: func(t *testing.T) providertest.Provider {
					b.reopen(t)
					return b.p
				},
				Write: func(t *testing.T, st fleet.InstanceStatus, data string) {
					b.get(t, st, "/set?text="+url.QueryEscape(data))
				},
				Read: func(t *testing.T, st fleet.InstanceStatus) string { return b.get(t, st, "/value") },
				End: func(t *testing.T, p providertest.Provider, ref fleet.InstanceRef) {
					st, err := p.Observe(t.Context(), ref)
					require.NoError(t, err)
					_, _ = b.fetch(t.Context(), st, "/exit?code=3") // it ends before it answers
				},
				BadCluster: &fleet.Cluster{ID: "bad", Provider: fleet.ProviderKVM, Settings: map[string]string{
					kvm.SettingMemoryMiB: "1000000000", kvm.SettingDiskMiB: "none", "nonsense": "1",
				}},
				Timeout: 90 * time.Second, VolumeMiB: 32, Slow: true, ClonesGiveWay: true,
			})
		})
	}
}
