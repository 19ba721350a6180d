package wire

import (
	"bytes"
	"errors"
	"strconv"
)

// response is the head of an instance's answer. Its slices point into the buffer it was read to.
type response struct {
	status  int
	reason  []byte
	fields  []field
	minor   int
	length  int64 // -1 where it is not said
	chunked bool
	upgrade []byte
	// close: the connection ends with this answer.
	close bool
}

// parse reads a whole head (RFC 9112).
func (r *response) parse(head []byte, maxFields int) error {
	*r = response{fields: r.fields[:0], length: -1}
	line, rest, err := cutLine(head)
	if err != nil {
		return err
	}
	// HTTP/1.1 200 OK; some leave out the blank before an empty reason.
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) || line[7] != '0' && line[7] != '1' || line[8] != ' ' ||
		len(line) > 12 && line[12] != ' ' {
		return errors.New("not a status line")
	}
	r.minor = int(line[7] - '0')
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return errors.New("not a status line")
		}
		r.status = r.status*10 + int(c-'0')
	}
	if len(line) > 13 {
		r.reason = line[13:]
	}
	if r.status < 100 || badInValue(r.reason) {
		return errors.New("not a status line")
	}
	if r.fields, err = parseFields(rest, r.fields, maxFields); err != nil {
		return err
	}
	r.close = r.minor == 0
	for i := range r.fields {
		f := &r.fields[i]
		switch f.kind {
		case kindLength:
			n, ok := parseLength(f.value)
			if !ok || r.length >= 0 && r.length != n {
				return errors.New("Content-Length is not one number")
			}
			r.length = n
		case kindCoding:
			if r.chunked || !equalFold(f.value, "chunked") {
				return errors.New("the only transfer coding is chunked")
			}
			r.chunked = true
		case kindConnection:
			if err := dropNamed(r.fields, f.value); err != nil {
				return err
			}
			if hasOption(f.value, "close") {
				r.close = true
			} else if hasOption(f.value, "keep-alive") {
				r.close = false
			}
		case kindUpgrade:
			r.upgrade = f.value
		}
	}
	if r.chunked && (r.length >= 0 || r.minor == 0) {
		return errors.New("both Content-Length and Transfer-Encoding, or HTTP/1.0 with the latter")
	}
	return nil
}

// bodyless reports answers that have no body whatever their fields say (RFC 9112, 6.3).
func (r *response) bodyless(method string) bool {
	return method == "HEAD" || r.status < 200 || r.status == 204 || r.status == 304
}

// passes reports fields that the client gets as they are.
func (f *field) passes() bool {
	return f.kind == kindOther || f.kind == kindContent || f.kind == kindForwarded || f.kind == kindExpect
}

// appendLine writes a status line and the fields that pass, without the empty line.
func (r *response) appendLine(p []byte) []byte {
	p = append(p, "HTTP/1.1 "...)
	p = strconv.AppendInt(p, int64(r.status), 10)
	p = append(p, ' ')
	p = append(p, r.reason...)
	p = append(p, "\r\n"...)
	for i := range r.fields {
		if f := &r.fields[i]; f.passes() {
			p = appendField(p, f.name, f.value)
		}
	}
	return p
}
