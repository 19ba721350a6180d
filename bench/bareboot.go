package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
	"dormouse/internal/provider/kvm/hostnet"
)

// recipe is how a machine of ours was started, taken from the running QEMU.
type recipe struct {
	exe  string
	args []string
	uid  int
	// kernel, initrd and root are files of the image; all instances share them.
	kernel, initrd, root string
	// config is the content of the configuration disk, pool its network.
	config []byte
	guest  guest.Config
	pool   string
	// volume is a fresh one, made as ours are, to be copied.
	volume string
	dir    string
}

// takeRecipe reads the arguments and the files of an instance's QEMU.
func (b *bench) takeRecipe(dataDir, instance string) (*recipe, error) {
	pid, args, err := findQEMU("guest=dormouse-" + instance)
	if err != nil {
		return nil, err
	}
	r := &recipe{args: args[1:], dir: filepath.Join(b.dir, "bare")}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, err
	}
	if r.exe, err = os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil {
		return nil, err
	}
	var st syscall.Stat_t
	if err := syscall.Stat(fmt.Sprintf("/proc/%d", pid), &st); err != nil {
		return nil, err
	}
	r.uid = int(st.Uid)
	if err := r.readFiles(pid); err != nil {
		return nil, err
	}
	if r.guest, err = guest.DecodeConfig(bytes.NewReader(r.config)); err != nil {
		return nil, err
	}
	prefix, err := netip.ParsePrefix(r.guest.Network.Address)
	if err != nil {
		return nil, fmt.Errorf("reading the guest's address: %w", err)
	}
	r.pool = prefix.Masked().String()
	return r, nil
}

// findQEMU returns the process that has that argument, and all of them.
func findQEMU(argument string) (int, []string, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, nil, err
	}
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimSuffix(string(content), "\x00"), "\x00")
		for _, a := range args {
			if a == argument {
				pid, err := strconv.Atoi(strings.Split(f, "/")[2])
				return pid, args, err
			}
		}
	}
	return 0, nil, fmt.Errorf("no process has the argument %s", argument)
}

func (r *recipe) readFiles(pid int) error {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return err
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			continue
		}
		switch name := filepath.Base(target); {
		case name == "kernel":
			r.kernel = target
		case strings.HasPrefix(name, "initrd"):
			r.initrd = target
		case strings.HasSuffix(name, ".squashfs"):
			r.root = target
		case strings.HasPrefix(target, "/memfd:config"):
			if r.config, err = os.ReadFile(link); err != nil {
				return err
			}
		case strings.HasSuffix(name, ".raw"):
			info, err := os.Stat(link)
			if err != nil {
				return err
			}
			if err := r.freshVolume(info.Size()); err != nil {
				return err
			}
		}
	}
	if r.kernel == "" || r.root == "" || r.config == nil || r.volume == "" {
		return errors.New("the machine's QEMU does not have the files that are expected: kernel, root, configuration and volume")
	}
	return nil
}

// freshVolume makes a volume as the provider does.
func (r *recipe) freshVolume(size int64) error {
	r.volume = filepath.Join(r.dir, "volume.fresh")
	f, err := os.Create(r.volume)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0",
		"-L", "dm-volume", r.volume).CombinedOutput()
	if err != nil {
		return fmt.Errorf("making a volume: %w: %s", err, out)
	}
	return nil
}

// descriptor finds the numbers of inherited files in the arguments.
var descriptor = regexp.MustCompile(`(?:^|,)fd=(\d+)|^/proc/self/fd/(\d+)$`)

// boot starts QEMU with the same arguments on files of its own, and returns how
// long it took until the guest answered. Then it ends it.
func (r *recipe) boot(ctx context.Context, b *bench, network *hostnet.Bridge) (took time.Duration, err error) {
	id := fleet.InstanceID(fleet.NewID())
	port := hostnet.Port{ID: id, MAC: r.guest.Network.MAC, UID: r.uid, Address: r.guest.Network.Address, Ports: r.guest.Ports}
	at, err := network.Attach(ctx, port)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, network.Detach(context.WithoutCancel(ctx), id)) }()
	args, files, err := r.files(id, at.TapFD)
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	if err != nil {
		return 0, err
	}
	log, err := os.Create(filepath.Join(r.dir, "qemu.log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, r.exe, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, log, log, files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uint32(r.uid), Gid: uint32(r.uid)}}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	channel, err := net.Dial("unix", r.socket("channel"))
	if err != nil {
		return 0, err
	}
	defer channel.Close()
	go func() { _, _ = io.Copy(io.Discard, channel) }() // as the provider listens to the guest
	answered, err := firstAnswer(ctx, time.Minute, "guest", func(ctx context.Context) (net.Conn, error) {
		return network.DialContext(ctx, "tcp", at.Endpoints[r.guest.Ports[0]])
	})
	if err != nil {
		words, _ := os.ReadFile(log.Name())
		return 0, fmt.Errorf("%w: %s", err, words)
	}
	return answered.Sub(begin), nil
}

func (r *recipe) socket(name string) string { return filepath.Join(r.dir, name+".sock") }

// files opens what the arguments ask for, under the same numbers.
func (r *recipe) files(id fleet.InstanceID, tap *os.File) (args []string, files []*os.File, err error) {
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
			if at[n], err = r.open(r.args[i-1], arg, tap); err != nil {
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
func (r *recipe) open(flag, arg string, tap *os.File) (*os.File, error) {
	switch {
	case flag == "-kernel":
		return os.Open(r.kernel)
	case flag == "-initrd":
		return os.Open(r.initrd)
	case flag == "-netdev":
		return tap, nil
	case flag == "-chardev" && strings.Contains(arg, "id=qmp"):
		return listen(r.socket("qmp"))
	case flag == "-chardev" && strings.Contains(arg, "id=channel"):
		return listen(r.socket("channel"))
	case strings.HasSuffix(arg, ",set=1"):
		return os.OpenFile(filepath.Join(r.dir, "console.log"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	case strings.HasSuffix(arg, ",set=3"):
		return os.Open(r.root)
	case strings.HasSuffix(arg, ",set=4"):
		path := filepath.Join(r.dir, "config")
		if err := os.WriteFile(path, r.config, 0o644); err != nil {
			return nil, err
		}
		return os.Open(path)
	case strings.HasSuffix(arg, ",set=5"):
		path := filepath.Join(r.dir, "volume")
		if out, err := exec.Command("cp", "--sparse=always", r.volume, path).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("copying the volume: %w: %s", err, out)
		}
		return os.OpenFile(path, os.O_RDWR, 0)
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
