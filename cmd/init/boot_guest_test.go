package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/guest"
	"dormouse/internal/imagebuilder/linux/stock"
)

// bootLimit bounds everything that a guest is waited for, on a machine that
// emulates and is busy with other tests.
const bootLimit = 90 * time.Second

// built is what all boots share: made once, from the tree as it is.
type built struct {
	dir            string
	kernel, initrd string
	root           string
	err            error
}

var builtOnce = sync.OnceValue(build)

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(bootDir())
	os.Exit(code)
}

func bootDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("dormouse-init-%d", os.Getpid()))
}

func build() built {
	b := built{dir: bootDir()}
	b.err = func() error {
		kernel, err := testKernel()
		if err != nil {
			return err
		}
		root := filepath.Join(b.dir, "root")
		for _, d := range []string{"bin", "dev", "proc", "sys", "tmp", "run", "etc", "var/lib/app", "var/log/app"} {
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				return err
			}
		}
		for name, content := range map[string]string{
			"etc/passwd": "root:x:0:0:root:/root:/bin/sh\napp:x:101:102::/var/lib/app:/bin/false\n",
			"etc/group":  "app:x:102:\nextra:x:200:daemon,app\n",
			"etc/hosts":  "", "etc/hostname": "", "etc/resolv.conf": "",
			"var/lib/app/seed": "from the image", "bin/script": "#!/bin/gone\n",
		} {
			if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o755); err != nil {
				return err
			}
		}
		// A program for another machine: the head of an ELF file for AArch64.
		foreign := make([]byte, 4096)
		copy(foreign, "\x7fELF\x02\x01\x01")
		foreign[16], foreign[18] = 2, 0xb7
		if err := os.WriteFile(filepath.Join(root, "bin/foreign"), foreign, 0o755); err != nil {
			return err
		}
		if err := errors.Join(os.Chmod(filepath.Join(root, "var/lib/app/seed"), 0o640), os.Chmod(filepath.Join(root, "tmp"), 0o777|os.ModeSticky)); err != nil {
			return err
		}
		if err := goBuild(".", filepath.Join(b.dir, "init")); err != nil {
			return err
		}
		if err := goBuild("./testdata/program", filepath.Join(root, "bin/program")); err != nil {
			return err
		}
		b.root = filepath.Join(b.dir, "root.squashfs")
		if err := command("mksquashfs", root, b.root, "-quiet", "-no-progress", "-noappend", "-comp", "lz4",
			"-p", "/var/lib/app/owned f 600 33 44 echo owned"); err != nil {
			return err
		}
		b.kernel, b.initrd = kernel.BootPath(), filepath.Join(b.dir, "initrd")
		return writeInitrd(b, kernel)
	}()
	return b
}

func writeInitrd(b built, kernel stock.Kernel) error {
	binary, err := os.ReadFile(filepath.Join(b.dir, "init"))
	if err != nil {
		return err
	}
	f, err := os.Create(b.initrd)
	if err != nil {
		return err
	}
	return errors.Join(stock.BuildInitrd(f, kernel.Dir, binary), f.Close())
}

func goBuild(pkg, out string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return run(cmd)
}

func command(name string, args ...string) error { return run(exec.Command(name, args...)) }

