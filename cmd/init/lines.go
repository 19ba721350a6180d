package main

import (
	"bytes"

	"dormouse/internal/guest"
)

// lineReader cuts a stream into lines of at most guest.MaxLine bytes.
type lineReader struct {
	buf []byte
	// skipping: the current line is too long; what is left of it is dropped.
	skipping bool
}

// feed takes what was read and calls line for each line that is complete, without
// its end. A line that is too long is reported once, as nil.
func (l *lineReader) feed(p []byte, line func([]byte)) {
	for len(p) > 0 {
		rest, after, ended := bytes.Cut(p, []byte("\n"))
		p = after
		if !l.skipping && len(l.buf)+len(rest) > guest.MaxLine {
			l.buf, l.skipping = nil, true
			line(nil)
		}
		if !l.skipping {
			l.buf = append(l.buf, rest...)
		}
		if !ended {
			return
		}
		if !l.skipping && len(l.buf) > 0 {
			line(l.buf)
		}
		l.buf, l.skipping = nil, false
	}
}

// reset forgets half a line: its other half went with the host that sent it.
func (l *lineReader) reset() { *l = lineReader{} }

// outboxLines is how many messages wait for a host at most: more than a crash
// loop or a slow host's commands make, little memory.
const outboxLines = 64

// outbox holds the lines that no host has taken yet.
type outbox struct {
	lines [][]byte
	// begun: part of the first line has been written, so it must be finished.
	begun bool
}

// push appends a line and drops the oldest one that is not begun where there are
// too many: the latest events say most.
func (o *outbox) push(line []byte) {
	if len(o.lines) == outboxLines {
		at := 0
		if o.begun {
			at = 1
		}
		o.lines = append(o.lines[:at], o.lines[at+1:]...)
	}
	o.lines = append(o.lines, line)
}

// flush writes lines until write takes no more: it returns how many bytes it took.
func (o *outbox) flush(write func([]byte) int) {
	for len(o.lines) > 0 {
		n := write(o.lines[0])
		if n <= 0 {
			return
		}
		if n < len(o.lines[0]) {
			o.lines[0], o.begun = o.lines[0][n:], true
			continue
		}
		o.lines, o.begun = o.lines[1:], false
	}
}

func (o *outbox) empty() bool { return len(o.lines) == 0 }
