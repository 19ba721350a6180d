package stock

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"path"
	"strings"
)

// Phase says when init needs a module.
type Phase string

// The phases of ModuleOrder.
const (
	// PhaseBoot: every boot.
	PhaseBoot Phase = "boot"
	// PhaseVolume: only where the guest has a volume.
	PhaseVolume Phase = "volume"
	// PhaseDisk: only where the guest boots from a disk by itself, on a machine that
	// may be anybody's. What does not fit the machine refuses to be loaded, which is no failure.
	PhaseDisk Phase = "disk"
)

// Module is one kernel module of a guest.
type Module struct {
	// Name is the kernel's name for it, with underscores.
	Name  string `json:"name"`
	Phase Phase  `json:"phase"`
}

// wanted lists what a guest needs, in the order in which init loads it: first
// what leads to the root and its configuration, last what can come late.
// virtio_pci comes before the drivers, so that each finds its device at once.
func wanted() []Module {
	return []Module{
		{"virtio_pci", PhaseBoot},
		{"virtio_blk", PhaseBoot},
		{"virtio_console", PhaseBoot},
		{"virtio_net", PhaseBoot},
		{"squashfs", PhaseBoot},
		{"ext4", PhaseVolume},
	}
}

// machines lists what the machines of clouds and hypervisors have in place of
// virtio-blk and virtio-net: their buses and disks first, then their network cards,
// and the power button, by which they ask for a shutdown. Which of
// these a kernel has is its distribution's choice. Debian's cloud kernel, for one,
// has no ahci, mptspi, mptsas, e1000 and e1000e, but ata_piix, vmw_pvscsi and vmxnet3.
func machines() []Module {
	var modules []Module
	for _, name := range []string{
		"pci_hyperv", "hv_vmbus", "sd_mod",
		"nvme", "virtio_scsi", "ahci", "ata_piix", "vmw_pvscsi", "mptspi", "mptsas", "BusLogic", "hv_storvsc", "xen_blkfront",
		"ena", "gve", "vmxnet3", "e1000", "e1000e", "hv_netvsc", "xen_netfront",
		"evdev", "button",
	} {
		modules = append(modules, Module{name, PhaseDisk})
	}
	return modules
}

// moduleName turns a path such as kernel/drivers/virtio/virtio-rng.ko.xz into
// the kernel's name for it, virtio_rng.
func moduleName(file string) string {
	base, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

// modinfo is what a module says of itself in its .modinfo section: key=value
// strings, each ended by a zero byte (include/linux/moduleparam.h).
type modinfo struct {
	depends []string
	// before are the modules named by "softdep=pre:", wanted but not required.
	before []string
}

func parseModinfo(module []byte) (modinfo, error) {
	var info modinfo
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return info, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return info, errors.New("it has no .modinfo section")
	}
	data, err := section.Data()
	if err != nil {
		return info, err
	}
	for entry := range strings.SplitSeq(string(data), "\x00") {
		key, value, _ := strings.Cut(entry, "=")
		switch key {
		case "depends":
			for name := range strings.SplitSeq(value, ",") {
				if name != "" {
					info.depends = append(info.depends, moduleName(name))
				}
			}
		case "softdep":
			info.before = append(info.before, softBefore(value)...)
		}
	}
	return info, nil
}

// softBefore returns the names behind "pre:" in a softdep.
func softBefore(value string) []string {
	var names []string
	pre := false
	for word := range strings.FieldsSeq(value) {
		if strings.HasSuffix(word, ":") {
			pre = word == "pre:"
		} else if pre {
			names = append(names, moduleName(word))
		}
	}
	return names
}

// source gives a kernel's modules by name.
type source interface {
	// builtin tells whether the kernel has it without loading anything.
	builtin(name string) bool
	// has tells whether the package holds it.
	has(name string) bool
	// read returns it uncompressed.
	read(name string) ([]byte, error)
}

// resolve returns the modules to load, each after what it depends on, with
// their contents. A wanted module that the kernel neither has built in nor
// brings along is an error, as is a dependency.
func resolve(src source) ([]Module, map[string][]byte, error) {
	r := resolver{src: src, content: map[string][]byte{}, seen: map[string]bool{}}
	for _, m := range wanted() {
		if err := r.add(m.Name, m.Phase); err != nil {
			return nil, nil, err
		}
	}
	for _, m := range machines() {
		if !src.has(m.Name) {
			continue
		}
		// One that lacks what it depends on serves nobody, and the others all the same.
		if err := r.add(m.Name, m.Phase); err != nil {
			continue
		}
	}
	return r.order, r.content, nil
}

type resolver struct {
	src     source
	order   []Module
	content map[string][]byte
	seen    map[string]bool
}

func (r *resolver) add(name string, phase Phase) error {
	if r.seen[name] || r.src.builtin(name) {
		return nil
	}
	r.seen[name] = true
	if !r.src.has(name) {
		return fmt.Errorf("the kernel has no %s, neither built in nor as a module: another kernel package is needed", name)
	}
	content, err := r.src.read(name)
	if err != nil {
		return err
	}
	info, err := parseModinfo(content)
	if err != nil {
		return fmt.Errorf("reading module %s: %w", name, err)
	}
	for _, soft := range info.before {
		// A soft dependency may name a module or an algorithm ("crc32c"), whose
		// plain implementation is then called after it. Nothing in a guest could
		// load it on demand, so it is loaded where there is one.
		for _, candidate := range []string{soft, soft + "_generic"} {
			if r.src.has(candidate) {
				if err := r.add(candidate, phase); err != nil {
					return err
				}
			}
		}
	}
	for _, dep := range info.depends {
		if err := r.add(dep, phase); err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	r.content[name] = content
	r.order = append(r.order, Module{Name: name, Phase: phase})
	return nil
}

// ModuleOrder renders the list that init reads from /modules/order: a line per
// module, in loading order, "<file> <phase>".
func ModuleOrder(modules []Module) []byte {
	var b bytes.Buffer
	for _, m := range modules {
		fmt.Fprintf(&b, "%s.ko %s\n", m.Name, m.Phase)
	}
	return b.Bytes()
}
