package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// steers tells whether a character could steer a terminal or disguise text:
// controls (C0, DEL, C1), line and paragraph separators, and what changes the direction of writing.
func steers(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// clean makes text safe to show on one line: what could steer a terminal is
// written as Go writes it, such as \x1b and \n.
func clean(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, steers) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteByte(' ')
		case !steers(r):
			b.WriteRune(r)
		case r <= 0xff:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// escapeControls escapes in a JSON document what JSON itself lets stand: DEL,
// C1 controls and the characters that change the direction of writing.
func escapeControls(document []byte) []byte {
	unsafe := func(r rune) bool { return r >= 0x7f && steers(r) }
	if !bytes.ContainsFunc(document, unsafe) {
		return document
	}
	var b bytes.Buffer
	for _, r := range string(document) {
		if unsafe(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.Bytes()
}

// stripper takes out of a stream what could steer a terminal: whole escape
// sequences (ECMA-48: CSI, OSC and the other strings, two-character ones) and
// control characters but for the line feed and the tab. A sequence may be
// split over several writes.
type stripper struct {
	w     io.Writer
	state stripState
	// part is the beginning of a character whose rest is yet to come.
	part []byte
}

type stripState int

const (
	stripText   stripState = iota
	stripEscape            // after ESC
	stripCSI               // after ESC [
	stripString            // inside OSC, DCS, SOS, PM, APC: up to BEL or ST
	stripStringEscape
)

// Write implements io.Writer.
func (s *stripper) Write(p []byte) (int, error) {
	in := append(s.part, p...)
	s.part = nil
	out := make([]byte, 0, len(in))
	for len(in) > 0 {
		if !utf8.FullRune(in) {
			s.part = bytes.Clone(in)
			break
		}
		r, size := utf8.DecodeRune(in)
		in = in[size:]
		if s.keep(r) {
			out = utf8.AppendRune(out, r)
		}
	}
	if _, err := s.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// keep moves the state on by one character and tells whether it is shown.
func (s *stripper) keep(r rune) bool {
	const escape = 0x1b
	switch s.state {
	case stripEscape:
		s.state = afterEscape(r)
		return r == '\n'
	case stripCSI:
		switch {
		case r == escape:
			s.state = stripEscape
		case r < 0x20 || r > 0x3f: // a final byte, or something that breaks the sequence off
			s.state = stripText
			return r == '\n'
		}
		return false
	case stripStringEscape:
		if s.state = stripString; r == '\\' {
			s.state = stripText
		}
		return false
	case stripString:
		switch r {
		case escape:
			s.state = stripStringEscape
		case 0x07, 0x9c:
			s.state = stripText
		case '\n': // no such string has one: a guest that died in the middle must not swallow the rest
			s.state = stripText
			return true
		}
		return false
	}
	switch r {
	case '\n', '\t':
		return true
	case escape:
		s.state = stripEscape
	case 0x9b:
		s.state = stripCSI
	case 0x90, 0x98, 0x9d, 0x9e, 0x9f:
		s.state = stripString
	}
	return !steers(r)
}

func afterEscape(r rune) stripState {
	switch {
	case r == '[':
		return stripCSI
	case strings.ContainsRune("]PX^_", r):
		return stripString
	case r == 0x1b, r >= 0x20 && r <= 0x2f: // intermediate bytes: one more follows
		return stripEscape
	}
	return stripText
}
