package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"dormouse/internal/guest"
)

// portWait is how long the channel's port may take to appear: its name comes to
// the guest in a message of its own after the driver has found the device.
const portWait = 10 * time.Second

// channel is the guest's end of the guest channel. The port is never written to
// or read from in a way that waits: without a host, or with one that does not
// read, messages stay in the outbox.
type channel struct {
	commands chan guest.Command

	mu  sync.Mutex
	fd  int // -1 until the port is open.
	out outbox
	// last is the latest event, which a ping asks for again.
	last guest.Message
	// emptied gets a value when the outbox has become empty.
	emptied chan struct{}
}

func newChannel() *channel {
	return &channel{commands: make(chan guest.Command, 16), fd: -1, emptied: make(chan struct{}, 1)}
}

// send hands a message to the host, now or when it connects.
func (c *channel) send(m guest.Message) {
	line, err := guest.EncodeMessage(m)
	if err != nil {
		return // A Message always encodes.
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Event != guest.EventDone {
		c.last = m
	}
	c.out.push(line)
	c.flush()
}

// done answers a command.
func (c *channel) done(id int64, err error) {
	m := guest.Message{Event: guest.EventDone, ID: id}
	if err != nil {
		m.Error = err.Error()
	}
	c.send(m)
}

// again sends the latest event once more.
func (c *channel) again() {
	c.mu.Lock()
	last := c.last
	c.mu.Unlock()
	if last.Event != "" {
		c.send(last)
	}
}

// flush needs mu.
func (c *channel) flush() {
	if c.fd < 0 {
		return
	}
	c.out.flush(func(b []byte) int {
		for {
			n, err := syscall.Write(c.fd, b)
			if err == syscall.EINTR {
				continue
			}
			if err != nil {
				return 0 // EAGAIN: no host, or it does not read; the port tells when that changes.
			}
			return n
		}
	})
	if c.out.empty() {
		select {
		case c.emptied <- struct{}{}:
		default:
		}
	}
}

// drain waits until the host has taken all messages, at most for limit.
func (c *channel) drain(limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		c.mu.Lock()
		empty := c.out.empty()
		c.mu.Unlock()
		if empty {
			return
		}
		select {
		case <-c.emptied:
		case <-timer.C:
			return
		}
	}
}

// serve finds the port and then passes commands on for as long as the guest
// lives. A guest without a port, or whose port fails, lives without a channel.
func (c *channel) serve(con *console) {
	var port string
	if !await(portWait, func() bool { port = portByName("/sys/class/virtio-ports", guest.ChannelPort); return port != "" }) {
		con.line("there is no virtio-serial port named " + guest.ChannelPort + ": the guest channel is off")
		return
	}
	if err := c.talk("/dev/" + port); err != nil {
		con.line("the guest channel is off: " + err.Error())
	}
}

func portByName(dir, name string) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return ""
	}
	for _, e := range entries {
		got, err := os.ReadFile(dir + "/" + e.Name() + "/name")
		if err == nil && strings.TrimSpace(string(got)) == name {
			return e.Name()
		}
	}
	return ""
}

// talk reads commands and writes what waits whenever the port has news. It waits
// by edge-triggered epoll, because a port without a host is in a steady state of
// hang-up, of which a level-triggered wait would never stop telling.
func (c *channel) talk(dev string) error {
	fd, err := syscall.Open(dev, syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", dev, err)
	}
	poll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("waiting for %s: %w", dev, err)
	}
	const edge = 1 << 31 // EPOLLET, which package syscall has as a negative number.
	event := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLHUP | edge, Fd: int32(fd)}
	if err := syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
		return fmt.Errorf("waiting for %s: %w", dev, err)
	}
	c.mu.Lock()
	c.fd = fd
	c.mu.Unlock()
	var lines lineReader
	buf := make([]byte, 4096)
	events := make([]syscall.EpollEvent, 1)
	for {
		c.mu.Lock()
		c.flush()
		c.mu.Unlock()
		if err := c.receive(fd, buf, &lines); err != nil {
			return fmt.Errorf("reading %s: %w", dev, err)
		}
		if _, err := syscall.EpollWait(poll, events, -1); err != nil && err != syscall.EINTR {
			return fmt.Errorf("waiting for %s: %w", dev, err)
		}
	}
}

// receive reads until there is nothing more.
func (c *channel) receive(fd int, buf []byte, lines *lineReader) error {
	for {
		n, err := syscall.Read(fd, buf)
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			return nil
		case err != nil:
			return err
		case n <= 0:
			lines.reset() // No host is connected.
			return nil
		default:
			lines.feed(buf[:n], c.command)
		}
	}
}

// command decodes one line; nil is one that was too long.
func (c *channel) command(line []byte) {
	if line == nil {
		c.done(0, fmt.Errorf("a command is longer than %d bytes", guest.MaxLine))
		return
	}
	cmd, err := guest.DecodeCommand(line)
	if err != nil {
		c.done(0, fmt.Errorf("decoding a command: %w", err))
		return
	}
	c.commands <- cmd
}
