package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm/hostnet"
)

// tenantDir holds what makes a shared disk this instance's; made anew at every
// boot, since all that is to be kept lies on the volume.
const tenantDir = "tenant"

// openDisk opens the disk of a guest that boots from it, with an overlay of its own.
func (i *instance) openDisk(ctx context.Context, r *prepared, image fleet.ImageFiles, at hostnet.Attachment) error {
	m, files := &r.m, &r.files
	foreign := i.rec.Spec.Kernel == fleet.KernelDisk
	if foreign && m.Volume == 0 {
		return fleet.Errorf(fleet.KindPermanent, "image %s is a disk, and the instance has no volume for what is written to it", image.ID)
	}
	if r.purpose == toBoot {
		if err := i.makeTenant(ctx, image, at); err != nil {
			return err
		}
	}
	own := i.tenantFiles()
	base, err := openImage(image, image.DiskPath, false)
	if err != nil {
		return err
	}
	m.Root = files.add(base)
	if foreign {
		if err := i.openForeign(m, files, image); err != nil {
			return err
		}
	} else {
		// QEMU may write to the overlay through the descriptor; the file stays ours.
		overlay, err := os.OpenFile(own.OverlayPath, os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("opening the instance's disk: %w", err)
		}
		m.Overlay = files.add(overlay)
	}
	m.DebugExit = i.rec.Spec.Kernel == fleet.KernelNanos
	if own.ConfigPath == "" {
		return nil
	}
	config, err := os.Open(own.ConfigPath)
	if err != nil {
		return fmt.Errorf("opening the instance's configuration: %w", err)
	}
	m.Config = files.add(config)
	return nil
}

// makeTenant makes the files of the instance's own anew.
func (i *instance) makeTenant(ctx context.Context, image fleet.ImageFiles, at hostnet.Attachment) error {
	dir := filepath.Join(i.dir(), tenantDir)
	if err := os.RemoveAll(dir); err != nil {
		return diskError("making the instance's disk", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return diskError("making the instance's disk", err)
	}
	own, err := i.p.o.Images.Specialise(ctx, image.ID, i.tenant(at), dir)
	if err != nil {
		return err
	}
	i.rec.Tenant = nil
	for _, path := range []string{own.OverlayPath, own.ConfigPath} {
		name := ""
		if path != "" {
			if name, err = filepath.Rel(dir, path); err != nil {
				return fmt.Errorf("making the instance's disk: %w", err)
			}
		}
		i.rec.Tenant = append(i.rec.Tenant, name)
	}
	return nil
}

// tenantFiles are the files of the instance's own, as they were made last.
func (i *instance) tenantFiles() (own fleet.TenantFiles) {
	if len(i.rec.Tenant) != 2 {
		return own
	}
	for n, path := range []*string{&own.OverlayPath, &own.ConfigPath} {
		if i.rec.Tenant[n] != "" {
			*path = filepath.Join(i.dir(), tenantDir, i.rec.Tenant[n])
		}
	}
	return own
}

// openForeign makes the volume the overlay, and opens the firmware where the
// disk needs one.
func (i *instance) openForeign(m *machine, files *inherited, image fleet.ImageFiles) error {
	info, err := os.Stat(i.p.volume(i.rec.Spec.Volume.ID).path())
	if err != nil {
		return fmt.Errorf("opening the instance's disk: %w", err)
	}
	m.Foreign, m.Overlay, m.Volume, m.OverlayBytes = true, m.Volume, 0, info.Size()
	if !image.UEFI {
		return nil
	}
	for _, path := range i.p.o.Firmware {
		firmware, err := openShared(path, i.rec.UID != 0)
		if err == nil {
			m.Firmware = files.add(firmware)
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("opening the firmware: %w", err)
		}
	}
	return fleet.Errorf(fleet.KindUnavailable, "the disk starts by UEFI only, and this host has none of %s: apt-get install ovmf", strings.Join(i.p.o.Firmware, ", "))
}

// tenant says what makes the image this instance's.
func (i *instance) tenant(at hostnet.Attachment) fleet.Tenant {
	spec := i.rec.Spec
	t := fleet.Tenant{
		Hostname: spec.Name, Program: spec.Manifest.Program, Args: spec.Manifest.Args, Env: spec.Env,
		Network: fleet.GuestNetwork{Address: at.GuestAddress, Gateway: at.Gateway, DNS: i.nameServers(), MAC: macOf(spec)}, Trace: spec.Trace,
	}
	if spec.Volume != nil {
		t.Persist = spec.Manifest.Persist
	}
	return t
}

// nameServers are the package's, else the host's.
func (i *instance) nameServers() []string {
	if own := i.rec.Spec.Manifest.NameServers; len(own) > 0 {
		return own
	}
	return i.p.o.DNS
}
