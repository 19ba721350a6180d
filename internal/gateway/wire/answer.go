package wire

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// refusal is what the sender of a malformed message is told.
func refusal(e *syntaxError) *Answer {
	return &Answer{Status: e.status, Header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}},
		Body: []byte(http.StatusText(e.status) + ": " + e.reason + "\n")}
}

// appendTo writes an answer of HTTP/1.1, its body left out where only the head was asked for.
func (a *Answer) appendTo(p []byte, now time.Time, connection string, headOnly bool) []byte {
	p = append(p, "HTTP/1.1 "...)
	p = strconv.AppendInt(p, int64(a.Status), 10)
	p = append(p, ' ')
	p = append(p, http.StatusText(a.Status)...)
	p = append(p, "\r\nDate: "...)
	p = now.UTC().AppendFormat(p, http.TimeFormat)
	p = append(p, "\r\n"...)
	names := make([]string, 0, len(a.Header))
	for name := range a.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range a.Header[name] {
			if isToken([]byte(name)) && !badInValue([]byte(value)) && !framing(name) {
				p = appendField(p, []byte(name), []byte(value))
			}
		}
	}
	if a.hasBody() {
		p = append(p, "Content-Length: "...)
		p = strconv.AppendInt(p, int64(len(a.Body)), 10)
		p = append(p, "\r\n"...)
	}
	p = append(p, connection...)
	p = append(p, "\r\n"...)
	if headOnly || !a.hasBody() {
		return p
	}
	return append(p, a.Body...)
}

func (a *Answer) hasBody() bool { return a.Status >= 200 && a.Status != 204 && a.Status != 304 }

func framing(name string) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Content-Length", "Transfer-Encoding", "Connection", "Date":
		return true
	}
	return false
}
