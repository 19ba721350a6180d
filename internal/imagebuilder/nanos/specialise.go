package nanos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/qcow2"
	"dormouse/internal/imagebuilder/tfs"
)

// Names in a tenant's directory.
const (
	overlayName = "overlay.qcow2"
	configName  = "config.img"
)

// maxRecord bounds what one tenant's environment and arguments may have, in
// bytes: as much as the kernel of Linux takes for a program's start without asking.
const maxRecord = 128 << 10

// Specialise implements imagebuilder.Specialiser. Both files are readable by
// their owner only: the environment holds secrets.
func (k *Kernel) Specialise(_ context.Context, imageDir string, t fleet.Tenant, dir string) (fleet.TenantFiles, error) {
	if t.Trace {
		return k.specialiseTraced(imageDir, t, dir)
	}
	b, err := readBuild(imageDir)
	if err != nil {
		return fleet.TenantFiles{}, err
	}
	return specialise(imageDir, b, t, dir, func(*tfs.Appender) error { return nil })
}

// specialise makes the tenant's files; more adds to the root file system.
func specialise(imageDir string, b *build, t fleet.Tenant, dir string, more func(*tfs.Appender) error) (_ fleet.TenantFiles, err error) {
	if err := check(b, t); err != nil {
		return fleet.TenantFiles{}, err
	}
	files := fleet.TenantFiles{OverlayPath: filepath.Join(dir, overlayName), ConfigPath: filepath.Join(dir, configName)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("making the tenant's disks: %w", err), removeAll(files.OverlayPath, files.ConfigPath))
		}
	}()
	if err := writeNew(files.OverlayPath, func(f *os.File) error { return writeOverlay(f, imageDir, b, t, more) }); err != nil {
		return fleet.TenantFiles{}, err
	}
	if err := writeNew(files.ConfigPath, func(f *os.File) error { return writeConfig(f, t) }); err != nil {
		return fleet.TenantFiles{}, err
	}
	return files, nil
}

