package kvm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
	"dormouse/internal/provider/kvm/hostnet"
)

// start runs QEMU. Needs the lock, and that none runs. When it fails, nothing
// has changed in the journal but perhaps the count of boots.
func (i *instance) start(ctx context.Context) (err error) {
	i.p.mu.Lock()
	stopping := i.p.stopping
	i.p.mu.Unlock()
	if stopping {
		return fleet.Errorf(fleet.KindUnavailable, "starting instance %s: this host's provisioner is stopping", i.id)
	}
	spec := i.rec.Spec
	image, err := i.p.o.Images.Files(ctx, spec.Image)
	if err != nil {
		return fmt.Errorf("starting instance %s: %w", i.id, err)
	}
	volume, err := i.takeVolume(ctx, image)
	if err != nil {
		return err
	}
	var files inherited
	defer files.close()
	volumeFD := 0
	if volume != nil {
		volumeFD = files.add(volume)
	}
	var over machine
	if err := i.openLayers(&over, &files); err != nil {
		i.releaseVolume()
		return err
	}
	attached := false
	defer func() {
		if err == nil {
			return
		}
		i.releaseVolume()
		if attached {
			if e := i.p.o.Network.Detach(context.WithoutCancel(ctx), i.id); e != nil {
				err = errors.Join(err, e)
			}
		}
	}()
	accel, err := i.p.accel.get(ctx)
	if err != nil {
		return err
	}
	mac := macOf(spec)
	port := hostnet.Port{ID: i.id, MAC: mac, UID: i.rec.UID}
	if spec.Network != nil {
		port.Address = spec.Network.Address
	}
	for _, p := range spec.Manifest.Ports {
		port.Ports = append(port.Ports, p.Number)
	}
	at := isolated()
	if !spec.Trace {
		if at, err = i.p.o.Network.Attach(ctx, port); err != nil {
			return fmt.Errorf("connecting instance %s: %w", i.id, err)
		}
		attached = true
	}
	m := machine{
		ID: i.id, UUID: uuidOf(i.id), Type: accel.Machine, Accel: accel.Accel,
		VCPUs: spec.VCPUs, MemoryMiB: spec.MemoryMiB, Cmdline: kernelCmdline(image.Cmdline), MAC: mac,
		Volume: volumeFD, Layers: over.Layers, VolumeReadOnly: over.VolumeReadOnly,
	}
	tap := 0
	if at.TapFD != nil {
		tap = files.add(at.TapFD)
	}
	m.Netdev = at.NetdevArgs(tap)
	if image.DiskPath != "" {
		err = i.openDisk(ctx, &m, &files, image, at)
	} else {
		err = i.openKernel(&m, &files, image, i.guestConfig(at, mac))
	}
	if err == nil {
		err = i.openConsoles(&m, &files)
	}
	if err != nil {
		return fmt.Errorf("starting instance %s: %w", i.id, err)
	}
	if err := ctx.Err(); err != nil {
		return fleet.Errorf(fleet.KindUnavailable, "starting instance %s: %w", i.id, err)
	}
	return i.launch(m, &files, at.Endpoints)
}

// openKernel opens the kernel, the root and the configuration of a linux guest.
func (i *instance) openKernel(m *machine, files *inherited, image fleet.ImageFiles, config guest.Config) error {
	other := i.rec.UID != 0
	for _, f := range []struct {
		path   string
		number *int
		shared bool
	}{{image.KernelPath, &m.Kernel, other}, {image.InitrdPath, &m.Initrd, other}, {image.RootPath, &m.Root, false}} {
		if f.path == "" {
			continue
		}
		file, err := openImage(image, f.path, f.shared)
		if err != nil {
			return err
		}
		*f.number = files.add(file)
	}
	if m.Kernel == 0 {
		return fleet.Errorf(fleet.KindPermanent, "image %s has no kernel", image.ID)
	}
	disk, err := guest.EncodeConfig(config)
	if err != nil {
		return fleet.Errorf(fleet.KindInvalid, "%w", err)
	}
	configFile, err := memoryFile("config", disk)
	if err != nil {
		return err
	}
	m.Config = files.add(configFile)
	return nil
}

func openImage(image fleet.ImageFiles, path string, shared bool) (*os.File, error) {
	file, err := openShared(path, shared)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fleet.Errorf(fleet.KindNotFound, "a file of image %s is gone, build it again: %w", image.ID, err)
	}
	if err != nil {
		return nil, fmt.Errorf("opening image %s: %w", image.ID, err)
	}
	return file, nil
}

// openConsoles opens what the machine is watched and spoken to through.
func (i *instance) openConsoles(m *machine, files *inherited) error {
	marker := fmt.Sprintf("%d at %s", i.rec.Boots+1, i.p.o.Clock().UTC().Format("2006-01-02T15:04:05Z"))
	console, err := i.console().open(marker)
	if err != nil {
		return err
	}
	m.Console = files.add(console)
	for name, number := range map[string]*int{qmpSocket: &m.QMP, channelSocket: &m.Channel} {
		socket, err := listenSocket(i.dir(), name)
		if err != nil {
			return err
		}
		*number = files.add(socket)
	}
	return nil
}

