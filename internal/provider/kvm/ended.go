package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
	"dormouse/internal/guest"
)

// maxLastLines is how many lines of the console an exit record keeps.
const maxLastLines = 20

// ending is what is known of how a machine ended.
type ending struct {
	// asked: somebody wanted it off.
	asked, killed bool
	gone          *guest.Message
	// shutdown is the reason of QEMU's SHUTDOWN event; "" is unheard.
	shutdown string
	// status is nil where QEMU was not our child.
	status *unix.WaitStatus
	// console are the lines of the last boot, qemu those of QEMU's standard error.
	console, qemu []string
	// debugExit: the guest can end QEMU with its program's exit code.
	debugExit bool
	// foreign: the guest's words on its console are not init's.
	foreign bool
	// restart is after what time the machine is started again; nil where it is not.
	restart *time.Duration
}

// ended records the end of a machine, gives back what it held, and starts it
// again where that was asked for while it stopped.
func (i *instance) ended(v *vm, status *unix.WaitStatus) {
	_ = i.lock(context.Background())
	if v.isDiscarded() {
		i.unlock()
		return
	}
	v.mu.Lock()
	e := &ending{
		asked: v.stopping || i.rec.Want == fleet.PowerOff, killed: v.killed, gone: v.gone, shutdown: v.shutdown, status: status,
		debugExit: i.rec.Spec.Kernel == fleet.KernelNanos, foreign: i.rec.Spec.Kernel == fleet.KernelDisk,
	}
	again := (e.asked || v.again) && i.rec.Want == fleet.PowerOn && !i.p.isStopping()
	v.mu.Unlock()
	i.record(e)
	i.vm = nil
	i.active.Store(false)
	switch {
	case again:
		i.restarts = guest.Restarts{}
		if err := i.start(i.p.ctx); err != nil {
			i.startFailed(err)
		}
	case e.restart != nil:
		i.resuming = true
		i.reserveVolume()
		i.p.spawn(func() { i.resumeAfter(*e.restart) })
	}
	i.unlock()
	i.p.notify(i.id)
}

func (p *Provider) isStopping() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopping
}

// restart says whether a silent guest's machine is started again, as its
// package wants it, and counts. Needs the lock.
func (i *instance) restart(exit *fleet.Exit) *time.Duration {
	if !i.rec.Spec.Kernel.Silent() || i.p.isStopping() || (exit.Reason != fleet.ReasonProgramExited && exit.Reason != fleet.ReasonGuestPanic) {
		return nil
	}
	i.restarts.Policy = string(i.rec.Spec.Manifest.Restart)
	now := i.p.o.Clock()
	ended := guest.Ending{Code: exit.Code, Ran: now.Sub(i.startedAt), At: now}
	if exit.Reason == fleet.ReasonGuestPanic {
		ended.Code = -1
	}
	v := i.restarts.Ended(ended)
	if v.Gone == guest.GoneCrashLoop {
		exit.Reason = fleet.ReasonCrashLoop
	}
	if v.Gone != "" {
		return nil
	}
	return &v.Delay
}

// resumeAfter starts the machine after a pause, unless somebody has switched it
// off, or on, meanwhile.
func (i *instance) resumeAfter(pause time.Duration) {
	select {
	case <-i.p.ctx.Done():
	case <-time.After(pause):
		i.resume()
	}
}

// record writes down how the machine ended, and what is wanted from now on.
// Needs the lock.
func (i *instance) record(e *ending) {
	e.console, _ = i.console().lastBoot()
	e.qemu = i.qemuWords()
	exit := e.exit()
	i.sayGaveWay(&exit)
	exit.At = i.p.o.Clock().UTC()
	i.rec.Exit, i.rec.Process, i.rec.Starting = &exit, nil, false
	if i.rec.Asleep {
		i.rec.Exit = nil // it has not ended, it sleeps
	}
	switch {
	case e.asked:
		// What is wanted has been said: off, or on again after the stop, or by
		// Shutdown nothing new.
	case exit.Reason == fleet.ReasonHostLost:
		// Not the guest's doing, perhaps the host going down: its next start brings it back.
	default:
		if e.restart = i.restart(&exit); e.restart == nil {
			i.rec.Want = fleet.PowerOff
		}
	}
	i.cleanUp()
	if err := i.save(); err != nil {
		i.p.log.WithField("instance", i.id).WithError(err).Error("the end of a machine could not be journalled")
	}
	i.p.log.WithField("instance", i.id).WithField("reason", exit.Reason).WithField("code", exit.Code).Info("machine ended")
}

