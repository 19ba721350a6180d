package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrClosed says that the connection has ended: QEMU has gone, or Close was called.
var ErrClosed = errors.New("the QMP connection is closed")

// maxLine bounds one message from QEMU, in bytes.
const maxLine = 4 << 20

// writeTimeout bounds the sending of one command.
const writeTimeout = 5 * time.Second

// Event is something that QEMU tells unasked.
type Event struct {
	Name string
	// Data is the event's own object; may be empty.
	Data json.RawMessage
	At   time.Time
}

// Error is QEMU's refusal of a command.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// Error implements error.
func (e *Error) Error() string { return e.Desc }

// Client is one connection in command mode. Its methods may be called concurrently.
type Client struct {
	conn net.Conn
	done chan struct{}
	// writing serialises lines on the wire.
	writing sync.Mutex

	mu      sync.Mutex
	next    int64
	waiting map[int64]chan message
	err     error
}

type message struct {
	QMP       json.RawMessage `json:"QMP"`
	ID        int64           `json:"id"`
	Return    json.RawMessage `json:"return"`
	Error     *Error          `json:"error"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// New waits for QEMU's greeting on conn and leaves negotiation mode. The client
// owns conn, also when New fails. onEvent is called from the reading goroutine,
// in order, and must not block or call Execute; nil is allowed.
func New(ctx context.Context, conn net.Conn, onEvent func(Event)) (*Client, error) {
	c := &Client{conn: conn, done: make(chan struct{}), waiting: map[int64]chan message{}}
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	err := greet(lines)
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("waiting for QEMU's greeting: %w", err)
	}
	go c.read(lines, onEvent)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func greet(lines *bufio.Scanner) error {
	if !lines.Scan() {
		return errors.Join(ErrClosed, lines.Err())
	}
	var m message
	if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
		return err
	}
	if m.QMP == nil {
		return errors.New("the first message is no QMP greeting")
	}
	return nil
}

// Execute runs a command and decodes its answer into result (nil: not wanted).
// A refusal by QEMU is an *Error. When ctx ends first the answer is dropped, but
// QEMU may still carry the command out.
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	return c.ExecuteWith(ctx, nil, command, arguments, result)
}

// ExecuteWith runs a command that takes an open file (getfd), which QEMU gets a
// copy of; the connection must be a unix socket for that. Else it is Execute.
func (c *Client) ExecuteWith(ctx context.Context, file *os.File, command string, arguments, result any) error {
	answer := make(chan message, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return fmt.Errorf("running the QMP command %s: %w", command, c.err)
	}
	c.next++
	id := c.next
	c.waiting[id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	if err := c.send(id, file, command, arguments); err != nil {
		return fmt.Errorf("sending the QMP command %s: %w", command, err)
	}
	select {
	case m := <-answer:
		if m.Error != nil {
			return fmt.Errorf("running the QMP command %s: %w", command, m.Error)
		}
		if result == nil {
			return nil
		}
		if err := json.Unmarshal(m.Return, result); err != nil {
			return fmt.Errorf("decoding the answer to the QMP command %s: %w", command, err)
		}
		return nil
	case <-c.done:
		return fmt.Errorf("running the QMP command %s: %w", command, ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("running the QMP command %s: %w", command, ctx.Err())
	}
}

func (c *Client) send(id int64, file *os.File, command string, arguments any) error {
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int64  `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return errors.Join(ErrClosed, err)
	}
	line = append(line, '\n')
	if file == nil {
		_, err = c.conn.Write(line)
	} else {
		err = sendFile(c.conn, line, file)
	}
	if err != nil {
		return errors.Join(ErrClosed, err)
	}
	return nil
}

// sendFile sends a line with a descriptor (unix(7), SCM_RIGHTS).
func sendFile(conn net.Conn, line []byte, file *os.File) error {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("files can be sent over unix sockets only")
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := raw.Control(func(fd uintptr) {
		var n int
		if n, _, sent = socket.WriteMsgUnix(line, unix.UnixRights(int(fd)), nil); sent == nil && n < len(line) {
			_, sent = socket.Write(line[n:])
		}
	}); err != nil {
		return err
	}
	return sent
}

func (c *Client) read(lines *bufio.Scanner, onEvent func(Event)) {
	for lines.Scan() {
		var m message
		if json.Unmarshal(lines.Bytes(), &m) != nil {
			break // not QMP: the connection is of no use any more
		}
		if m.Event != "" {
			if onEvent != nil {
				at := time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000)
				onEvent(Event{Name: m.Event, Data: m.Data, At: at})
			}
			continue
		}
		c.mu.Lock()
		answer := c.waiting[m.ID]
		c.mu.Unlock()
		if answer != nil {
			select {
			case answer <- m:
			default: // a second answer to one command
			}
		}
	}
	c.mu.Lock()
	c.err = ErrClosed
	c.mu.Unlock()
	_ = c.conn.Close()
	close(c.done)
}

// Done is closed when the connection has ended; all events have been delivered by then.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection and leaves QEMU running.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
