package kvm

import (
	"fmt"
	"strconv"
	"strings"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
)

// verifySuffix ends the name of a QEMU that only verifies a saved state.
const verifySuffix = ".verify"

// The accelerators.
const (
	// AccelAuto takes kvm where a probe guest really runs in it, and else tcg.
	AccelAuto = "auto"
	AccelKVM  = "kvm"
	AccelTCG  = "tcg"
)

// pinnedMachine is the machine type of every instance: saved states load only
// into the type that they were saved from.
const pinnedMachine = "pc-q35-7.2"

// fallbackMachine is taken where QEMU does not know the pinned one.
const fallbackMachine = "q35"

// translationBufferMiB bounds the code that an emulated guest's QEMU keeps; it
// halves the memory of a guest at equal speed.
const translationBufferMiB = 32

// sandbox is QEMU's own seccomp filter. With spawn denied, an exec: migration kills the guest.
const sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// machine is everything that QEMU's arguments depend on. Files are given as
// numbers of inherited descriptors; 0 is "has none".
type machine struct {
	ID        fleet.InstanceID
	UUID      string
	Type      string
	Accel     string
	VCPUs     int
	MemoryMiB int

	// RAM is the file that is the guest's memory; 0 leaves it to QEMU. Where it is
	// Private, what the guest writes to it is kept apart and lost at the end.
	RAM     int
	Private bool
	// Verify: it only looks whether a saved state loads, beside the machine that was saved.
	Verify bool
	// Incoming: it waits for a saved state, instead of booting.
	Incoming bool

	// Kernel is 0 for a machine that boots from its root disk.
	Kernel, Initrd int
	Cmdline        string

	// Root, Config and Volume are disks; Console a file to append to; QMP and
	// Channel are listening unix sockets. Where there is an Overlay, a qcow2 file
	// that takes what is written, Root lies below it.
	Root, Overlay, Config, Volume int
	Console, QMP, Channel         int
	// Layers lie over the volume, the first lowest: qcow2 files, of which the last
	// takes what is written. Where VolumeReadOnly, the volume itself can't be written to.
	Layers         []int
	VolumeReadOnly bool
	// Firmware is a file with the machine's firmware; 0 is QEMU's own, a BIOS.
	Firmware int
	// OverlayBytes is the size of an Overlay that is a volume, which stays as large as it is; 0 of another.
	OverlayBytes int64
	// Foreign: the guest is nobody's of ours. It has no channel, and a reboot is its own affair.
	Foreign bool
	// DebugExit lets the guest end QEMU with an exit code.
	DebugExit bool

	// Netdev is the value of -netdev, with the id net0.
	Netdev string
	MAC    string
}