func removeAll(paths ...string) (err error) {
	for _, p := range paths {
		if e := os.Remove(p); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// writeNew writes a file that was not there, whatever lay at its name.
func writeNew(path string, write func(*os.File) error) (err error) {
	if err := removeAll(path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// check tells whether the image can become that tenant's.
func check(b *build, t fleet.Tenant) error {
	size := len(t.Program)
	for _, a := range t.Args {
		size += len(a) + 1
	}
	for name, v := range t.Env {
		if size += len(name) + len(v) + 2; name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(v, 0) {
			return fleet.InvalidField("env", "the environment has a variable whose name or value can't be (a name is not empty and has no =, neither has a zero byte)")
		}
	}
	if size > maxRecord {
		return fleet.InvalidField("env", "environment and arguments have %d bytes together, more than %d: put what is large into a file", size, maxRecord)
	}
	if strings.ContainsRune(strings.Join(t.Args, "")+t.Program, 0) {
		return fleet.InvalidField("args", "an argument holds a zero byte: take it out")
	}
	if strings.ContainsAny(t.Hostname, "\x00\n\r\t /") || len(t.Hostname) > 64 {
		return fleet.InvalidField("hostname", "%q is no host name", t.Hostname)
	}
	for _, dir := range t.Persist {
		if !slices.Contains(b.Persist, dir) {
			return fleet.InvalidField("persist", "the image does not persist %s: name it in the package's Persist", dir)
		}
	}
	for _, s := range t.Network.DNS {
		if _, err := netip.ParseAddr(s); err != nil {
			return fleet.InvalidField("network.dns", "%q is no address of a name server", s)
		}
	}
	_, err := address(t.Network)
	return err
}

// address returns the interface's configuration (src/net/net.c); nil asks by DHCP.
func address(n fleet.GuestNetwork) (*tfs.Tuple, error) {
	if n.Address == "" {
		return nil, nil
	}
	prefix, err := netip.ParsePrefix(n.Address)
	if err != nil {
		return nil, fleet.InvalidField("network.address", "%q is no address with a prefix, as 10.0.0.2/24", n.Address)
	}
	if prefix.Addr().Is6() {
		if prefix.Bits() != 64 {
			return nil, fleet.InvalidField("network.address", "%s: Nanos takes the prefix of an IPv6 address for 64 bits", n.Address)
		}
		return tfs.NewTuple(tfs.Attr{Name: "ip6addr", Value: prefix.Addr().String()}), nil
	}
	attrs := []tfs.Attr{{Name: "ipaddr", Value: prefix.Addr().String()}, {Name: "netmask", Value: net.IP(net.CIDRMask(prefix.Bits(), 32)).String()}}
	if n.Gateway != "" {
		gateway, err := netip.ParseAddr(n.Gateway)
		if err != nil || !gateway.Is4() {
			return nil, fleet.InvalidField("network.gateway", "%q is no address of a gateway for %s", n.Gateway, n.Address)
		}
		attrs = append(attrs, tfs.Attr{Name: "gateway", Value: gateway.String()})
	}
	return tfs.NewTuple(attrs...), nil
}

// writeOverlay writes the tenant's record.
func writeOverlay(f *os.File, imageDir string, b *build, t fleet.Tenant, more func(*tfs.Appender) error) (err error) {
	disk, err := os.Open(filepath.Join(imageDir, diskName))
	if err != nil {
		return fleet.Errorf(fleet.KindInternal, "opening the image: %w", err)
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	names, err := os.Open(filepath.Join(imageDir, namesName))
	if err != nil {
		return fleet.Errorf(fleet.KindInternal, "opening the image's names: %w", err)
	}
	defer func() { err = errors.Join(err, names.Close()) }()
	info, err := names.Stat()
	if err != nil {
		return err
	}
	a, err := tfs.NewAppender(b.Log, tfs.OpenNames(names, info.Size()), io.NewSectionReader(disk, b.RootOffset, 1<<62-b.RootOffset), (b.TenantBytes-b.RootOffset)/tfs.SectorSize)
	if err != nil {
		return permanent(err)
	}
	// Only where a host of ours has made the machine is there somebody to take the
	// program's exit code: QEMU's isa-debug-exit.
	attrs := []tfs.Attr{{Name: "environment", Value: stringTuple(t.Env)}, {Name: "debug_exit", Value: "t"}}
	if t.Program != "" {
		attrs = append(attrs, tfs.Attr{Name: "program", Value: t.Program})
	}
	if program := t.Program; program != "" || len(t.Args) > 0 {
		if program == "" {
			program = b.Program
		}
		attrs = append(attrs, tfs.Attr{Name: "arguments", Value: arguments(program, t.Args)})
	}
	if en1, err := address(t.Network); err != nil {
		return err
	} else if en1 != nil {
		attrs = append(attrs, tfs.Attr{Name: "en1", Value: en1})
	}
	if err := a.Set(tfs.RootIndex, attrs...); err != nil {
		return err
	}
	// The kernel reads its name from here, through no link, before volumes are mounted.
	if t.Hostname != "" {
		file, err := a.File([]byte(t.Hostname + "\n"))
		if err != nil {
			return err
		}
		if err := a.Set(b.EtcIndex, tfs.Attr{Name: "hostname", Value: file}); err != nil {
			return err
		}
	}
	if err := more(a); err != nil {
		return err
	}
	changes, err := a.Patches()
	if err != nil {
		return err
	}
	var patches []qcow2.Patch
	for _, c := range changes {
		patches = append(patches, qcow2.Patch{Offset: b.RootOffset + c.Offset, Data: c.Data})
	}
	return qcow2.Create(f, b.TenantBytes, disk, patches)
}

// configLogSectors is the log of a configuration volume: it names two files.
const configLogSectors = 4

// writeConfig writes the volume with the files below /etc that are the tenant's.
func writeConfig(f *os.File, t fleet.Tenant) error {
	w, err := tfs.NewWriter(f, tfs.Options{Label: configLabel, LogSectors: configLogSectors})
	if err != nil {
		return err
	}
	lines := hosts
	if t.Hostname != "" {
		own := "127.0.1.1" // as Debian has it where the address is not known
		if prefix, err := netip.ParsePrefix(t.Network.Address); err == nil {
			own = prefix.Addr().String()
		}
		lines += own + " " + t.Hostname + "\n"
	}
	for _, file := range []struct{ name, body string }{{"hosts", lines}, {"hostname", t.Hostname + "\n"}, {"resolv.conf", resolvConf(t.Network.DNS)}} {
		if err := w.File(file.name, int64(len(file.body)), strings.NewReader(file.body)); err != nil {
			return err
		}
	}
	s, err := w.Finish()
	if err != nil {
		return err
	}
	return f.Truncate(s.Sectors() * tfs.SectorSize)
}
