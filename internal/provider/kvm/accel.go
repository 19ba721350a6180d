package kvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

const (
	// kvmDeadline is how long the probe guest may take in kvm: some fifty times
	// what it takes where virtualisation works.
	kvmDeadline = 5 * time.Second
	// tcgDeadline is how long it may take under emulation, on a busy machine.
	tcgDeadline = 30 * time.Second
)

// probeUID is the user that the probe guest runs as under root: one that no
// instance has, so that the probe fails where instances would.
const probeUID = DefaultUIDBase - 1

// accelFound is what this host runs guests with.
type accelFound struct {
	Accel   string `json:"accel"`
	Machine string `json:"machine"`
	// Detail says how that was found, for people.
	Detail string `json:"detail"`
	// Key is what the answer depends on.
	Key string `json:"key"`
}

// accelerator finds out once what guests can run with, and remembers it on disk.
type accelerator struct {
	want, qemu, cache string
	// uid is the user that the probe guest runs as; 0 is our own.
	uid int
	log logrus.FieldLogger
	// sem lets one probe at a time; found is the last answer.
	sem   chan struct{}
	found atomic.Pointer[accelFound]
}

func newAccelerator(want, qemu, cache string, uid int, log logrus.FieldLogger) *accelerator {
	return &accelerator{want: want, qemu: qemu, cache: cache, uid: uid, log: log, sem: make(chan struct{}, 1)}
}

// warm finds the accelerator before somebody waits for it.
func (a *accelerator) warm(ctx context.Context) {
	found, err := a.get(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		a.log.WithError(err).Error("this host can't run guests")
		return
	}
	a.log.WithField("accelerator", found.Accel).WithField("machine", found.Machine).Info(found.Detail)
}

// get returns what guests run with, KindUnavailable where none can.
func (a *accelerator) get(ctx context.Context) (accelFound, error) {
	if found := a.found.Load(); found != nil {
		return *found, nil
	}
	return a.find(ctx, false)
}

// find looks again where fresh, also if the answer is known.
func (a *accelerator) find(ctx context.Context, fresh bool) (accelFound, error) {
	if err := ctx.Err(); err != nil {
		return accelFound{}, fleet.Errorf(fleet.KindUnavailable, "waiting for the probe of the accelerator: %w", err)
	}
	select {
	case a.sem <- struct{}{}:
	case <-ctx.Done():
		return accelFound{}, fleet.Errorf(fleet.KindUnavailable, "waiting for the probe of the accelerator: %w", ctx.Err())
	}
	defer func() { <-a.sem }()
	if found := a.found.Load(); found != nil && !fresh {
		return *found, nil
	}
	version, err := qemuVersion(ctx, a.qemu)
	if err != nil {
		return accelFound{}, err
	}
	key := a.want + "|" + a.qemu + "|" + version + "|" + hostKey(a.uid)
	if !fresh {
		if cached, ok := a.load(key); ok {
			a.found.Store(&cached)
			return cached, nil
		}
	}
	found := accelFound{Accel: a.want, Key: key, Detail: "as configured"}
	if found.Machine, err = machineType(ctx, a.qemu); err != nil {
		return accelFound{}, err
	}
	if found.Machine != pinnedMachine {
		a.log.WithField("machine", found.Machine).Warnf("QEMU does not know %s: saved states will not load on other hosts", pinnedMachine)
	}
	switch {
	case a.want == AccelAuto:
		found.Accel, found.Detail, err = probeAccel(ctx, a.qemu, a.uid)
	case fresh:
		found.Detail, err = probeGuest(ctx, a.qemu, a.want, a.uid)
	}
	if err != nil {
		return accelFound{}, err
	}
	a.found.Store(&found)
	if body, err := json.Marshal(found); err == nil {
		if err := writeDurably(a.cache, append(body, '\n')); err != nil {
			a.log.WithError(err).Warn("the answer of the probe can't be kept; the next start asks again")
		}
	}
	return found, nil
}

func (a *accelerator) load(key string) (accelFound, bool) {
	var cached accelFound
	body, err := os.ReadFile(a.cache)
	if err != nil || json.Unmarshal(body, &cached) != nil || cached.Key != key {
		return accelFound{}, false
	}
	return cached, true
}

// hostKey changes with everything on the host that decides about kvm.
func hostKey(uid int) string {
	var name unix.Utsname
	_ = unix.Uname(&name)
	key := unix.ByteSliceToString(name.Release[:])
	var st unix.Stat_t
	if unix.Stat("/dev/kvm", &st) == nil {
		key += fmt.Sprintf("|kvm %o %d %d", st.Mode, st.Uid, st.Gid)
	}
	return key + fmt.Sprintf("|as %d", uid)
}