// arguments returns QEMU's arguments. The order of devices and their PCI
// addresses are fixed: a saved state loads only into the same set.
func (m machine) arguments() []string {
	name, board := qemuName(string(m.ID)), m.Type+",usb=off,vmport=off"
	if m.Verify {
		name += verifySuffix
	}
	if m.RAM != 0 {
		board += ",memory-backend=ram0"
	}
	args := []string{"-name", "guest=" + name, "-uuid", m.UUID, "-machine", board}
	if m.RAM != 0 {
		share := "on"
		if m.Private {
			share = "off"
		}
		args = append(args, "-object", fmt.Sprintf("memory-backend-file,id=ram0,size=%dM,mem-path=%s,share=%s", m.MemoryMiB, inheritedPath(m.RAM), share))
	}
	if m.Accel == AccelKVM {
		args = append(args, "-accel", "kvm", "-cpu", "host")
	} else {
		args = append(args, "-accel", fmt.Sprintf("tcg,tb-size=%d", translationBufferMiB), "-cpu", "max")
	}
	args = append(args,
		"-smp", strconv.Itoa(max(1, m.VCPUs)),
		"-m", fmt.Sprintf("%dM", m.MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none",
	)
	if !m.Foreign {
		args = append(args, "-no-reboot")
	}
	args = append(args, "-sandbox", sandbox, "-rtc", "base=utc")
	if m.Firmware != 0 {
		args = append(args, "-bios", inheritedPath(m.Firmware))
	}
	if m.Kernel != 0 {
		args = append(args, "-kernel", inheritedPath(m.Kernel))
		if m.Initrd != 0 {
			args = append(args, "-initrd", inheritedPath(m.Initrd))
		}
		args = append(args, "-append", m.Cmdline)
	}
	args = append(args,
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d,server=on,wait=off", m.QMP),
		"-mon", "chardev=qmp,mode=control",
		"-add-fd", fmt.Sprintf("fd=%d,set=%d", m.Console, setConsole),
		"-chardev", fmt.Sprintf("file,id=console,path=/dev/fdset/%d,append=on", setConsole),
		"-serial", "chardev:console",
	)
	args = append(args, m.rootDisk()...)
	args = append(args, disk(m.Config, setConfig, "config", guest.DiskConfig, "read-only=on")...)
	args = append(args, m.volumeDisk()...)
	args = append(args,
		"-netdev", m.Netdev,
		"-device", "virtio-net-pci,netdev=net0,mac="+m.MAC+",romfile=,disable-legacy=on,addr=0x6",
		"-device", "virtio-serial-pci,id=serial0,max_ports=2,disable-legacy=on,addr=0x7",
		"-chardev", fmt.Sprintf("socket,id=channel,fd=%d,server=on,wait=off", m.Channel),
	)
	if !m.Foreign {
		args = append(args, "-device", "virtserialport,bus=serial0.0,nr=1,chardev=channel,name="+guest.ChannelPort)
	}
	if m.DebugExit {
		args = append(args, "-device", "isa-debug-exit,iobase=0x501,iosize=0x4")
	}
	if m.Incoming {
		args = append(args, "-incoming", "defer")
	}
	return args
}

// rootDisk returns the arguments of the disk that the guest boots from or mounts first.
func (m machine) rootDisk() []string {
	if m.Overlay == 0 {
		return disk(m.Root, setRoot, "root", guest.DiskRoot, "read-only=on")
	}
	// The layers are named here and not in the file: what a guest's disk says is
	// never a path that QEMU opens.
	overlay, unmap := "overlay-file", ""
	if m.OverlayBytes > 0 {
		unmap = ",discard=unmap" // what the guest gives back is free for others
	}
	args := []string{
		"-add-fd", fmt.Sprintf("fd=%d,set=%d", m.Root, setRoot),
		"-add-fd", fmt.Sprintf("fd=%d,set=%d", m.Overlay, setOverlay),
		"-blockdev", fmt.Sprintf("driver=file,node-name=base-file,filename=/dev/fdset/%d,read-only=on", setRoot),
		"-blockdev", "driver=raw,node-name=base,file=base-file,read-only=on",
		"-blockdev", fmt.Sprintf("driver=file,node-name=overlay-file,filename=/dev/fdset/%d", setOverlay) + unmap + m.lowest(),
	}
	device := fmt.Sprintf("virtio-blk-pci,drive=root,serial=%s,disable-legacy=on,addr=0x%x,bootindex=0", guest.DiskRoot, setRoot)
	if m.OverlayBytes > 0 {
		// A volume never grows by itself: beyond its end QEMU finds it full, which
		// the guest is told as an error of its disk.
		args = append(args, "-blockdev", fmt.Sprintf("driver=raw,node-name=overlay,file=overlay-file,size=%d", m.OverlayBytes)+unmap+m.lowest())
		device += ",werror=report,rerror=report"
		var layers []string
		layers, overlay = m.layers("overlay")
		args = append(args, layers...)
	}
	return append(args, "-blockdev", "driver=qcow2,node-name=root,file="+overlay+",backing=base"+unmap, "-device", device)
}

// The numbers of the descriptor sets, which double as the disks' PCI slots.
const (
	setConsole = 1
	setRoot    = 3
	setConfig  = 4
	setVolume  = 5
	// setOverlay has no slot of its own: it lies over the root. Neither have the
	// layers of a volume, numbered from setLayers on.
	setOverlay = 6
	setLayers  = 8
)

// disk returns the arguments of one virtio-blk disk on an inherited descriptor.
// QEMU locks the file: many readers of the root, one writer of a volume.
func disk(fd, set int, node, serial, options string) []string {
	if fd == 0 {
		return nil
	}
	return []string{
		"-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, set),
		"-blockdev", fmt.Sprintf("driver=file,node-name=%s,filename=/dev/fdset/%d,%s", node, set, options),
		"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s,disable-legacy=on,addr=0x%x", node, serial, set),
	}
}

// volumeDisk returns the arguments of the disk that persists. Whatever lies over
// the volume, it is the same disk to the guest, and to a saved state.
func (m machine) volumeDisk() []string {
	args := disk(m.Volume, setVolume, nodeVolume, guest.DiskVolume, "discard=unmap,cache.direct=off,cache.no-flush=off"+m.lowest())
	if m.Volume == 0 || len(m.Layers) == 0 {
		return args
	}
	last := len(args) - 2 // -device
	layers, top := m.layers(nodeVolume)
	device := strings.Replace(args[last+1], "drive="+nodeVolume, "drive="+top, 1)
	return append(append(args[:last:last], layers...), args[last], device)
}

// lowest is what the volume is opened with besides where it is only read.
func (m machine) lowest() string {
	if m.VolumeReadOnly {
		return ",read-only=on"
	}
	return ""
}

// layers returns the arguments of what lies over a volume's node, and the name of
// the uppermost. Which lies over which is said here and not in the files: what is
// in them is a guest's work, and never a path that QEMU opens.
func (m machine) layers(base string) (args []string, top string) {
	top = base
	for n, fd := range m.Layers {
		options := ",discard=unmap"
		if n < len(m.Layers)-1 {
			options = ",read-only=on"
		}
		args = append(args,
			"-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, setLayers+n),
			"-blockdev", fmt.Sprintf("driver=file,node-name=%s,filename=/dev/fdset/%d", layerFile(n), setLayers+n)+options,
			"-blockdev", fmt.Sprintf("driver=qcow2,node-name=%s,file=%s,backing=%s", layerNode(n), layerFile(n), top)+options)
		top = layerNode(n)
	}
	return args, top
}

// nodeVolume is the volume's node.
const nodeVolume = "volume"

func layerNode(n int) string { return fmt.Sprintf("layer%d", n) }
func layerFile(n int) string { return layerNode(n) + "-file" }

// inheritedPath opens an inherited file again where QEMU takes only a path. The
// file must be readable by QEMU's user; the directories above it need not be.
func inheritedPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

// kernelCmdline adds what this provider needs to an image's command line: the
// console, and a reboot (which -no-reboot makes an end) when the kernel panics.
func kernelCmdline(image string) string {
	line := strings.TrimSpace(image)
	for _, need := range []struct{ key, value string }{{"console=", "console=ttyS0"}, {"panic=", "panic=-1"}} {
		if !strings.Contains(" "+line, " "+need.key) {
			line += " " + need.value
		}
	}
	return strings.TrimSpace(line)
}
