package kvm

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What an instance is made of is frozen by saved states: a change here makes
// every sleeping instance boot cold.
func TestArgumentsGolden(t *testing.T) {
	t.Parallel()
	m := machine{
		ID: "06a1b2c3d4e5f6g7h8i9j0k1l2", UUID: "9d7e0c1a-0000-8000-8000-000000000001", Type: pinnedMachine, Accel: AccelTCG,
		VCPUs: 1, MemoryMiB: 128, RAM: 12, Kernel: 4, Initrd: 5, Cmdline: "console=ttyS0 quiet panic=-1",
		Root: 6, Config: 7, Volume: 3, Console: 8, QMP: 9, Channel: 10,
		Netdev: "tap,id=net0,fd=11,vhost=off", MAC: "52:54:00:00:00:07",
	}
	require.Equal(t, strings.Fields(`
		-name guest=dormouse-06a1b2c3d4e5f6g7h8i9j0k1l2
		-uuid 9d7e0c1a-0000-8000-8000-000000000001
		-machine pc-q35-7.2,usb=off,vmport=off,memory-backend=ram0
		-object memory-backend-file,id=ram0,size=128M,mem-path=/proc/self/fd/12,share=on
		-accel tcg,tb-size=32
		-cpu max
		-smp 1
		-m 128M
		-nodefaults -no-user-config -display none -no-reboot
		-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
		-rtc base=utc
		-kernel /proc/self/fd/4
		-initrd /proc/self/fd/5
		-append console=ttyS0_quiet_panic=-1
		-chardev socket,id=qmp,fd=9,server=on,wait=off
		-mon chardev=qmp,mode=control
		-add-fd fd=8,set=1
		-chardev file,id=console,path=/dev/fdset/1,append=on
		-serial chardev:console
		-add-fd fd=6,set=3
		-blockdev driver=file,node-name=root,filename=/dev/fdset/3,read-only=on
		-device virtio-blk-pci,drive=root,serial=dm-root,disable-legacy=on,addr=0x3
		-add-fd fd=7,set=4
		-blockdev driver=file,node-name=config,filename=/dev/fdset/4,read-only=on
		-device virtio-blk-pci,drive=config,serial=dm-config,disable-legacy=on,addr=0x4
		-add-fd fd=3,set=5
		-blockdev driver=file,node-name=volume,filename=/dev/fdset/5,discard=unmap,cache.direct=off,cache.no-flush=off
		-device virtio-blk-pci,drive=volume,serial=dm-volume,disable-legacy=on,addr=0x5
		-netdev tap,id=net0,fd=11,vhost=off
		-device virtio-net-pci,netdev=net0,mac=52:54:00:00:00:07,romfile=,disable-legacy=on,addr=0x6
		-device virtio-serial-pci,id=serial0,max_ports=2,disable-legacy=on,addr=0x7
		-chardev socket,id=channel,fd=10,server=on,wait=off
		-device virtserialport,bus=serial0.0,nr=1,chardev=channel,name=dormouse.0`),
		strings.Fields(strings.ReplaceAll(strings.Join(m.arguments(), "\n"), " ", "_")))

	m.Accel, m.Volume, m.Initrd, m.VCPUs = AccelKVM, 0, 0, 0
	args := strings.Join(m.arguments(), " ")
	require.Contains(t, args, "-accel kvm -cpu host -smp 1 ")
	require.NotContains(t, args, "dm-volume")
	require.NotContains(t, args, "-initrd")
}

func TestKernelCmdline(t *testing.T) {
	t.Parallel()
	require.Equal(t, "quiet console=ttyS0 panic=-1", kernelCmdline(" quiet "))
	require.Equal(t, "panic=5 console=hvc0", kernelCmdline("panic=5 console=hvc0"))
	require.Equal(t, "console=ttyS0 panic=-1", kernelCmdline(""))
}

func TestUUIDIsStable(t *testing.T) {
	t.Parallel()
	require.Equal(t, uuidOf("a"), uuidOf("a"))
	require.NotEqual(t, uuidOf("a"), uuidOf("b"))
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, uuidOf("a"))
}