// ProbeAccel returns AccelKVM where a probe guest runs in it within 5 s, else
// AccelTCG where one runs in that, and a sentence that says why. The presence of
// /dev/kvm alone says nothing. It is KindUnavailable where no guest runs at all.
// As root, the guest runs as an unprivileged user, as instances do.
func ProbeAccel(ctx context.Context, qemuPath string) (accel, detail string, err error) {
	uid := 0
	if os.Geteuid() == 0 {
		uid = probeUID
	}
	return probeAccel(ctx, qemuPath, uid)
}

func probeAccel(ctx context.Context, qemu string, uid int) (accel, detail string, err error) {
	detail, kvmErr := probeGuest(ctx, qemu, AccelKVM, uid)
	if kvmErr == nil {
		return AccelKVM, detail, nil
	}
	if ctx.Err() != nil {
		return "", "", kvmErr
	}
	detail, err = probeGuest(ctx, qemu, AccelTCG, uid)
	if err != nil {
		return "", "", errors.Join(err, kvmErr)
	}
	return AccelTCG, detail + "; not in kvm: " + kvmErr.Error(), nil
}

// probeGuest boots the probe guest and says how long that took.
func probeGuest(ctx context.Context, qemu, accel string, uid int) (string, error) {
	deadline, cpu := tcgDeadline, "max"
	if accel == AccelKVM {
		deadline, cpu = kvmDeadline, "host"
	}
	if err := kvmUsable(accel, uid); err != nil {
		return "", err
	}
	disk, err := memoryFile("probe", probeDisk())
	if err != nil {
		return "", err
	}
	defer disk.Close()
	var said bytes.Buffer
	limited, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	cmd := exec.CommandContext(limited, qemu,
		"-name", "guest=dormouse-probe", "-machine", "q35,usb=off,vmport=off", "-accel", accel, "-cpu", cpu,
		"-m", fmt.Sprintf("%dM", probeMemoryMiB), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-sandbox", sandbox,
		"-device", "isa-debug-exit,iobase=0xf4,iosize=0x4",
		"-add-fd", "fd=3,set=1",
		"-blockdev", "driver=file,node-name=probe,filename=/dev/fdset/1,read-only=on",
		"-device", "virtio-blk-pci,drive=probe,bootindex=0")
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = "/", &said, &said, []*os.File{disk}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: credential(uid)}
	cmd.WaitDelay = time.Second
	begin := time.Now()
	err = cmd.Run()
	took := time.Since(begin).Round(10 * time.Millisecond)
	switch {
	case ctx.Err() != nil:
		return "", fleet.Errorf(fleet.KindUnavailable, "probing %s: %w", accel, ctx.Err())
	case cmd.ProcessState == nil:
		return "", fleet.Errorf(fleet.KindUnavailable, "probing %s: %w", accel, err)
	case limited.Err() != nil:
		return "", fleet.Errorf(fleet.KindUnavailable, "probing %s: the probe guest had not run to its end after %s", accel, deadline)
	case cmd.ProcessState.ExitCode() != probeExit:
		return "", fleet.Errorf(fleet.KindUnavailable, "probing %s: QEMU ended with %s: %s",
			accel, cmd.ProcessState, strings.Join(strings.Fields(said.String()), " "))
	}
	return fmt.Sprintf("a probe guest ran in %s within %s", accel, took), nil
}

// kvmUsable says in words why kvm can't be had, where that is plain.
func kvmUsable(accel string, uid int) error {
	if accel != AccelKVM {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat("/dev/kvm", &st); err != nil {
		return fleet.Errorf(fleet.KindUnavailable, "this machine has no /dev/kvm: load the kernel module kvm_intel or kvm_amd, or allow nested virtualisation")
	}
	group := st.Gid != 0 && st.Mode&0o060 == 0o060
	if uid != 0 && st.Mode&0o006 != 0o006 && !group {
		return fleet.Errorf(fleet.KindUnavailable, "only root may open /dev/kvm, and guests do not run as root: chgrp kvm /dev/kvm && chmod 0660 /dev/kvm")
	}
	return nil
}

func qemuVersion(ctx context.Context, qemu string) (string, error) {
	out, err := exec.CommandContext(ctx, qemu, "--version").Output()
	if err != nil {
		return "", fleet.Errorf(fleet.KindUnavailable, "asking %s for its version: install QEMU: apt-get install qemu-system-x86: %w", qemu, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimPrefix(line, "QEMU emulator version "), nil
}

// machineType returns the pinned type where QEMU knows it.
func machineType(ctx context.Context, qemu string) (string, error) {
	out, err := exec.CommandContext(ctx, qemu, "-machine", "help").Output()
	if err != nil {
		return "", fleet.Errorf(fleet.KindUnavailable, "asking %s for its machines: %w", qemu, err)
	}
	for line := range strings.Lines(string(out)) {
		if name, _, _ := strings.Cut(line, " "); name == pinnedMachine {
			return pinnedMachine, nil
		}
	}
	return fallbackMachine, nil
}
