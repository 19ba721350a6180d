package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
	"dormouse/internal/provider/kvm/hostnet"
)

// purpose is what a machine is started for.
type purpose int

const (
	toBoot purpose = iota
	// toRestore: to go on where it was saved.
	toRestore
	// toVerify: to see that it could, beside the one that runs.
	toVerify
)

// prepared is everything that a machine is started with.
type prepared struct {
	i         *instance
	m         machine
	files     inherited
	endpoints map[int]string
	purpose   purpose
	// ram is the machine's memory, among files.
	ram *os.File
	// fresh: the memory was made for this start.
	fresh bool
	// qemu is the version of QEMU.
	qemu string
	// attached: the instance has its port.
	attached bool
}

// prepare gathers what a machine is started with, and takes the volume and the
// port, but for one that only verifies. Needs the lock. Whoever gets it closes the
// files, and calls undo where no machine comes of it.
func (i *instance) prepare(ctx context.Context, purpose purpose) (r *prepared, err error) {
	spec := i.rec.Spec
	r = &prepared{i: i, purpose: purpose}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.undo())
			r.files.close()
		}
	}()
	image, err := i.p.o.Images.Files(ctx, spec.Image)
	if err != nil {
		return r, fmt.Errorf("starting instance %s: %w", i.id, err)
	}
	accel, err := i.p.accel.get(ctx)
	if err != nil {
		return r, err
	}
	if r.qemu, err = i.p.qemu.get(ctx); err != nil {
		return r, err
	}
	mac := macOf(spec)
	r.m = machine{
		ID: i.id, UUID: uuidOf(i.id), Type: accel.Machine, Accel: accel.Accel, VCPUs: spec.VCPUs, MemoryMiB: spec.MemoryMiB,
		Cmdline: kernelCmdline(image.Cmdline), MAC: mac,
		Incoming: purpose != toBoot, Verify: purpose == toVerify, Private: purpose == toVerify,
	}
	volume, err := i.takeVolume(ctx, image, purpose)
	if err != nil {
		return r, err
	}
	if volume != nil {
		r.m.Volume = r.files.add(volume)
	}
	if err := i.openLayers(&r.m, &r.files); err != nil {
		return r, err
	}
	at, err := r.attach(ctx, mac)
	if err != nil {
		return r, fmt.Errorf("connecting instance %s: %w", i.id, err)
	}
	r.endpoints = at.Endpoints
	if image.DiskPath != "" {
		err = i.openDisk(ctx, r, image, at)
	} else {
		err = i.openKernel(&r.m, &r.files, image, i.guestConfig(at, mac))
	}
	if err == nil {
		err = i.openRAM(r)
	}
	if err == nil {
		err = i.openConsoles(r)
	}
	if err != nil {
		return r, fmt.Errorf("starting instance %s: %w", i.id, err)
	}
	if err := ctx.Err(); err != nil {
		return r, fleet.Errorf(fleet.KindUnavailable, "starting instance %s: %w", i.id, err)
	}
	return r, nil
}

// undo gives back what was taken for a machine that does not come.
func (r *prepared) undo() error {
	if r.purpose == toVerify {
		return nil // it took nothing
	}
	r.i.releaseVolume()
	if r.fresh {
		r.i.dropRaw()
	}
	if !r.attached {
		return nil
	}
	return r.i.p.o.Network.Detach(context.WithoutCancel(r.i.p.ctx), r.i.id)
}

// attach gives the machine its port.
func (r *prepared) attach(ctx context.Context, mac string) (hostnet.Attachment, error) {
	spec := r.i.rec.Spec
	at := isolated()
	var err error
	switch {
	case spec.Trace:
	case r.purpose == toVerify:
		if at, err = r.i.p.o.Network.Spare(ctx); err != nil {
			return at, err
		}
	default:
		port := hostnet.Port{ID: r.i.id, MAC: mac, UID: r.i.rec.UID}
		if spec.Network != nil {
			port.Address = spec.Network.Address
		}
		for _, p := range spec.Manifest.Ports {
			port.Ports = append(port.Ports, p.Number)
		}
		if at, err = r.i.p.o.Network.Attach(ctx, port); err != nil {
			return at, err
		}
		r.attached = true
	}
	r.connect(at)
	return at, nil
}

// connect says how the machine gets at its network.
func (r *prepared) connect(at hostnet.Attachment) {
	tap := 0
	if at.TapFD != nil {
		tap = r.files.add(at.TapFD)
	}
	r.m.Netdev = at.NetdevArgs(tap)
}

// openRAM makes the machine's memory, or opens what was saved.
func (i *instance) openRAM(r *prepared) error {
	if i.rec.Spec.Trace {
		return nil // it is never saved
	}
	var f *os.File
	var err error
	if r.purpose == toVerify || r.purpose == toRestore && i.rec.Saved.tier() == fleet.TierWarm {
		f, err = os.OpenFile(i.ramPath(), os.O_RDWR, 0)
	} else {
		i.rec.Sealed, r.fresh = i.p.o.Seal != nil, true
		f, err = i.makeRAM()
	}
	if err != nil {
		return err
	}
	r.ram = f
	r.m.RAM = r.files.add(f)
	return nil
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

// openConsoles opens what the machine is watched and spoken to through. One that
// goes on does so on its console too.
func (i *instance) openConsoles(r *prepared) error {
	marker := ""
	if r.purpose == toBoot {
		marker = fmt.Sprintf("%d at %s", i.rec.Boots+1, i.p.o.Clock().UTC().Format("2006-01-02T15:04:05Z"))
	}
	console, err := i.console().open(marker)
	if err != nil {
		return err
	}
	r.m.Console = r.files.add(console)
	qmp, channel := qmpSocket, channelSocket
	if r.purpose == toVerify {
		qmp, channel = verifyQMPSocket, verifyChannelSocket
	}
	for name, number := range map[string]*int{qmp: &r.m.QMP, channel: &r.m.Channel} {
		socket, err := listenSocket(i.dir(), name)
		if err != nil {
			return err
		}
		*number = r.files.add(socket)
	}
	return nil
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

// takeVolume claims the instance's volume and opens it; nil where it has none.
func (i *instance) takeVolume(ctx context.Context, image fleet.ImageFiles, purpose purpose) (*os.File, error) {
	ref := i.rec.Spec.Volume
	if ref == nil {
		return nil, nil
	}
	v := i.p.volume(ref.ID)
	if purpose == toVerify {
		return os.OpenFile(v.path(), os.O_RDWR, 0) // it is this instance's already
	}
	if i.rec.Clone {
		return i.readVolume(ctx)
	}
	defer i.p.dropClonesOf(ctx, ref.ID)()
	return v.take(ctx, i.id, purpose == toRestore, func(f *os.File) error {
		if image.DiskPath == "" || purpose == toRestore {
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
	if ref := i.rec.Spec.Volume; ref != nil && i.rec.Clone == original {
		i.p.volume(ref.ID).reserve(i.id)
	}
}

// releaseVolume gives the volume back where this instance has it.
func (i *instance) releaseVolume() {
	if ref := i.rec.Spec.Volume; ref != nil {
		i.p.volume(ref.ID).release(i.id)
	}
}
