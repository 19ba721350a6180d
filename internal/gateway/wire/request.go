package wire

import (
	"bytes"
	"strconv"
)

// request is the head of a request. Its slices point into the buffer it was read to.
type request struct {
	method, target, host []byte
	// path is target in origin form, or * (RFC 9112, 3.2).
	path   []byte
	fields []field
	minor  int // of HTTP/1.x
	// length is the body's; -1 where there is none, or it is chunked.
	length  int64
	chunked bool
	// upgrade is the protocol asked for; nil for none that is passed on.
	upgrade []byte
	// close: the client wants the connection closed. keep: one of HTTP/1.0 wants it kept.
	close, keep bool
	// expect: the client waits for 100 Continue before it sends the body.
	expect bool
	// trailers: the client takes trailers.
	trailers bool
}

// parse reads a whole head (RFC 9112), strictly: what two programs could
// understand in two ways is refused.
func (r *request) parse(head []byte, maxFields int) error {
	*r = request{fields: r.fields[:0], length: -1}
	line, rest, err := cutLine(head)
	if err != nil {
		return err
	}
	if err := r.parseLine(line); err != nil {
		return err
	}
	if r.fields, err = parseFields(rest, r.fields, maxFields); err != nil {
		return err
	}
	hosts := 0
	var upgrade []byte
	asked, unknownCoding := false, false
	for i := range r.fields {
		f := &r.fields[i]
		switch f.kind {
		case kindHost:
			hosts++
			if r.host == nil {
				r.host = f.value
			} else if !bytes.EqualFold(r.host, f.value) {
				return malformed("Host differs from the host of the target")
			}
		case kindLength:
			if r.length >= 0 {
				return malformed("more than one Content-Length")
			}
			var ok bool
			if r.length, ok = parseLength(f.value); !ok {
				return malformed("Content-Length is not a number")
			}
		case kindCoding:
			if r.chunked || unknownCoding {
				return malformed("more than one Transfer-Encoding")
			}
			r.chunked = equalFold(f.value, "chunked")
			unknownCoding = !r.chunked
			if unknownCoding && !isToken(f.value) {
				return malformed("Transfer-Encoding is not chunked")
			}
		case kindConnection:
			if err := dropNamed(r.fields, f.value); err != nil {
				return err
			}
			r.close = r.close || hasOption(f.value, "close")
			r.keep = r.keep || hasOption(f.value, "keep-alive")
			asked = asked || hasOption(f.value, "upgrade")
		case kindUpgrade:
			if upgrade != nil {
				return malformed("more than one Upgrade")
			}
			upgrade = f.value
		case kindExpect:
			if !equalFold(f.value, "100-continue") {
				return &syntaxError{status: 417, reason: "only 100-continue can be expected"}
			}
			r.expect = r.minor == 1
		case kindTE:
			r.trailers = r.trailers || hasOption(f.value, "trailers")
		}
	}
	switch {
	case hosts != 1 || !validHost(r.host):
		return malformed("there must be one Host, with a valid name")
	case (r.chunked || unknownCoding) && r.length >= 0:
		return malformed("both Content-Length and Transfer-Encoding")
	case (r.chunked || unknownCoding) && r.minor == 0:
		return malformed("HTTP/1.0 has no Transfer-Encoding")
	case unknownCoding:
		return &syntaxError{status: 501, reason: "the only transfer coding is chunked"}
	case string(r.method) == "CONNECT":
		return &syntaxError{status: 405, reason: "this is no forward proxy"}
	}
	r.expect = r.expect && (r.chunked || r.length > 0)
	// HTTP/2 is spoken after its preface, or over TLS; with a body, nobody can
	// say where the other protocol begins.
	if asked && upgrade != nil && r.minor == 1 && !r.chunked && r.length <= 0 &&
		!hasOption(upgrade, "h2c") && !hasOption(upgrade, "h2") && !bytes.HasPrefix(bytes.ToLower(upgrade), []byte("http/")) {
		r.upgrade = upgrade
	}
	return nil
}

