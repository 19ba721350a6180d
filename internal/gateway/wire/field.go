package wire

import (
	"bytes"
	"strings"
)

// A field of a head. Its slices point into the buffer that the head was read to.
type field struct {
	name, value []byte
	kind        kind
}

// kind is what a field means to a proxy.
type kind uint8

const (
	kindOther      kind = iota // passed on
	kindHop                    // meant for the next hop alone (RFC 9110, 7.6.1), or named by Connection
	kindForwarded              // says who the client is: ours to say
	kindHost                   // the rest is read, and written anew
	kindLength                 // Content-Length
	kindCoding                 // Transfer-Encoding
	kindConnection             // Connection
	kindUpgrade                // Upgrade
	kindExpect                 // Expect
	kindTE                     // TE
	kindTrailer                // Trailer
	kindContent                // not to be changed by a trailer
)

// tokens maps each character of a token (RFC 9110, 5.6.2) to its lower case, and others to 0.
var tokens = func() (table [256]byte) {
	for _, c := range "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz" {
		table[c] = byte(c)
	}
	for c := byte('A'); c <= 'Z'; c++ {
		table[c] = c | 0x20
	}
	return table
}()

func isToken(p []byte) bool {
	for _, c := range p {
		if tokens[c] == 0 {
			return false
		}
	}
	return len(p) > 0
}

// longestKnown is the longest name that classify knows, besides prefixes.
const longestKnown = 24

// classify returns what a name in lower case means. Programs behind a CGI-like
// interface do not tell _ from -: such a name is not passed on where the other is ours.
func classify(name []byte) kind {
	if len(name) > longestKnown {
		if bytes.HasPrefix(name, []byte("x-forwarded-")) {
			return kindForwarded
		}
		return kindOther
	}
	switch string(name) {
	case "host":
		return kindHost
	case "content-length":
		return kindLength
	case "transfer-encoding":
		return kindCoding
	case "connection":
		return kindConnection
	case "upgrade":
		return kindUpgrade
	case "expect":
		return kindExpect
	case "te":
		return kindTE
	case "trailer":
		return kindTrailer
	case "keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate", "http2-settings":
		return kindHop
	case "forwarded", "x-real-ip", "proxy":
		return kindForwarded
	case "authorization", "cookie", "set-cookie", "cache-control", "content-encoding", "content-type",
		"content-range", "max-forwards", "range", "age", "date", "location", "vary", "www-authenticate":
		return kindContent
	}
	if bytes.HasPrefix(name, []byte("x-forwarded-")) {
		return kindForwarded
	}
	return kindOther
}

// parseName returns the length of the token that a line begins with, and its kind.
func parseName(line []byte) (int, kind) {
	var lower [longestKnown + 1]byte
	underscore := false
	for i, c := range line {
		l := tokens[c]
		if l == 0 {
			known := classify(lower[:min(i, len(lower))])
			if underscore && known != kindOther && known != kindContent {
				known = kindForwarded
			}
			return i, known
		}
		if l == '_' {
			underscore, l = true, '-'
		}
		if i < len(lower) {
			lower[i] = l
		}
	}
	return len(line), kindOther
}

// badInValue reports characters that no field value has (RFC 9110, 5.5).
func badInValue(value []byte) bool {
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return true
		}
	}
	return false
}

func trimSpace(p []byte) []byte {
	for len(p) > 0 && (p[0] == ' ' || p[0] == '\t') {
		p = p[1:]
	}
	for len(p) > 0 && (p[len(p)-1] == ' ' || p[len(p)-1] == '\t') {
		p = p[:len(p)-1]
	}
	return p
}

// A syntax error is the fault of who sent the message.
type syntaxError struct {
	status int
	reason string
}

func (e *syntaxError) Error() string { return e.reason }

func malformed(reason string) error { return &syntaxError{status: 400, reason: reason} }

// cutLine cuts off the first line, which ends with CR LF.
func cutLine(p []byte) (line, rest []byte, err error) {
	i := bytes.IndexByte(p, '\n')
	if i < 1 || p[i-1] != '\r' {
		return nil, nil, malformed("a line does not end with CR LF")
	}
	return p[:i-1], p[i+1:], nil
}

// parseFields appends the fields of a head's or a trailer's lines up to the empty one.
func parseFields(p []byte, fields []field, limit int) ([]field, error) {
	for {
		line, rest, err := cutLine(p)
		if err != nil {
			return fields, err
		}
		p = rest
		if len(line) == 0 {
			return fields, nil
		}
		n, known := parseName(line)
		if n == 0 || n == len(line) || line[n] != ':' {
			return fields, malformed("a field's name is not followed by a colon, or not a name")
		}
		value := trimSpace(line[n+1:])
		if badInValue(value) {
			return fields, malformed("a field's value has a control character")
		}
		if len(fields) == limit {
			return fields, &syntaxError{status: 431, reason: "too many fields"}
		}
		fields = append(fields, field{name: line[:n], value: value, kind: known})
	}
}

// nextOption returns the first element of a list, and the rest.
func nextOption(list []byte) (option, rest []byte) {
	option, rest, _ = bytes.Cut(list, []byte{','})
	return trimSpace(option), rest
}

// maxOptions bounds what a Connection field names: each is looked for among all fields.
const maxOptions = 32

// dropNamed marks the fields that a Connection field names.
func dropNamed(fields []field, list []byte) error {
	if bytes.Count(list, []byte{','}) >= maxOptions {
		return malformed("Connection names too much")
	}
	for len(list) > 0 {
		var option []byte
		option, list = nextOption(list)
		for i := range fields {
			// Fields that frame the message are read in any case.
			if f := &fields[i]; f.kind != kindLength && f.kind != kindCoding && f.kind != kindConnection &&
				f.kind != kindUpgrade && f.kind != kindHost && f.kind != kindTE && bytes.EqualFold(f.name, option) {
				f.kind = kindHop
			}
		}
	}
	return nil
}

// hasOption reports whether a list has an element, in any case of letters.
func hasOption(list []byte, name string) bool {
	for len(list) > 0 {
		var option []byte
		option, list = nextOption(list)
		if equalFold(option, name) {
			return true
		}
	}
	return false
}

// equalFold compares with a name in lower case.
func equalFold(p []byte, lower string) bool {
	if len(p) != len(lower) {
		return false
	}
	for i, c := range p {
		if tokens[c] != lower[i] {
			return false
		}
	}
	return true
}

// lookUp returns the first value of a field.
func lookUp(fields []field, name string) string {
	for i := range fields {
		if len(fields[i].name) == len(name) && strings.EqualFold(string(fields[i].name), name) {
			return string(fields[i].value)
		}
	}
	return ""
}

func appendField(p []byte, name, value []byte) []byte {
	p = append(p, name...)
	p = append(p, ": "...)
	p = append(p, value...)
	return append(p, "\r\n"...)
}

// parseLength reads a Content-Length.
func parseLength(p []byte) (int64, bool) {
	if len(p) == 0 || len(p) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range p {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// headEnd looks for the empty line that ends a head, from a position on; it
// returns where what follows begins, or -1 and where to go on looking. A lone LF
// ends a line here, so that it is refused at once.
func headEnd(p []byte, from int) (end, next int) {
	for {
		i := bytes.IndexByte(p[from:], '\n')
		if i < 0 {
			return -1, from
		}
		i += from
		switch after := p[i+1:]; {
		case len(after) > 0 && after[0] == '\n':
			return i + 2, 0
		case len(after) > 1 && after[0] == '\r' && after[1] == '\n':
			return i + 3, 0
		case len(after) < 2:
			return -1, i
		}
		from = i + 1
	}
}
