package export_test

import (
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
)

// oneBoot: each boot takes a whole core, so there is one at a time.
var oneBoot sync.Mutex

// machine is what a disk is booted in.
type machine struct {
	// args attach the disk, whose drive is named disk.
	args []string
	// card is the network card's model; empty is virtio-net-pci.
	card string
	// button: once it has answered, its power button is pressed, and it must shut down.
	button bool
}

// serves boots a machine with UEFI firmware and awaits the example's answer.
func serves(t *testing.T, m machine) {
	t.Helper()
	firmware := "/usr/share/ovmf/OVMF.fd"
	require.FileExists(t, firmware, "apt-get install ovmf")
	oneBoot.Lock()
	defer oneBoot.Unlock()
	dir := t.TempDir()
	if m.card == "" {
		m.card = "virtio-net-pci"
	}
	port := freePort(t)
	console := filepath.Join(dir, "console")
	args := append([]string{
		"-accel", "tcg,tb-size=64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "256",
		"-bios", firmware, "-chardev", "file,id=console,path=" + console, "-serial", "chardev:console",
		"-monitor", "unix:" + filepath.Join(dir, "monitor") + ",server=on,wait=off",
		"-netdev", fmt.Sprintf("user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:%d-:8080", port), "-device", m.card + ",netdev=net,romfile=",
	}, m.args...)
	cmd := exec.Command("qemu-system-x86_64", args...)
	output, err := os.Create(filepath.Join(dir, "qemu"))
	require.NoError(t, err)
	defer output.Close()
	cmd.Stdout, cmd.Stderr = output, output
	begun := time.Now()
	require.NoError(t, cmd.Start())
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait()
	}()
	defer func() {
		_ = cmd.Process.Kill()
		<-exited
		if t.Failed() {
			t.Logf("console:\n%s\nqemu: %s", read(console), read(output.Name()))
		}
	}()
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", port))
		if err == nil {
			require.NoError(t, answer.Body.Close())
			if answer.StatusCode == http.StatusOK {
				t.Logf("it answered after %.1f s", time.Since(begun).Seconds())
				if m.button {
					pressButton(t, filepath.Join(dir, "monitor"))
					awaitOff(t, exited, console)
				}
				return
			}
		}
		select {
		case <-exited:
			require.FailNow(t, "the machine ended", "%s\n%s", read(console), read(output.Name()))
		case <-tick.C:
			require.Less(t, time.Since(begun), bootLimit, "no answer in time: %v", err)
		}
	}
}

func pressButton(t *testing.T, monitor string) {
	t.Helper()
	c, err := net.Dial("unix", monitor)
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "system_powerdown\n")
	require.NoError(t, err)
	// Until it has been read: the monitor says the command back.
	got := make([]byte, 4096)
	for all := ""; !strings.Contains(all, "powerdown"); {
		n, err := c.Read(got)
		require.NoError(t, err)
		all += string(got[:n])
	}
}

// awaitOff waits until the machine is off, which the guest must have done by itself.
func awaitOff(t *testing.T, exited <-chan struct{}, console string) {
	t.Helper()
	select {
	case <-exited:
	case <-time.After(bootLimit):
		require.FailNow(t, "it is still on")
	}
	require.Contains(t, read(console), guest.GoneLine+`{"event":"gone"`)
	require.Contains(t, read(console), `"reason":"stopped"`)
}

func read(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(content)
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// drive is QEMU's name for a file that it does not write to.
func drive(format, file string) []string {
	return append(writable(format, file), "-snapshot")
}

// writable is QEMU's name for a file that it writes to.
func writable(format, file string) []string {
	return []string{"-drive", fmt.Sprintf("if=none,id=disk,format=%s,file=%s", format, file)}
}
