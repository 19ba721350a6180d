package sim

import (
	"context"
	"fmt"
	"io"
	"strings"

	"dormouse/internal/fleet"
)

// Console makes up a console log from what is known of the instance: its boot,
// its health and how it ended. Following goes on, silently, until ctx ends or
// the instance is on no more. KindNotFound if the instance is unknown.
func (p *Provider) Console(ctx context.Context, ref fleet.InstanceRef, options fleet.ConsoleOptions) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("reading the console of instance %s: %w", ref.ID, err)
	}
	p.mu.RLock()
	c := p.clusters[ref.ClusterID]
	p.mu.RUnlock()
	if c == nil {
		return nil, fleet.Errorf(fleet.KindNotFound, "reading the console: there is no cluster %s here", ref.ClusterID)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.instances[ref.ID]
	if in == nil {
		return nil, fleet.Errorf(fleet.KindNotFound, "reading the console: there is no instance %s", ref.ID)
	}
	lines := in.record.console()
	if n := options.TailLines; n > 0 && n < len(lines) {
		lines = lines[len(lines)-n:]
	}
	r := &console{text: strings.NewReader(strings.Join(lines, "")), ctx: ctx, closed: make(chan struct{})}
	if options.Follow {
		r.follow = func() <-chan struct{} { return c.watch(ref.ID) }
	}
	return r, nil
}

// console returns the lines of the made-up log.
func (r *record) console() []string {
	lines := []string{fmt.Sprintf("sim: boot %d of %s, image %s, %d MiB\n", r.Boots, r.Name, r.Image, r.MemoryMiB)}
	switch {
	case r.Power == fleet.PowerOn:
		lines = append(lines, fmt.Sprintf("sim: program started, %s\n", r.Health))
	case r.Exit != nil:
		for _, line := range r.Exit.LastLines {
			lines = append(lines, line+"\n")
		}
		lines = append(lines, fmt.Sprintf("sim: ended with exit code %d\n", r.Exit.Code))
	}
	return lines
}

// watch returns a channel that is closed when the instance changes; nil where
// it does not run.
func (c *cluster) watch(id fleet.InstanceID) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := c.instances[id]
	if in == nil || in.Power == fleet.PowerOff || c.closed {
		return nil
	}
	if in.changed == nil {
		in.changed = make(chan struct{})
	}
	return in.changed
}

// console reads a made-up log.
type console struct {
	text   *strings.Reader
	ctx    context.Context // of the whole read, as of a request's body
	follow func() <-chan struct{}
	closed chan struct{}
}

// Read implements io.Reader.
func (r *console) Read(b []byte) (int, error) {
	if n, err := r.text.Read(b); err == nil || r.follow == nil {
		return n, err
	}
	for {
		changed := r.follow()
		if changed == nil {
			return 0, io.EOF
		}
		select {
		case <-changed:
		case <-r.ctx.Done():
			return 0, io.EOF
		case <-r.closed:
			return 0, io.EOF
		}
	}
}

// Close implements io.Closer; it is called once.
func (r *console) Close() error {
	close(r.closed)
	return nil
}