func (r *request) parseLine(line []byte) error {
	method, rest, _ := bytes.Cut(line, []byte{' '})
	target, version, found := bytes.Cut(rest, []byte{' '})
	switch {
	case !found || len(method) > 32 || !isToken(method) || len(target) == 0:
		return malformed("not a request line")
	case string(version) == "HTTP/1.1":
		r.minor = 1
	case string(version) == "HTTP/1.0":
	case len(version) == 8 && bytes.HasPrefix(version, []byte("HTTP/")) && version[6] == '.' && version[5] >= '2' && version[5] <= '9' && version[7] >= '0' && version[7] <= '9':
		return &syntaxError{status: 505, reason: "not a version that is spoken here"}
	default:
		return malformed("not a version of HTTP")
	}
	// Only what can be printed: some programs split the line at other blanks.
	for _, c := range target {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return malformed("the target has a character that must be encoded")
		}
	}
	r.method, r.target = method, target
	switch {
	case target[0] == '/':
		r.path = target
	case string(method) == "CONNECT":
	case len(target) == 1 && target[0] == '*':
		if string(method) != "OPTIONS" {
			return malformed("only OPTIONS has the target *")
		}
		r.path = target
	default:
		return r.parseAbsolute(target)
	}
	return nil
}

// parseAbsolute reads a target in absolute form.
func (r *request) parseAbsolute(target []byte) error {
	scheme, rest, found := bytes.Cut(target, []byte("://"))
	if !found || !equalFold(scheme, "http") && !equalFold(scheme, "https") {
		return malformed("not a target")
	}
	end := bytes.IndexAny(rest, "/?")
	switch {
	case end < 0 && string(r.method) == "OPTIONS":
		r.host, r.path = rest, []byte("*")
	case end < 0:
		r.host, r.path = rest, []byte("/")
	case rest[end] == '?':
		r.host, r.path = rest[:end], append([]byte{'/'}, rest[end:]...)
	default:
		r.host, r.path = rest[:end], rest[end:]
	}
	r.target = r.path
	return nil
}

// validHost takes names, IPv4 addresses and IPv6 ones in brackets, with or without a port.
func validHost(host []byte) bool {
	if len(host) == 0 || len(host) > 255+6 {
		return false
	}
	end := 0
	if host[0] == '[' {
		for end = 1; end < len(host) && host[end] != ']'; end++ {
			c := host[end] | 0x20
			if (c < 'a' || c > 'f') && (host[end] < '0' || host[end] > ':') && host[end] != '.' {
				return false
			}
		}
		end++
		if end < 4 || end > len(host) {
			return false
		}
	} else {
		for end < len(host) && host[end] != ':' {
			c := tokens[host[end]]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
				return false
			}
			end++
		}
		if end == 0 {
			return false
		}
	}
	if end == len(host) {
		return true
	}
	if host[end] != ':' {
		return false
	}
	port, err := strconv.Atoi(string(host[end+1:]))
	return err == nil && port > 0 && port < 1<<16 && len(host)-end < 7 && host[end+1] != '+'
}

// keepAlive reports whether the client takes another answer on the connection.
func (r *request) keepAlive() bool {
	return !r.close && (r.minor == 1 || r.keep)
}

// safe: sending it twice does what sending it once does (RFC 9110, 9.2.1).
func safe(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// appendTo writes the request as the instance gets it. What frames it is
// written anew, never copied; so is who the client is.
func (r *request) appendTo(p []byte, client string, tls bool) []byte {
	p = append(p, r.method...)
	p = append(p, ' ')
	p = append(p, r.path...)
	p = append(p, " HTTP/1.1\r\nHost: "...)
	p = append(p, r.host...)
	p = append(p, "\r\n"...)
	for i := range r.fields {
		f := &r.fields[i]
		if f.kind == kindOther || f.kind == kindContent || f.kind == kindTrailer && r.chunked {
			p = appendField(p, f.name, f.value)
		}
	}
	p = append(p, "X-Forwarded-For: "...)
	p = append(p, client...)
	p = append(p, "\r\nX-Forwarded-Host: "...)
	p = append(p, r.host...)
	if tls {
		p = append(p, "\r\nX-Forwarded-Proto: https\r\n"...)
	} else {
		p = append(p, "\r\nX-Forwarded-Proto: http\r\n"...)
	}
	switch {
	case r.chunked:
		p = append(p, "Transfer-Encoding: chunked\r\n"...)
	case r.length >= 0:
		p = append(p, "Content-Length: "...)
		p = strconv.AppendInt(p, r.length, 10)
		p = append(p, "\r\n"...)
	}
	if r.expect {
		p = append(p, "Expect: 100-continue\r\n"...)
	}
	switch {
	case r.upgrade != nil:
		p = append(p, "Connection: Upgrade\r\nUpgrade: "...)
		p = append(p, r.upgrade...)
		p = append(p, "\r\n"...)
	case r.trailers:
		p = append(p, "Connection: TE\r\nTE: trailers\r\n"...)
	}
	return append(p, "\r\n"...)
}