func run(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// testKernel unpacks the kernel package that scripts/fetch-kernel.sh left.
func testKernel() (stock.Kernel, error) {
	dir := os.Getenv("DORMOUSE_TEST_KERNEL_DIR")
	if dir == "" {
		dir = filepath.Join("..", "..", ".cache", "kernel")
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

// machineOptions are what differs between the guests of the tests.
type machineOptions struct {
	// config replaces the encoded configuration.
	config []byte
	noRoot bool
	volume string
	// deaf: nobody connects to the channel.
	deaf bool
}

// vm is a running guest.
type vm struct {
	t       testing.TB
	dir     string
	url     string
	conn    net.Conn
	started time.Time
	events  chan guest.Message
	exited  chan struct{}
	nextID  int64
}

func boot(t testing.TB, c guest.Config, o machineOptions) *vm {
	t.Helper()
	b := builtOnce()
	require.NoError(t, b.err)
	dir, err := os.MkdirTemp(b.dir, "vm-")
	require.NoError(t, err)
	v := &vm{t: t, dir: dir, events: make(chan guest.Message, 256), exited: make(chan struct{})}
	if o.config == nil {
		o.config, err = guest.EncodeConfig(c)
		require.NoError(t, err)
	}
	require.NoError(t, os.WriteFile(v.path("config"), o.config, 0o600))
	port := freePort(t)
	v.url = fmt.Sprintf("http://127.0.0.1:%d", port)
	args := []string{
		"-M", "pc-q35-7.2", "-accel", "tcg,tb-size=32", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-m", "128", "-smp", "1",
		"-kernel", b.kernel, "-initrd", b.initrd, "-append", stock.Cmdline,
		"-chardev", "file,id=console,path=" + v.path("console"), "-serial", "chardev:console",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=guest,path=" + v.path("guest.sock") + ",server=on,wait=off",
		"-device", "virtserialport,chardev=guest,name=" + guest.ChannelPort,
		"-netdev", fmt.Sprintf("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:%d-10.0.2.15:8080", port),
		"-device", "virtio-net-pci,netdev=net,romfile=,mac=02:00:00:00:00:01",
	}
	args = append(args, disk("config", v.path("config"), guest.DiskConfig, true)...)
	if !o.noRoot {
		args = append(args, disk("root", b.root, guest.DiskRoot, true)...)
	}
	if o.volume != "" {
		args = append(args, disk("volume", o.volume, guest.DiskVolume, false)...)
	}
	cmd := exec.Command("qemu-system-x86_64", args...)
	output, err := os.Create(v.path("qemu"))
	require.NoError(t, err)
	defer output.Close()
	cmd.Stdout, cmd.Stderr = output, output
	v.started = time.Now()
	require.NoError(t, cmd.Start())
	go func() {
		defer close(v.exited)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-v.exited
		if t.Failed() {
			t.Logf("console:\n%s\nqemu: %s", v.read("console"), v.read("qemu"))
		}
	})
	if !o.deaf {
		v.connect()
	}
	return v
}

func disk(id, file, serial string, readOnly bool) []string {
	drive := "if=none,format=raw,id=" + id + ",file=" + file
	if readOnly {
		drive += ",readonly=on"
	}
	return []string{"-drive", drive, "-device", "virtio-blk-pci,drive=" + id + ",serial=" + serial}
}

func (v *vm) path(name string) string { return filepath.Join(v.dir, name) }

func (v *vm) read(name string) string {
	content, err := os.ReadFile(v.path(name))
	if err != nil {
		return err.Error()
	}
	return string(content)
}

// connect joins the channel; events come in until the other side closes.
func (v *vm) connect() {
	v.t.Helper()
	require.Eventually(v.t, func() bool {
		var err error
		v.conn, err = net.Dial("unix", v.path("guest.sock"))
		return err == nil
	}, bootLimit, 5*time.Millisecond)
	go func(c net.Conn) {
		lines := bufio.NewScanner(c)
		for lines.Scan() {
			var m guest.Message
			if err := json.Unmarshal(lines.Bytes(), &m); err == nil {
				v.events <- m
			}
		}
	}(v.conn)
}

// next returns the next message, which must be that event.
func (v *vm) next(want guest.Event) guest.Message {
	v.t.Helper()
	select {
	case m := <-v.events:
		require.Equal(v.t, want, m.Event, "%+v", m)
		return m
	case <-time.After(bootLimit):
		require.FailNow(v.t, "no event", "waited for %s; console:\n%s", want, v.read("console"))
		return guest.Message{}
	}
}

// ask sends a command and returns its answer, with the events that came before it.
func (v *vm) ask(c guest.Command) (guest.Message, []guest.Event) {
	v.t.Helper()
	v.nextID++
	c.ID = v.nextID
	line, err := json.Marshal(c)
	require.NoError(v.t, err)
	_, err = v.conn.Write(append(line, '\n'))
	require.NoError(v.t, err)
	var before []guest.Event
	for {
		select {
		case m := <-v.events:
			if m.Event == guest.EventDone && m.ID == c.ID {
				return m, before
			}
			before = append(before, m.Event)
		case <-time.After(bootLimit):
			require.FailNow(v.t, "no answer", "to %s; console:\n%s", c.Verb, v.read("console"))
		}
	}
}

// does is ask for a command that must work.
func (v *vm) does(c guest.Command) {
	v.t.Helper()
	answer, _ := v.ask(c)
	require.Empty(v.t, answer.Error, c.Verb)
}

func (v *vm) get(path string) (int, string) {
	v.t.Helper()
	code, body, err := v.tryGet(path)
	require.NoError(v.t, err)
	return code, body
}

func (v *vm) tryGet(path string) (int, string, error) {
	client := http.Client{Timeout: bootLimit, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(v.url + path)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(body), err
}

// awaitOff waits for the power-off and returns what the console says of the end.
func (v *vm) awaitOff() guest.Message {
	v.t.Helper()
	select {
	case <-v.exited:
	case <-time.After(bootLimit):
		require.FailNow(v.t, "the guest is still on", v.read("console"))
	}
	for line := range strings.SplitSeq(v.read("console"), "\n") {
		if body, ok := strings.CutPrefix(strings.TrimSpace(line), guest.GoneLine); ok {
			var m guest.Message
			require.NoError(v.t, json.Unmarshal([]byte(body), &m))
			return m
		}
	}
	require.FailNow(v.t, "no gone line", v.read("console"))
	return guest.Message{}
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func newVolume(t testing.TB) string {
	t.Helper()
	require.NoError(t, builtOnce().err)
	dir, err := os.MkdirTemp(builtOnce().dir, "volume-")
	require.NoError(t, err)
	file := filepath.Join(dir, "volume")
	require.NoError(t, command("mkfs.ext4", "-q", "-F", file, "64M"))
	return file
}
