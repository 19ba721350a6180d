package kvm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"dormouse/internal/guest"
)

// channelWriteTimeout bounds the sending of one command. What the guest has not
// read yet waits in the socket's buffer.
const channelWriteTimeout = time.Second

// At most channelBurst messages are read in channelWindow.
const (
	channelBurst  = 64
	channelWindow = 200 * time.Millisecond
)

// channel is the host's end of a guest channel. It connects again for as long
// as its context lives; the guest may not listen yet, or be an older one that
// never does.
type channel struct {
	dial      func(context.Context) (net.Conn, error)
	onMessage func(guest.Message)
	done      chan struct{}

	mu   sync.Mutex
	conn net.Conn
	next int64
	// waiting are the commands whose answers somebody waits for, by ID.
	waiting map[int64]*request
	// quiet: the next connection begins without a ping.
	quiet bool
	// resend is sent whenever a connection is made; nil sends nothing but a ping.
	resend *guest.Command
}

// channelOptions say how a channel begins.
type channelOptions struct{ Quiet bool }

// request is a command whose answer somebody waits for.
type request struct {
	command guest.Command
	answer  chan guest.Message
}

// newChannel begins to connect, and asks the guest for its last event, unless this
// is to be quiet at first. onMessage is called from one goroutine, in
// order. done is closed after ctx has ended and all that was received has been handed over.
func newChannel(ctx context.Context, dial func(context.Context) (net.Conn, error), onMessage func(guest.Message), o channelOptions) *channel {
	c := &channel{
		dial: dial, onMessage: onMessage, done: make(chan struct{}), waiting: map[int64]*request{},
		// What a guest still has to say to an earlier host must not answer this one.
		next: time.Now().UnixNano(), quiet: o.Quiet,
	}
	go c.run(ctx)
	return c
}

func (c *channel) run(ctx context.Context) {
	defer close(c.done)
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if conn, err := c.dial(ctx); err == nil {
			if c.serve(ctx, conn) > 0 {
				wait = 20 * time.Millisecond
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// serve reads one connection to its end and returns how many messages came.
func (c *channel) serve(ctx context.Context, conn net.Conn) int {
	stop := context.AfterFunc(ctx, func() {
		// QEMU has ended: what it sent before is still to be read, nothing more comes.
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	})
	defer stop()
	defer conn.Close()
	c.mu.Lock()
	c.conn = conn
	var err error
	if !c.quiet {
		err = c.write(guest.Command{Verb: guest.VerbPing})
	}
	c.quiet = false
	if err == nil && c.resend != nil {
		err = c.write(*c.resend)
	}
	for _, id := range slices.Sorted(maps.Keys(c.waiting)) {
		if err == nil {
			err = c.write(c.waiting[id].command)
		}
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.conn = nil
		c.mu.Unlock()
	}()
	if err != nil {
		return 0
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 0, 512), guest.MaxLine)
	count := 0
	begin := time.Now()
	for read := 1; lines.Scan(); read++ {
		if read%channelBurst == 0 {
			// A guest that never stops talking is read slowly, and waits itself.
			if wait := channelWindow - time.Since(begin); wait > 0 {
				select {
				case <-ctx.Done():
				case <-time.After(wait):
				}
			}
			begin = time.Now()
		}
		var m guest.Message
		if json.Unmarshal(lines.Bytes(), &m) != nil || m.Event == "" {
			continue // half a line from before this connection, or a guest that babbles
		}
		count++
		if m.Event == guest.EventDone {
			c.answered(m)
		}
		c.onMessage(m)
	}
	return count
}

// keepSending sends the command now, or as soon as there is a connection, and
// again after each reconnection.
func (c *channel) keepSending(command guest.Command) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resend = &command
	if c.conn != nil {
		_ = c.write(command) // a broken connection is made anew, and resend with it
	}
}

// errUnknownVerb: the guest's init is older than what was asked.
var errUnknownVerb = errors.New("the guest's init is too old for that")

// ask sends the command now, or as soon as there is a connection and again where
// that breaks, and waits for the guest's answer. The error is the guest's own word
// (errUnknownVerb among them), ctx's end, or the machine's.
func (c *channel) ask(ctx context.Context, command guest.Command) error {
	r := &request{command: command, answer: make(chan guest.Message, 1)}
	c.mu.Lock()
	c.next++
	id := c.next
	r.command.ID = id
	c.waiting[id] = r
	if c.conn != nil {
		_ = c.write(r.command) // a broken connection is made anew, and this sent with it
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	select {
	case m := <-r.answer:
		switch {
		case strings.HasPrefix(m.Error, guest.UnknownVerb):
			return fmt.Errorf("asking the guest to %s: %w", command.Verb, errUnknownVerb)
		case m.Error != "":
			return fmt.Errorf("asking the guest to %s: it says: %s", command.Verb, m.Error)
		}
		return nil
	case <-c.done:
		return fmt.Errorf("asking the guest to %s: its machine has ended", command.Verb)
	case <-ctx.Done():
		return fmt.Errorf("asking the guest to %s: it has not answered: %w", command.Verb, ctx.Err())
	}
}

func (c *channel) answered(m guest.Message) {
	c.mu.Lock()
	r := c.waiting[m.ID]
	c.mu.Unlock()
	if r != nil {
		select {
		case r.answer <- m:
		default: // a second answer to one command
		}
	}
}

// write sends under c.mu.
func (c *channel) write(command guest.Command) error {
	if command.ID == 0 {
		c.next++
		command.ID = c.next
	}
	line, err := json.Marshal(command)
	if err != nil {
		return fmt.Errorf("encoding a command to the guest: %w", err)
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(channelWriteTimeout)); err != nil {
		return fmt.Errorf("sending %s to the guest: %w", command.Verb, err)
	}
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("sending %s to the guest: %w", command.Verb, err)
	}
	return nil
}
