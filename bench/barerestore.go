package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"time"

	"dormouse/internal/provider/kvm/qmp"
)

// The names of what a machine was saved to, beside the "ram" and the "volume"
// that it runs on.
const (
	savedRAM, savedVolume, savedState = "saved.ram", "saved.volume", "saved.state"
	packedRAM, packedState            = "packed.ram.zst", "packed.state.zst"
)

// settleTime is how long a guest that has answered is left alone before it is
// saved, so that what its boot still has to do is not done after each restore.
const settleTime = 3 * time.Second

// restorePatience bounds one restore.
const restorePatience = time.Minute

// sleeping is a machine that was saved without us.
type sleeping struct {
	r *recipe
	// from has the files.
	from *place
}

// save boots a machine and saves it as QEMU's own means allow: its memory is its
// file, and all else goes to another one.
func (r *recipe) save(ctx context.Context, p *place) (*sleeping, error) {
	m, _, err := r.boot(ctx, p)
	if err != nil {
		return nil, err
	}
	err = pause(ctx, settleTime)
	if err == nil {
		err = m.save(ctx, p.path(savedState))
	}
	if err := errors.Join(err, m.end()); err != nil {
		return nil, fmt.Errorf("saving without us: %w", err)
	}
	for from, to := range map[string]string{"ram": savedRAM, "volume": savedVolume} {
		if err := os.Rename(p.path(from), p.path(to)); err != nil {
			return nil, err
		}
	}
	return &sleeping{r: r, from: p}, nil
}

// monitor is QEMU's own control, with the ends of migrations.
type monitor struct {
	*qmp.Client
	ends chan string
}

func (m *bare) monitor(ctx context.Context) (monitor, error) {
	conn, err := net.Dial("unix", m.path("qmp.sock"))
	if err != nil {
		return monitor{}, err
	}
	ends := make(chan string, 8)
	c, err := qmp.New(ctx, conn, func(e qmp.Event) {
		var data struct{ Status string }
		if e.Name == "MIGRATION" && json.Unmarshal(e.Data, &data) == nil && (data.Status == "completed" || data.Status == "failed") {
			ends <- data.Status
		}
	})
	return monitor{c, ends}, err
}

