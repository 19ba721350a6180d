package kvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// followInterval is how often a reader that follows looks for more.
const followInterval = 150 * time.Millisecond

// markerPrefix begins the line that is written to the console before each boot.
const markerPrefix = "dormouse: boot "

// consoleLog is the console of one instance: the file that QEMU appends to, and
// the part before it, which bound moved away. Together they hold the tail of
// all that was written, at most about max bytes.
//
// A position counts bytes since the log was opened here, so that readers find
// their place again after the file was cut.
type consoleLog struct {
	live, old string
	max       int64

	mu sync.Mutex
	// cut is the position at which the live file begins; kept is how many bytes before it are in old.
	cut, kept int64
	// told is the position that grew told of last; it tells again at next, gap later than before.
	told int64
	next time.Time
	gap  time.Duration
	gone chan struct{}
}

// newConsoleLog returns the log in dir, which may not exist yet.
func newConsoleLog(dir string, max int64) *consoleLog {
	c := &consoleLog{
		live: filepath.Join(dir, "console.log"), old: filepath.Join(dir, "console.old"),
		max: max, gone: make(chan struct{}),
	}
	if info, err := os.Stat(c.old); err == nil {
		c.kept = info.Size()
		c.cut = info.Size()
	}
	return c
}

// open returns the live file for QEMU to append to, after a line that marks a new
// boot; "" goes on with the last one.
func (c *consoleLog) open(marker string) (*os.File, error) {
	if err := c.bound(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(c.live, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the console log: %w", err)
	}
	if marker == "" {
		return f, nil
	}
	if _, err := f.WriteString("\n" + markerPrefix + marker + "\n"); err != nil {
		return nil, errors.Join(diskError("writing the console log", err), f.Close())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gap, c.next = 0, time.Time{}
	return f, nil
}

// Bounds on how often grew tells of one boot.
const (
	minGrewGap = 2 * time.Second
	maxGrewGap = time.Hour
)

// grew tells whether there is more than when it last said so. It does in ever longer
// intervals from the boot on: who reads the log then reads all of it.
func (c *consoleLog) grew(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.live)
	if err != nil || c.cut+info.Size() == c.told || now.Before(c.next) {
		return false
	}
	c.gap = min(max(2*c.gap, minGrewGap), maxGrewGap)
	c.told, c.next = c.cut+info.Size(), now.Add(c.gap)
	return true
}

// bound moves the live file away when it has grown past half of what is kept.
// QEMU appends, so it goes on at the beginning of the emptied file. What it
// writes in the microseconds between the last read and the cut is lost.
func (c *consoleLog) bound() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.live)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() <= c.max/2 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("bounding the console log: %w", err)
	}
	live, err := os.OpenFile(c.live, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("bounding the console log: %w", err)
	}
	defer live.Close()
	skip := max(0, info.Size()-c.max/2)
	temp := c.old + tempSuffix
	copied, err := copyTail(temp, live, skip)
	if err == nil {
		err = os.Rename(temp, c.old)
	}
	// The bound holds even where the disk is full and nothing can be kept.
	if err != nil {
		_ = os.Remove(temp)
		_ = os.Remove(c.old)
		copied, skip = 0, info.Size()
	}
	err = errors.Join(err, live.Truncate(0))
	c.cut += skip + copied
	c.kept = copied
	if err != nil {
		return fmt.Errorf("bounding the console log: %w", err)
	}
	return nil
}

func copyTail(path string, from *os.File, skip int64) (int64, error) {
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(to, io.NewSectionReader(from, skip, 1<<62-skip))
	return n, errors.Join(err, to.Close())
}

// readAt reads at a position and returns the position read up to, which jumps
// where the bytes asked for are no longer kept.
func (c *consoleLog) readAt(p []byte, pos int64) (n int, next int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pos = max(pos, c.cut-c.kept)
	path, offset := c.live, pos-c.cut
	if pos < c.cut {
		path, offset = c.old, pos-(c.cut-c.kept)
		p = p[:min(int64(len(p)), c.cut-pos)]
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, pos, io.EOF
	}
	if err != nil {
		return 0, pos, fmt.Errorf("reading the console log: %w", err)
	}
	defer f.Close()
	n, err = f.ReadAt(p, offset)
	if n > 0 {
		return n, pos + int64(n), nil
	}
	if pos < c.cut && errors.Is(err, io.EOF) {
		return 0, c.cut, nil // the old part is shorter than it was: go on with the live one
	}
	return 0, pos, err
}

// all returns everything that is kept and the position of its end.
func (c *consoleLog) all() ([]byte, int64, error) {
	var body bytes.Buffer
	var pos int64
	chunk := make([]byte, 64<<10)
	for {
		n, next, err := c.readAt(chunk, pos)
		body.Write(chunk[:n])
		pos = next
		if errors.Is(err, io.EOF) || int64(body.Len()) > 2*c.max {
			return body.Bytes(), pos, nil
		}
		if err != nil {
			return nil, 0, err
		}
	}
}

// lastBoot returns the lines of the last boot, without the line that marks it.
func (c *consoleLog) lastBoot() ([]string, error) {
	body, _, err := c.all()
	if err != nil {
		return nil, err
	}
	if i := bytes.LastIndex(body, []byte("\n"+markerPrefix)); i >= 0 {
		body = body[i+1:]
		if end := bytes.IndexByte(body, '\n'); end >= 0 {
			body = body[end+1:]
		}
	}
	var lines []string
	for line := range strings.SplitSeq(string(body), "\n") {
		if line = strings.TrimRight(line, "\r"); line != "" {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// close ends the readers that follow.
func (c *consoleLog) close() { close(c.gone) }

// consoleReader reads a console log from a position on.
type consoleReader struct {
	log    *consoleLog
	ctx    context.Context
	cancel context.CancelFunc
	pos    int64
	head   []byte
	follow bool
}

// reader returns the last tail lines (0: all that is kept), then what follows.
func (c *consoleLog) reader(ctx context.Context, tail int, follow bool) (io.ReadCloser, error) {
	body, pos, err := c.all()
	if err != nil {
		return nil, err
	}
	if tail > 0 {
		body = lastLines(body, tail)
	}
	ctx, cancel := context.WithCancel(ctx)
	return &consoleReader{log: c, ctx: ctx, cancel: cancel, pos: pos, head: body, follow: follow}, nil
}

func lastLines(body []byte, n int) []byte {
	end := len(body)
	if end > 0 && body[end-1] == '\n' {
		end--
	}
	for ; n > 0 && end >= 0; n-- {
		end = bytes.LastIndexByte(body[:max(end, 0)], '\n')
	}
	return body[end+1:]
}

// Read implements io.Reader. A reader that follows ends with io.EOF when the
// context has ended or the instance is gone.
func (r *consoleReader) Read(p []byte) (int, error) {
	if len(r.head) > 0 {
		n := copy(p, r.head)
		r.head = r.head[n:]
		return n, nil
	}
	if !r.follow || len(p) == 0 {
		return 0, io.EOF
	}
	for {
		n, next, err := r.log.readAt(p, r.pos)
		r.pos = next
		if n > 0 || err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		select {
		case <-r.ctx.Done():
			return 0, io.EOF
		case <-r.log.gone:
			return 0, io.EOF
		case <-time.After(followInterval):
		}
	}
}

// Close implements io.Closer and ends a Read under way.
func (r *consoleReader) Close() error {
	r.cancel()
	return nil
}
