package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm/hostnet"
)

// descriptor finds the numbers of inherited files in the arguments.
var descriptor = regexp.MustCompile(`(?:^|,)fd=(\d+)|/proc/self/fd/(\d+)(?:,|$)`)

// place is where a machine of a recipe lies: a directory with its files, and a
// network of its own, so that any number of the same address run at once.
type place struct {
	dir     string
	network *hostnet.Bridge
}

// gatewayMAC is the hardware address of the host in each place.
const gatewayMAC = "02:00:5e:00:53:01"

// newPlace makes a place. The directory is removed with the bench's own.
func (b *bench) newPlace(r *recipe, name string) (*place, error) {
	p := &place{dir: filepath.Join(b.dir, "bare-"+name)}
	if err := os.MkdirAll(p.dir, 0o755); err != nil {
		return nil, err
	}
	var err error
	namespace := fmt.Sprintf("dormouse-bench-%d-%s", os.Getpid(), name)
	p.network, err = hostnet.NewBridge(hostnet.Options{Name: namespace, Pool: r.pool})
	if err != nil {
		return nil, err
	}
	b.onClose(func() error { return p.network.Remove(context.Background()) })
	// A guest that goes on knows its gateway by the hardware address of where it was saved.
	out, err := exec.Command("ip", "-n", namespace, "link", "set", "dev", "dormouse0", "address", gatewayMAC).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("setting the bridge's address: %w: %s", err, out)
	}
	return p, nil
}

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }

// bare is a machine that runs without us.
type bare struct {
	*place
	cmd      *exec.Cmd
	channel  net.Conn
	endpoint string
	began    time.Time
	// ran is when its guest went on, and answered when the first byte of its answer
	// was there, where it was resumed.
	ran, answered time.Time
	id            fleet.InstanceID
}

// start starts QEMU with the same arguments on the files "ram" and "volume" of
// the place, and further ones. With a state it waits for being told to load it,
// and state is the number of that file.
func (r *recipe) start(ctx context.Context, p *place, saved *os.File) (m *bare, state int, err error) {
	m = &bare{place: p, id: fleet.InstanceID(fleet.NewID())}
	port := hostnet.Port{ID: m.id, MAC: r.guest.Network.MAC, UID: r.uid, Address: r.guest.Network.Address, Ports: r.guest.Ports}
	at, err := p.network.Attach(ctx, port)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.end())
		}
	}()
	m.endpoint = at.Endpoints[r.guest.Ports[0]]
	args, files, err := r.files(p, m.id, at.TapFD)
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if err != nil {
		return nil, 0, err
	}
	if saved != nil {
		state = 3 + len(files)
		args = append(args, "-incoming", "defer")
		again, err := os.Open(saved.Name()) // each reads it from its beginning
		if err != nil {
			return nil, 0, err
		}
		files = append(files, again)
	}
	log, err := os.Create(p.path("qemu.log"))
	if err != nil {
		return nil, 0, err
	}
	defer log.Close()
	m.cmd = exec.CommandContext(ctx, r.exe, args...)
	m.cmd.Dir, m.cmd.Env, m.cmd.Stdout, m.cmd.Stderr, m.cmd.ExtraFiles = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, log, log, files
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uint32(r.uid), Gid: uint32(r.uid)}}
	m.began = time.Now()
	if err := m.cmd.Start(); err != nil {
		return nil, 0, err
	}
	if m.channel, err = net.Dial("unix", p.path("channel.sock")); err != nil {
		return nil, 0, err
	}
	go func() { _, _ = io.Copy(io.Discard, m.channel) }() // as the provider listens to the guest
	return m, state, nil
}

// end kills the machine and takes its port away.
func (m *bare) end() error {
	if m.cmd != nil && m.cmd.Process != nil {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
	}
	if m.channel != nil {
		_ = m.channel.Close()
	}
	return m.network.Detach(context.Background(), m.id)
}

func (m *bare) dial(ctx context.Context) (net.Conn, error) {
	return m.network.DialContext(ctx, "tcp", m.endpoint)
}

