package kvm

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/kvm/hostnet"
)

// tenantDir holds what makes a shared disk this instance's; made anew at every
// start, since all that is to be kept lies on the volume.
const tenantDir = "tenant"

// openDisk opens the disk of a guest that boots from it, with an overlay of its own.
func (i *instance) openDisk(ctx context.Context, m *machine, files *inherited, image fleet.ImageFiles, at hostnet.Attachment) error {
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
	base, err := openImage(image, image.DiskPath, false)
	if err != nil {
		return err
	}
	m.Root = files.add(base)
	// QEMU may write to the overlay through the descriptor; the file stays ours.
	overlay, err := os.OpenFile(own.OverlayPath, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening the instance's disk: %w", err)
	}
	m.Overlay = files.add(overlay)
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

// tenant says what makes the image this instance's.
func (i *instance) tenant(at hostnet.Attachment) fleet.Tenant {
	spec := i.rec.Spec
	t := fleet.Tenant{
		Hostname: spec.Name, Program: spec.Manifest.Program, Args: spec.Manifest.Args, Env: spec.Env,
		Network: fleet.GuestNetwork{Address: at.GuestAddress, Gateway: at.Gateway, DNS: i.nameServers()}, Trace: spec.Trace,
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
