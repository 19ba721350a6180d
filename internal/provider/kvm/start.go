package kvm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// start runs QEMU. Needs the lock, and that none runs. When it fails, nothing
// has changed in the journal but perhaps the count of boots.
func (i *instance) start(ctx context.Context) error {
	i.p.mu.Lock()
	stopping := i.p.stopping
	i.p.mu.Unlock()
	if stopping {
		return fleet.Errorf(fleet.KindUnavailable, "starting instance %s: this host's provisioner is stopping", i.id)
	}
	if i.stopPacking != nil {
		i.stopPacking()
	}
	if i.rec.Asleep && i.rec.Saved.memory() {
		cold, err := i.restore(ctx)
		if cold == "" || err != nil {
			return err
		}
		i.p.log.WithField("instance", i.id).Warn("its memory can't be used, it is booted: " + cold)
		i.forgetMemory(cold)
		if err := i.save(); err != nil {
			return err
		}
	}
	r, err := i.prepare(ctx, toBoot)
	if err != nil {
		return err
	}
	defer r.files.close()
	if err := i.launch(r); err != nil {
		return errors.Join(err, r.undo())
	}
	return nil
}

// launch writes the intention, starts QEMU, and writes which process it is.
func (i *instance) launch(r *prepared) error {
	before := i.rec
	i.rec.Want, i.rec.Starting, i.rec.Exit, i.rec.Endpoints = fleet.PowerOn, true, nil, r.endpoints
	i.rec.Boots++
	i.wakesUp(r, fleet.StartBooted)
	if err := i.save(); err != nil {
		i.rec = before
		return err
	}
	proc, err := i.execute(r)
	if err != nil {
		before.Boots = i.rec.Boots
		i.rec = before
		return errors.Join(err, i.save())
	}
	i.name(proc)
	if err := i.save(); err != nil {
		// It is found again by its name, or has ended already, which is seen below.
		i.p.log.WithField("instance", i.id).WithError(err).Warn("the journal does not name the machine's process")
	}
	i.resuming, i.startedAt = false, i.p.o.Clock()
	i.vm = newVM(i, proc, toBoot)
	i.vm.began(fleet.StartBooted)
	i.p.log.WithField("instance", i.id).WithField("pid", proc.pid).WithField("boot", i.rec.Boots).Info("machine started")
	return nil
}

// name records which process the machine is.
func (i *instance) name(proc *watched) {
	if id, err := identify(proc.pid); err == nil {
		id.StartedAt = i.p.o.Clock().UTC()
		i.rec.Process, i.rec.Starting = &id, false
	}
}

// execute starts QEMU.
func (i *instance) execute(r *prepared) (*watched, error) {
	log, err := os.OpenFile(i.stderrPath(), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, diskError("making QEMU's log", err)
	}
	defer log.Close()
	cmd := i.command(r)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fleet.Errorf(fleet.KindUnavailable, "starting QEMU: %w", err)
	}
	// It is our child until it is reaped, so the PID can't be another's yet.
	pid := cmd.Process.Pid
	proc, err := watchChild(pid)
	_ = cmd.Process.Release()
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
		return nil, fleet.Errorf(fleet.KindUnavailable, "starting QEMU: %w", err)
	}
	return proc, nil
}

func (i *instance) command(r *prepared) *exec.Cmd {
	cmd := exec.Command(i.p.o.QEMU, r.m.arguments()...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.ExtraFiles = r.files.files
	// A session of its own: Ctrl-C and the end of the provisioner do not reach it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: credential(i.rec.UID)}
	return cmd
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