// launch writes the intention, starts QEMU, and writes which process it is.
func (i *instance) launch(m machine, files *inherited, endpoints map[int]string) error {
	log, err := os.OpenFile(i.stderrPath(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return diskError("making QEMU's log", err)
	}
	defer log.Close()
	before := i.rec
	i.rec.Want, i.rec.Starting, i.rec.Exit, i.rec.Endpoints = fleet.PowerOn, true, nil, endpoints
	i.rec.Boots++
	if err := i.save(); err != nil {
		i.rec = before
		return err
	}
	cmd := exec.Command(i.p.o.QEMU, m.arguments()...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, files.files
	// A session of its own: Ctrl-C and the end of the provisioner do not reach it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: credential(i.rec.UID)}
	if err := cmd.Start(); err != nil {
		before.Boots = i.rec.Boots
		i.rec = before
		return errors.Join(fleet.Errorf(fleet.KindUnavailable, "starting QEMU: %w", err), i.save())
	}
	// It is our child until it is reaped, so the PID can't be another's yet.
	pid := cmd.Process.Pid
	proc, err := watchChild(pid)
	_ = cmd.Process.Release()
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
		i.rec = before
		return fleet.Errorf(fleet.KindUnavailable, "starting QEMU: %w", err)
	}
	id, err := identify(proc.pid)
	if err == nil {
		id.StartedAt = i.p.o.Clock().UTC()
		i.rec.Process = &id
		i.rec.Starting = false
		err = i.save()
	}
	if err != nil {
		// It is found again by its name, or has ended already, which is seen below.
		i.p.log.WithField("instance", i.id).WithError(err).Warn("the journal does not name the machine's process")
	}
	i.resuming, i.startedAt = false, i.p.o.Clock()
	i.vm = newVM(i, proc)
	i.p.log.WithField("instance", i.id).WithField("pid", proc.pid).WithField("boot", i.rec.Boots).Info("machine started")
	return nil
}

func (i *instance) stderrPath() string { return filepath.Join(i.dir(), "qemu.log") }

// maxStderr bounds what QEMU may write to its standard error, in bytes.
const maxStderr = 64 << 10

// boundStderr empties QEMU's log where a guest makes QEMU complain without end.
func (i *instance) boundStderr() error {
	info, err := os.Stat(i.stderrPath())
	if err != nil || info.Size() <= maxStderr {
		return nil
	}
	if err := os.Truncate(i.stderrPath(), 0); err != nil {
		return fmt.Errorf("bounding QEMU's log: %w", err)
	}
	return nil
}

// credential returns the user that QEMU runs as; nil for our own. It has one
// group, that of /dev/kvm.
func credential(uid int) *syscall.Credential {
	if uid == 0 {
		return nil
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	var st unix.Stat_t
	if unix.Stat("/dev/kvm", &st) == nil && st.Gid != 0 {
		c.Groups = []uint32{st.Gid}
	}
	return c
}

// guestConfig says what the guest's init is told.
func (i *instance) guestConfig(at hostnet.Attachment, mac string) guest.Config {
	spec := i.rec.Spec
	c := guest.Config{
		Hostname: spec.Name, Program: spec.Manifest.Program, Args: spec.Manifest.Args, Env: spec.Env,
		Dir: spec.Manifest.Dir, User: spec.Manifest.User, Restart: string(spec.Manifest.Restart), StopTimeout: i.p.o.StopGrace,
		Network: guest.Network{Address: at.GuestAddress, Gateway: at.Gateway, MAC: mac, DNS: i.nameServers()},
	}
	if spec.Volume != nil {
		c.Persist = spec.Manifest.Persist
	}
	for _, p := range spec.Manifest.Ports {
		c.Ports = append(c.Ports, p.Number)
	}
	return c
}

// macOf returns the leased MAC, or one made from the ID where the provider
// chooses addresses: in QEMU's prefix, which is locally administered.
func macOf(spec *fleet.InstanceSpec) string {
	if spec.Network != nil && spec.Network.MAC != "" {
		return spec.Network.MAC
	}
	sum := sha256.Sum256([]byte("mac\x00" + string(spec.ID)))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2])
}

// uuidOf returns the machine's UUID: always the same one, so that a saved state fits.
func uuidOf(id fleet.InstanceID) string {
	b := sha256.Sum256([]byte("uuid\x00" + string(id)))
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80 // RFC 9562 version 8
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// takeVolume claims the instance's volume and opens it; nil where it has none.
func (i *instance) takeVolume(ctx context.Context, image fleet.ImageFiles) (*os.File, error) {
	ref := i.rec.Spec.Volume
	if ref == nil {
		return nil, nil
	}
	if i.rec.Clone {
		return i.readVolume(ctx)
	}
	defer i.p.dropClonesOf(ctx, ref.ID)()
	return i.p.volume(ref.ID).take(ctx, i.id, func(f *os.File) error {
		if image.DiskPath == "" {
			return nil
		}
		err := i.p.o.Images.FormatVolume(ctx, image.ID, i.rec.Spec.Manifest.Persist, f)
		if err == nil {
			err = f.Sync()
		}
		return err
	}, i.rec.Spec.Kernel)
}

// reserveVolume keeps the volume for this instance, which runs or is about to.
func (i *instance) reserveVolume() {
	if ref := i.rec.Spec.Volume; ref != nil && !i.rec.Clone {
		i.p.volume(ref.ID).reserve(i.id)
	}
}

// releaseVolume gives the volume back where this instance has it.
func (i *instance) releaseVolume() {
	if ref := i.rec.Spec.Volume; ref != nil {
		i.p.volume(ref.ID).release(i.id)
	}
}

// qemuWords returns what QEMU wrote to standard error, as lines.
func (i *instance) qemuWords() []string {
	f, err := readTail(i.stderrPath(), 16<<10)
	if err != nil {
		return nil
	}
	var lines []string
	for line := range strings.SplitSeq(string(f), "\n") {
		line = strings.TrimSpace(line)
		// QEMU tries to remove the sockets that it was given, which it may not.
		if line == "" || strings.Contains(line, "Failed to unlink socket") {
			continue
		}
		lines = append(lines, line)
	}
	return lines
}