// failed adds what QEMU said to an error.
func (m *bare) failed(err error) error {
	words, _ := os.ReadFile(m.path("qemu.log"))
	return fmt.Errorf("%w: %s", err, words)
}

// boot starts a machine on fresh files and returns it when its guest has
// answered for the first time, and how long that took.
func (r *recipe) boot(ctx context.Context, p *place) (m *bare, took time.Duration, err error) {
	if err := copySparse(r.volume, p.path("volume")); err != nil {
		return nil, 0, err
	}
	if err := r.freshRAM(p.path("ram")); err != nil {
		return nil, 0, err
	}
	m, _, err = r.start(ctx, p, nil)
	if err != nil {
		return nil, 0, err
	}
	answered, err := firstAnswer(ctx, time.Minute, "guest", m.dial)
	if err != nil {
		return nil, 0, errors.Join(m.failed(err), m.end())
	}
	return m, answered.Sub(m.began), nil
}

// freshRAM makes a machine's memory as the provider does: a file that has all of its room.
func (r *recipe) freshRAM(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return r.allocate(path)
}

// allocate takes the room that a file of the memory's size has not got yet.
func (r *recipe) allocate(path string) error {
	if r.ramBytes == 0 {
		return nil // QEMU has it for itself
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, r.ramBytes), f.Chown(r.uid, r.uid), f.Sync())
	return errors.Join(err, f.Close())
}

func copySparse(from, to string) error {
	if out, err := exec.Command("cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("copying %s: %w: %s", from, err, out)
	}
	return nil
}

// files opens what the arguments ask for, under the same numbers.
func (r *recipe) files(p *place, id fleet.InstanceID, tap *os.File) (args []string, files []*os.File, err error) {
	at := map[int]*os.File{}
	highest := 2
	for i, arg := range r.args {
		if strings.HasPrefix(arg, "guest=") {
			arg = "guest=bench-" + string(id)
		}
		args = append(args, arg)
		for _, match := range descriptor.FindAllStringSubmatch(arg, -1) {
			n, err := strconv.Atoi(match[1] + match[2])
			if err != nil {
				return nil, nil, err
			}
			if at[n], err = r.open(p, r.args[i-1], arg, tap); err != nil {
				return nil, nil, err
			}
			highest = max(highest, n)
		}
	}
	for n := 3; n <= highest; n++ {
		f := at[n]
		if f == nil {
			if f, err = os.Open(os.DevNull); err != nil {
				return nil, nil, err
			}
		}
		files = append(files, f)
	}
	return args, files, nil
}

// open opens the equivalent of one inherited file.
func (r *recipe) open(p *place, flag, arg string, tap *os.File) (*os.File, error) {
	switch {
	case flag == "-kernel":
		return os.Open(r.kernel)
	case flag == "-initrd":
		return os.Open(r.initrd)
	case flag == "-netdev":
		return tap, nil
	case flag == "-object" && strings.HasPrefix(arg, "memory-backend-file,"):
		return os.OpenFile(p.path("ram"), os.O_RDWR, 0)
	case flag == "-chardev" && strings.Contains(arg, "id=qmp"):
		return listen(p.path("qmp.sock"))
	case flag == "-chardev" && strings.Contains(arg, "id=channel"):
		return listen(p.path("channel.sock"))
	case strings.HasSuffix(arg, ",set=1"):
		return os.OpenFile(p.path("console.log"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	case strings.HasSuffix(arg, ",set=3"):
		return os.Open(r.root)
	case strings.HasSuffix(arg, ",set=4"):
		path := p.path("config")
		if err := os.WriteFile(path, r.config, 0o644); err != nil {
			return nil, err
		}
		return os.Open(path)
	case strings.HasSuffix(arg, ",set=5"):
		return os.OpenFile(p.path("volume"), os.O_RDWR, 0)
	}
	return nil, fmt.Errorf("the bench does not know what file %s %s is", flag, arg)
}

func listen(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	return f, errors.Join(err, l.Close())
}
