package main

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"dormouse/internal/guest"
)

// readyPoll is how often the kernel's tables are looked at until the program is
// ready: a small part of what a boot takes, and nothing after it.
const readyPoll = 10 * time.Millisecond

// forwarded are the signals that init passes on to the program.
func forwarded() []os.Signal {
	return []os.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGPWR,
	}
}

// supervisor runs the program until it has ended for good. All of its state
// belongs to the goroutine of run.
type supervisor struct {
	m                 *machine
	signals, children <-chan os.Signal
	restarts          guest.Restarts
	disk              chan guest.Command

	pid     int // 0 while the program does not run.
	started time.Time
	// stopping: the host asked for the end.
	stopping bool
	restart  <-chan time.Time
	kill     <-chan time.Time
	ready    *time.Ticker
}

func newSupervisor(m *machine, signals, children <-chan os.Signal) *supervisor {
	return &supervisor{
		m: m, signals: signals, children: children,
		restarts: guest.Restarts{Policy: m.cfg.Restart},
		disk:     make(chan guest.Command, 16),
	}
}

// run returns the EventGone message.
func (s *supervisor) run() guest.Message {
	go s.m.diskVerbs(s.disk)
	gone := s.start()
	for gone == nil {
		var poll <-chan time.Time
		if s.ready != nil {
			poll = s.ready.C
		}
		select {
		case sig := <-s.signals:
			s.forward(sig)
		case <-s.children:
			gone = s.reap()
		case cmd := <-s.m.ch.commands:
			gone = s.command(cmd)
		case <-s.restart:
			s.restart = nil
			gone = s.start()
		case <-s.kill:
			s.kill = nil
			killAll()
		case <-poll:
			s.checkReady()
		}
	}
	return *gone
}

func (s *supervisor) start() *guest.Message {
	pid, err := startProgram(s.m.cfg, s.m.user)
	if err != nil {
		gone := failed(err)
		gone.Restarts = s.restarts.Count
		return &gone
	}
	s.pid, s.started = pid, time.Now()
	s.m.ch.send(guest.Message{Event: guest.EventStarted, Restarts: s.restarts.Count})
	if len(s.m.cfg.Ports) == 0 {
		s.sendReady()
		return nil
	}
	s.ready = time.NewTicker(readyPoll)
	return nil
}

func (s *supervisor) checkReady() {
	if s.pid != 0 && allListening(s.m.cfg.Ports) {
		s.stopPolling()
		s.sendReady()
	}
}

func (s *supervisor) sendReady() {
	s.m.ch.send(guest.Message{Event: guest.EventReady, Restarts: s.restarts.Count})
}

func (s *supervisor) stopPolling() {
	if s.ready != nil {
		s.ready.Stop()
		s.ready = nil
	}
}

func (s *supervisor) forward(sig os.Signal) {
	number, ok := sig.(syscall.Signal)
	if ok && s.pid != 0 {
		_ = syscall.Kill(s.pid, number) // It may have ended just now.
	}
}

// reap collects every child that has ended; those that are not the program were
// left to process 1 by others.
func (s *supervisor) reap() *guest.Message {
	var gone *guest.Message
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return gone
		}
		if pid == s.pid && (status.Exited() || status.Signaled()) {
			gone = s.ended(status)
		}
	}
}

// ended says what follows when the program has ended.
func (s *supervisor) ended(status syscall.WaitStatus) *guest.Message {
	now := time.Now()
	e := guest.Ending{Code: status.ExitStatus(), Ran: now.Sub(s.started), At: now}
	if status.Signaled() {
		e.Code, e.Signal = -1, signalName(status.Signal())
	}
	s.pid = 0
	s.stopPolling()
	// What it started and left behind would hold its ports and its files.
	killAll()
	exit := guest.Message{Event: guest.EventExit, Code: e.Code, Signal: e.Signal, Restarts: s.restarts.Count}
	s.m.ch.send(exit)
	gone := exit
	gone.Event = guest.EventGone
	if s.stopping {
		gone.Reason = guest.GoneStopped
		return &gone
	}
	what := fmt.Sprintf("the program ended with code %d", e.Code)
	if e.Signal != "" {
		what = "the program was ended by " + e.Signal
	}
	v := s.restarts.Ended(e)
	if v.Gone != "" {
		s.m.con.line(what + " and is not started again (" + v.Gone + ")")
		gone.Reason = v.Gone
		return &gone
	}
	s.m.con.line(fmt.Sprintf("%s and is started again in %v", what, v.Delay))
	s.restart = time.After(v.Delay)
	return nil
}

// command carries out what a host asks; only the end of the guest returns a message.
func (s *supervisor) command(cmd guest.Command) *guest.Message {
	ch := s.m.ch
	switch cmd.Verb {
	case guest.VerbPing:
		ch.again()
		ch.done(cmd.ID, nil)
	case guest.VerbSync, guest.VerbFreeze, guest.VerbThaw:
		s.toDisks(cmd)
	case guest.VerbSetClock:
		ch.done(cmd.ID, setClock(cmd.Time))
	case guest.VerbReseed:
		ch.done(cmd.ID, reseed(cmd.Seed))
	case guest.VerbWake:
		// Whoever woke it need not wait for the thaw: who writes does so by himself.
		var now time.Time
		if cmd.Nanos > 0 {
			now = time.Unix(0, cmd.Nanos)
		}
		err := errors.Join(setClock(now), reseed(cmd.Seed))
		ch.done(cmd.ID, err)
		s.toDisks(guest.Command{Verb: guest.VerbThaw})
	case guest.VerbShutdown:
		ch.done(cmd.ID, nil)
		return s.stop()
	default:
		ch.done(cmd.ID, fmt.Errorf(guest.UnknownVerb+" %q", cmd.Verb))
	}
	return nil
}

// toDisks has a command carried out that waits for disks.
func (s *supervisor) toDisks(cmd guest.Command) {
	select {
	case s.disk <- cmd:
	default:
		s.m.ch.done(cmd.ID, errors.New("too many commands wait for the disks already"))
	}
}

// stop ends the program; where none runs, that was all.
func (s *supervisor) stop() *guest.Message {
	if s.stopping {
		return nil
	}
	s.stopping = true
	s.restart = nil
	if s.pid == 0 {
		return &guest.Message{Event: guest.EventGone, Reason: guest.GoneStopped, Restarts: s.restarts.Count}
	}
	// A program that waits for a frozen volume could not end.
	if err := s.m.thaw(); err != nil {
		s.m.con.line(err.Error())
	}
	_ = syscall.Kill(s.pid, syscall.SIGTERM) // It may have ended just now.
	s.kill = time.After(stopTimeout(s.m.cfg))
	return nil
}

// killAll ends every process but init.
func killAll() { _ = syscall.Kill(-1, syscall.SIGKILL) }
