package main

import (
	"strconv"
	"syscall"
	"time"

	"dormouse/internal/guest"
)

// drainWait is how long the last message may take to a host that is slow or not
// connected. The console has it in any case.
const drainWait = 500 * time.Millisecond

// end tells how it ended and powers off. The host is told last, when the disks
// are at rest, so that it may act on the message at once.
func (m *machine) end(gone guest.Message) {
	if gone.Reason == guest.GoneFailed {
		m.con.line(gone.Error)
	}
	killAll()
	m.restDisks()
	m.con.gone(gone)
	m.ch.send(gone)
	m.ch.drain(drainWait)
	m.con.drain()
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	// A machine that can't power off is reset instead: a host that forbids that
	// (-no-reboot) sees it end all the same.
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	select {}
}

// restDisks writes everything out and makes the volume read-only, which leaves
// its file system clean.
func (m *machine) restDisks() {
	syscall.Sync()
	if m.volume == nil {
		return
	}
	if err := m.thaw(); err != nil {
		m.con.line(err.Error())
	}
	at := "/proc/self/fd/" + strconv.Itoa(int(m.volume.Fd()))
	// Processes that were killed a moment ago may still hold files open for writing.
	ok := await(2*time.Second, func() bool {
		reapAll()
		return syscall.Mount("", at, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "") == nil
	})
	if !ok {
		m.con.line("the volume could not be made read-only: its journal will be replayed at the next boot")
	}
	syscall.Sync()
}

// reapAll collects what has ended.
func reapAll() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if err != syscall.EINTR && (err != nil || pid <= 0) {
			return
		}
	}
}