// startFailed records a start that nobody waits for. Needs the lock.
func (i *instance) startFailed(err error) {
	i.resuming = false
	i.releaseVolume()
	if i.p.isStopping() {
		return // the next New does it
	}
	i.rec.Want = fleet.PowerOff
	i.rec.Exit = &fleet.Exit{Reason: fleet.ReasonProvider, Code: -1, At: i.p.o.Clock().UTC(), LastLines: []string{err.Error()}}
	if e := i.save(); e != nil {
		err = errors.Join(err, e)
	}
	i.p.log.WithField("instance", i.id).WithError(err).Error("a machine could not be started again")
}

// cleanUp removes what only a running machine needs.
func (i *instance) cleanUp() {
	i.releaseVolume()
	if !i.rec.Asleep {
		_ = os.Remove(i.packedPath())
	}
	if i.rec.Saved.tier() != fleet.TierWarm {
		i.dropRaw()
	}
	if err := i.p.o.Network.Detach(context.WithoutCancel(i.p.ctx), i.id); err != nil {
		i.p.log.WithField("instance", i.id).WithError(err).Warn("the instance's port could not be removed; the next start will")
	}
	for _, name := range sockets() {
		_ = os.Remove(filepath.Join(i.dir(), name))
	}
}

// exit weighs the evidence. The guest's own word counts most, then QEMU's, then
// how the process ended.
func (e ending) exit() fleet.Exit {
	gone := e.gone
	if gone == nil && !e.foreign {
		gone = goneFromConsole(e.console)
	}
	exit := fleet.Exit{Code: -1, LastLines: lastOf(e.console)}
	switch {
	case gone != nil:
		exit.Code, exit.Signal = gone.Code, gone.Signal
		exit.Reason = goneReason(gone.Reason)
		if gone.Error != "" {
			exit.LastLines = lastOf(append(exit.LastLines, gone.Error))
		}
		if exit.Reason != "" && gone.Reason == guest.GoneFailed {
			exit.Code = -1
		}
	case e.asked && e.killed:
		exit.Signal = "SIGKILL"
	case e.panicked():
		exit.Reason = fleet.ReasonGuestPanic
	case e.exitedByCode():
		exit.Reason, exit.Code = fleet.ReasonProgramExited, e.status.ExitStatus()>>1
	case e.refused():
		exit.Reason = fleet.ReasonProvider
		exit.LastLines = lastOf(e.qemu)
	case e.shutdown == "guest-shutdown":
		exit.Reason = fleet.ReasonProgramExited
	default:
		exit.Reason = fleet.ReasonHostLost
		if e.status != nil && e.status.Signaled() {
			exit.Signal = unix.SignalName(e.status.Signal())
		}
	}
	if e.asked {
		exit.Reason = ""
	}
	return exit
}

func goneReason(reason string) fleet.Reason {
	switch reason {
	case guest.GoneStopped:
		return ""
	case guest.GoneCrashLoop:
		return fleet.ReasonCrashLoop
	default:
		return fleet.ReasonProgramExited
	}
}

// panicked: the kernel said so, or reset the machine without a word from init.
func (e ending) panicked() bool {
	if e.shutdown == "guest-panic" || e.shutdown == "guest-reset" {
		return true
	}
	for _, line := range e.console {
		if strings.Contains(line, "Kernel panic - not syncing") {
			return true
		}
	}
	return false
}

// exitedByCode: the guest wrote its program's exit code to isa-debug-exit, which
// ends QEMU with code<<1|1. QEMU's own failures end it with 1 and a word.
func (e ending) exitedByCode() bool {
	return e.debugExit && e.status != nil && e.status.Exited() && e.status.ExitStatus()&1 == 1 && len(e.qemu) == 0
}

// refused: QEMU ended by itself with an error, before or while the guest ran.
func (e ending) refused() bool {
	return e.status != nil && e.status.Exited() && e.status.ExitStatus() != 0
}

// goneFromConsole finds the line that init leaves for a host that was not listening.
func goneFromConsole(lines []string) *guest.Message {
	for n := len(lines) - 1; n >= 0; n-- {
		body, ok := strings.CutPrefix(lines[n], guest.GoneLine)
		if !ok {
			continue
		}
		var m guest.Message
		if json.Unmarshal([]byte(body), &m) == nil {
			return &m
		}
	}
	return nil
}

// lastOf returns the last lines that say something: not init's word to the
// host, and not the kernel's that it switches off.
func lastOf(lines []string) []string {
	var kept []string
	for _, line := range lines {
		if !strings.HasPrefix(line, guest.GoneLine) && !strings.HasPrefix(line, "dormouse-init: the program ended") && !strings.HasSuffix(line, "] reboot: Power down") {
			kept = append(kept, line)
		}
	}
	return kept[max(0, len(kept)-maxLastLines):]
}

// readTail reads at most the last n bytes of a file.
func readTail(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-n), n))
}
