package api

import (
	"encoding/json"
	"net/http"
	"sort"
	"strconv"
	"time"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fleet.Errorf(fleet.KindInternal, "encoding the answer: %w", err)
	}
	writeBody(w, status, body)
	return nil
}

func writeBody(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	h["Content-Type"] = []string{"application/json"}
	// Without it what does not fit net/http's buffer goes out in chunks.
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away is nobody to tell
}

// What is asked for most is encoded by hand, several times faster than by
// reflection: an installation, a page of them, and an operation. A test compares
// every byte with what encoding/json makes of the same values.

// installationSize is about what one takes up, to begin with.
const installationSize = 2048

func writeInstallation(w http.ResponseWriter, status int, v client.Installation) {
	e := encoder{buf: make([]byte, 0, installationSize)}
	e.installation(&v)
	writeBody(w, status, e.buf)
}

func writeOperation(w http.ResponseWriter, o client.Operation) {
	e := encoder{buf: make([]byte, 0, installationSize)}
	e.operation(&o)
	writeBody(w, http.StatusOK, e.buf)
}

// writeInstallations answers with a client.Page of installations. One after the
// other is turned into its wire form and encoded, into a buffer that is used again.
func (s *server) writeInstallations(w http.ResponseWriter, views []InstallationView, next string) {
	e, ok := s.encoders.Get().(*encoder)
	if !ok {
		e = &encoder{buf: make([]byte, 0, installationSize*(len(views)+1))}
	}
	e.buf, e.more = e.buf[:0], false
	e.open()
	if views == nil {
		views = []InstallationView{}
	}
	list(e, "items", views, func(v *InstallationView) {
		one := s.wireInstallation(v)
		e.installation(&one)
	})
	e.optStr("next_cursor", next)
	e.close()
	writeBody(w, http.StatusOK, e.buf)
	s.encoders.Put(e)
}

// encoder appends JSON to buf.
type encoder struct {
	buf []byte
	// more: the object has a field already.
	more bool
}

func (e *encoder) open() {
	e.buf = append(e.buf, '{')
	e.more = false
}

func (e *encoder) close() {
	e.buf = append(e.buf, '}')
	e.more = true
}

// name begins a field; it is plain ASCII.
func (e *encoder) name(n string) {
	if e.more {
		e.buf = append(e.buf, ',')
	}
	e.more = true
	e.buf = append(e.buf, '"')
	e.buf = append(e.buf, n...)
	e.buf = append(e.buf, '"', ':')
}

// text appends a string; one with anything to escape goes the long way.
func (e *encoder) text(s string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // a string always encodes
			e.buf = append(e.buf, quoted...)
			return
		}
	}
	e.buf = append(e.buf, '"')
	e.buf = append(e.buf, s...)
	e.buf = append(e.buf, '"')
}

func (e *encoder) str(name, s string) {
	e.name(name)
	e.text(s)
}

func (e *encoder) optStr(name, s string) {
	if s != "" {
		e.str(name, s)
	}
}

func (e *encoder) num(name string, n int64) {
	e.name(name)
	e.buf = strconv.AppendInt(e.buf, n, 10)
}

func (e *encoder) optNum(name string, n int64) {
	if n != 0 {
		e.num(name, n)
	}
}

func (e *encoder) time(name string, t time.Time) {
	e.name(name)
	e.buf = append(e.buf, '"')
	e.buf = t.AppendFormat(e.buf, time.RFC3339Nano)
	e.buf = append(e.buf, '"')
}

func (e *encoder) optTime(name string, t time.Time) {
	if !t.IsZero() {
		e.time(name, t)
	}
}

func (e *encoder) optTexts(name string, all []string) {
	if len(all) == 0 {
		return
	}
	e.name(name)
	e.buf = append(e.buf, '[')
	for i, s := range all {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		e.text(s)
	}
	e.buf = append(e.buf, ']')
}

// optMap appends a map in order of its keys.
func (e *encoder) optMap(name string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	e.name(name)
	e.buf = append(e.buf, '{')
	for i, k := range keys {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		e.text(k)
		e.buf = append(e.buf, ':')
		e.text(m[k])
	}
	e.buf = append(e.buf, '}')
}

// reflected appends a value as encoding/json does; one of ours always encodes.
func (e *encoder) reflected(name string, v any) {
	text, _ := json.Marshal(v)
	e.name(name)
	e.buf = append(e.buf, text...)
}

// list appends an array of objects; null where there is none.
func list[T any](e *encoder, name string, all []T, one func(*T)) {
	e.name(name)
	if all == nil {
		e.buf = append(e.buf, "null"...)
		return
	}
	e.buf = append(e.buf, '[')
	for i := range all {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		one(&all[i])
	}
	e.buf = append(e.buf, ']')
	e.more = true
}
