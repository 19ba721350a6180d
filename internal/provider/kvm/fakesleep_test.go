package kvm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"dormouse/internal/guest"
)

// fakeMachine plays a QEMU that can save and load, and its guest.
type fakeMachine struct {
	behaviour, name string
	console         *os.File
	// incoming: it was started to load; verify: to do nothing else.
	incoming, verify bool
	memory           *os.File

	mu      sync.Mutex
	resumed sync.Cond
	status  string
	guest   fakeGuest
	file    *os.File
	// events are written by whoever writes to the control socket.
	control io.Writer
}

// fakeGuest is what a fake guest has in its memory, where tests look for it.
type fakeGuest struct {
	// Frozen: its disks are. Sleeps counts how often it went on. Clock: it was set after the last time.
	Frozen bool
	Sleeps int
	Clock  bool
	// Running is QEMU's side of it.
	Running bool
}

const fakeMemoryBytes = 256

func newFakeMachine(behaviour, line string) *fakeMachine {
	f := &fakeMachine{
		behaviour: behaviour, name: between(line, "-name guest=", " "), status: "running",
		incoming: strings.Contains(line, "-incoming defer"), verify: strings.Contains(line, verifySuffix+" "),
	}
	f.resumed.L = &f.mu
	if fd := between(line, "mem-path=/proc/self/fd/", ","); fd != "" {
		f.memory = inheritedFile(fd)
	}
	if f.incoming {
		f.status = statusIncoming
		return f
	}
	f.guest.Running = true
	f.remember()
	return f
}

// remember writes the guest's memory. Needs f.mu, but at the start.
func (f *fakeMachine) remember() {
	if f.memory == nil || f.verify {
		return
	}
	body, _ := json.Marshal(f.guest)
	_, _ = f.memory.WriteAt(append(body, bytes.Repeat([]byte(" "), fakeMemoryBytes-len(body))...), 0)
}

func (f *fakeMachine) awaitRunning() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.status != "running" {
		f.resumed.Wait()
	}
}

// obey does what the host asks of the guest; false is no answer.
func (f *fakeMachine) obey(c guest.Command, say func(guest.Message)) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := guest.Message{Event: guest.EventDone, ID: c.ID}
	switch {
	case c.Verb == guest.VerbPing && f.incoming:
		say(guest.Message{Event: guest.EventReady, Restarts: 1})
	case f.behaviour == "old" && c.Verb != guest.VerbPing && c.Verb != guest.VerbShutdown,
		f.behaviour == "wakeless" && c.Verb == guest.VerbWake:
		answer.Error = guest.UnknownVerb + " " + string(c.Verb)
	case f.behaviour == "mute" && c.Verb == guest.VerbFreeze:
		f.guest.Frozen = true
		f.remember()
		return false
	case f.behaviour == "dazed" && f.incoming:
		return false
	case f.behaviour == "unfreezable" && c.Verb == guest.VerbFreeze:
		answer.Error = "freezing the volume: input/output error"
	case c.Verb == guest.VerbFreeze:
		f.guest.Frozen = true
	case c.Verb == guest.VerbThaw:
		f.guest.Frozen = false
	case c.Verb == guest.VerbWake:
		f.guest.Frozen, f.guest.Clock = false, len(c.Seed) > 0 && c.Nanos > 0
	case c.Verb == guest.VerbSetClock:
		f.guest.Clock = !c.Time.IsZero()
	}
	f.remember()
	say(answer)
	return true
}

// qmp plays QEMU's control socket.
func (f *fakeMachine) qmp(conn net.Conn) {
	f.mu.Lock()
	f.control = conn
	f.mu.Unlock()
	fmt.Fprintln(conn, `{"QMP": {}}`)
	var line []byte
	buf, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(buf, rights)
		if err != nil || n == 0 {
			return
		}
		if messages, err := unix.ParseSocketControlMessage(rights[:oobn]); err == nil && len(messages) > 0 {
			if fds, err := unix.ParseUnixRights(&messages[0]); err == nil {
				f.file = os.NewFile(uintptr(fds[0]), "state")
			}
		}
		line = append(line, buf[:n]...)
		for {
			command, rest, ok := bytes.Cut(line, []byte("\n"))
			if !ok {
				break
			}
			f.execute(command)
			line = rest
		}
	}
}

func (f *fakeMachine) execute(line []byte) {
	var c struct {
		Execute   string
		ID        int64
		Arguments struct{ URI string }
	}
	_ = json.Unmarshal(line, &c)
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := fmt.Sprintf(`{"name": %q, "status": %q, "running": %t}`, f.name, f.status, f.status == "running")
	if c.Execute == "query-migrate" {
		answer = `{"status": "completed", "error-desc": "the fake could not"}`
	}
	reply := func() { fmt.Fprintf(f.control, `{"return": %s, "id": %d}`+"\n", answer, c.ID) }
	switch c.Execute {
	case "stop":
		f.run(false, statusPaused)
	case "cont":
		f.run(true, "running")
	case "migrate":
		reply()
		f.save()
		return
	case "migrate-incoming":
		reply()
		f.load(strings.TrimPrefix(c.Arguments.URI, "fd:"))
		return
	case "system_powerdown":
		reply()
		fmt.Fprintln(f.control, `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}`)
		os.Exit(0)
	}
	reply()
}

func (f *fakeMachine) run(running bool, status string) {
	if f.status == statusIncoming && running {
		fmt.Fprintln(os.Stderr, "fake-qemu: it has loaded nothing")
		os.Exit(1)
	}
	f.status, f.guest.Running = status, running
	f.remember()
	f.resumed.Broadcast()
}

func (f *fakeMachine) tell(status string) {
	fmt.Fprintf(f.control, `{"event": "MIGRATION", "data": {"status": %q}}`+"\n", status)
}

func (f *fakeMachine) save() {
	switch f.behaviour {
	case "saves-not":
		f.tell("failed")
		return
	case "saves-and-dies":
		os.Exit(1)
	}
	body, _ := json.Marshal(f.guest)
	if _, err := f.file.Write(append([]byte("STATE"), body...)); err != nil {
		f.tell("failed")
		return
	}
	_ = f.file.Close()
	f.status = "postmigrate"
	f.tell("completed")
}

func (f *fakeMachine) load(fd string) {
	n, _ := strconv.Atoi(fd)
	body, err := io.ReadAll(os.NewFile(uintptr(n), "state"))
	body, ok := bytes.CutPrefix(body, []byte("STATE"))
	if err != nil || !ok || json.Unmarshal(body, &f.guest) != nil ||
		f.behaviour == "verifies-not" && f.verify || f.behaviour == "loads-not" && !f.verify {
		fmt.Fprintln(os.Stderr, "fake-qemu: error while loading state section id 3(ram)")
		os.Exit(1)
	}
	if f.behaviour == "verifies-forever" && f.verify {
		return
	}
	if f.behaviour == "dies-loading" && !f.verify {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	f.guest.Sleeps++
	f.status = statusPaused
	f.tell("completed")
}