// migrate runs the commands that save or load a state without the memory, and waits for the end.
func (c monitor) migrate(ctx context.Context, commands func() error) error {
	type capability struct {
		Capability string `json:"capability"`
		State      bool   `json:"state"`
	}
	err := c.Execute(ctx, "migrate-set-capabilities", map[string]any{"capabilities": []capability{{"x-ignore-shared", true}, {"events", true}}}, nil)
	if err == nil {
		err = commands()
	}
	if err != nil {
		return err
	}
	select {
	case status := <-c.ends:
		if status != "completed" {
			return fmt.Errorf("the migration has %s", status)
		}
		return nil
	case <-c.Done():
		return errors.New("QEMU has ended")
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *bare) save(ctx context.Context, path string) error {
	c, err := m.monitor(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	state, err := os.Create(path)
	if err != nil {
		return err
	}
	defer state.Close()
	if err := c.Execute(ctx, "stop", nil, nil); err != nil {
		return err
	}
	err = c.migrate(ctx, func() error {
		err := c.Execute(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": 1 << 40}, nil)
		if err == nil {
			err = c.ExecuteWith(ctx, state, "getfd", map[string]any{"fdname": "state"}, nil)
		}
		if err == nil {
			err = c.Execute(ctx, "migrate", map[string]any{"uri": "fd:state"}, nil)
		}
		return err
	})
	return errors.Join(err, state.Sync())
}

// pack makes of what was saved once what a packed sleeper is.
func (s *sleeping) pack(ctx context.Context) error {
	for from, to := range map[string]string{savedRAM: packedRAM, savedState: packedState} {
		if out, err := exec.CommandContext(ctx, "zstd", "-q", "-f", "-1", s.from.path(from), "-o", s.from.path(to)).CombinedOutput(); err != nil {
			return fmt.Errorf("packing %s with zstd: %w: %s", from, err, out)
		}
	}
	return nil
}

// furnish copies what was saved into a place, for one restore.
func (s *sleeping) furnish(p *place, packed bool) error {
	names := map[string]string{savedVolume: "volume"}
	if packed {
		if p != s.from { // there they are, and are only read
			names[packedRAM], names[packedState] = packedRAM, packedState
		}
		for _, name := range []string{"ram", "state"} { // of the restore before
			if err := os.Remove(p.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	} else {
		names[savedRAM], names[savedState] = "ram", "state"
	}
	for from, to := range names {
		if err := copySparse(s.from.path(from), p.path(to)); err != nil {
			return err
		}
		if err := syncFile(p.path(to)); err != nil {
			return err
		}
	}
	if packed {
		return nil
	}
	return s.r.allocate(p.path("ram"))
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// bareTimes is how long a machine took without us: until its first answer, and of
// that until its guest ran, where it was not booted.
type bareTimes struct{ total, restore time.Duration }

// restore lets a machine go on in a place that was furnished, until the first
// byte of its answer, and ends it. The time is all but the furnishing and the network's port.
func (s *sleeping) restore(ctx context.Context, p *place, packed bool) (t bareTimes, err error) {
	ctx, cancel := context.WithTimeout(ctx, restorePatience)
	defer cancel()
	var unpacking time.Duration
	if packed {
		begin := time.Now()
		if err := s.unpack(ctx, p); err != nil {
			return t, err
		}
		unpacking = time.Since(begin)
	}
	m, err := s.goOn(ctx, p)
	if err != nil {
		return t, err
	}
	return bareTimes{total: unpacking + m.answered.Sub(m.began), restore: unpacking + m.ran.Sub(m.began)}, m.end()
}

// goOn lets a machine go on in a place that was furnished, until the first byte of its answer.
func (s *sleeping) goOn(ctx context.Context, p *place) (*bare, error) {
	state, err := os.Open(p.path("state"))
	if err != nil {
		return nil, err
	}
	defer state.Close()
	m, number, err := s.r.start(ctx, p, state)
	if err != nil {
		return nil, err
	}
	if err = m.load(ctx, number); err == nil {
		m.answered, err = firstByte(ctx, "guest", m.dial)
	}
	if err != nil {
		return nil, errors.Join(m.failed(err), m.end())
	}
	return m, nil
}

func (s *sleeping) unpack(ctx context.Context, p *place) error {
	for from, to := range map[string]string{packedRAM: "ram", packedState: "state"} {
		if out, err := exec.CommandContext(ctx, "zstd", "-q", "-f", "-d", p.path(from), "-o", p.path(to)).CombinedOutput(); err != nil {
			return fmt.Errorf("unpacking with zstd: %w: %s", err, out)
		}
	}
	return os.Chown(p.path("ram"), s.r.uid, s.r.uid)
}

// load has QEMU load the state and let the guest run.
func (m *bare) load(ctx context.Context, state int) error {
	c, err := m.monitor(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	err = c.migrate(ctx, func() error {
		return c.Execute(ctx, "migrate-incoming", map[string]any{"uri": fmt.Sprintf("fd:%d", state)}, nil)
	})
	if err != nil {
		return err
	}
	err = c.Execute(ctx, "cont", nil, nil)
	m.ran = time.Now()
	return err
}

// firstByte asks once, and returns when the first byte of an answer was there,
// which must be a 200.
func firstByte(ctx context.Context, host string, dial func(context.Context) (net.Conn, error)) (time.Time, error) {
	conn, err := dial(ctx)
	if err != nil {
		return time.Time{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(restorePatience)); err != nil {
		return time.Time{}, err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", healthPath, host); err != nil {
		return time.Time{}, err
	}
	r := bufio.NewReader(conn)
	if _, err := r.Peek(1); err != nil {
		return time.Time{}, fmt.Errorf("waiting for the first byte: %w", err)
	}
	at := time.Now()
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		return at, err
	}
	if answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %d (Retry-After %q)", host, answer.StatusCode, answer.Header.Get("Retry-After"))
	}
	return at, errors.Join(err, answer.Body.Close())
}
