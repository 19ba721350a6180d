package wire

import (
	"context"
	"io"
	"net/http"
	"net/netip"
	"strconv"
)

// A stream is one request of HTTP/2. net/http speaks the protocol; what reaches an
// instance is HTTP/1.1, as from any other client.
type h2stream struct {
	life life
	s    *Server
	w    http.ResponseWriter
	r    *http.Request
	rc   *http.ResponseController
	req  request
	x    exchange
	rest h2body
}

// serveStream answers one request of HTTP/2.
func (s *Server) serveStream(w http.ResponseWriter, r *http.Request) {
	h := &h2stream{s: s, w: w, r: r, rc: http.NewResponseController(w)}
	h.life.client = h.rc
	if !s.lives.add(&h.life) {
		panic(http.ErrAbortHandler)
	}
	defer s.lives.remove(&h.life)
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler && s.o.Panicked != nil {
				s.o.Panicked(v)
				v = http.ErrAbortHandler
			}
			panic(v)
		}
	}()
	defer context.AfterFunc(r.Context(), func() { h.life.end(ErrClientGone) })()
	if err := h.req.fromHTTP2(r, s.o.MaxFields); err != nil {
		h.answer(refusal(err))
		return
	}
	client, _ := netip.ParseAddrPort(r.RemoteAddr) // zero where the connection has none
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	size := len(r.RequestURI) + len(r.Host)
	for i := range h.req.fields {
		size += len(h.req.fields[i].name) + len(h.req.fields[i].value)
	}
	head := &Head{Size: size, Method: r.Method, Target: r.RequestURI, Host: r.Host, Client: client, TLS: r.TLS != nil, Header: h.header}
	pass, answer := s.o.Handler.Enter(&h.life, head)
	switch {
	case pass != nil:
		h.pass(pass, head)
	case answer != nil:
		h.answer(answer)
	default:
		panic(http.ErrAbortHandler) // which resets the stream
	}
}

func (h *h2stream) header(name string) string {
	if equalFold([]byte(name), "host") {
		return h.r.Host
	}
	return h.r.Header.Get(name)
}

// fromHTTP2 makes a request of HTTP/1.1 of one that net/http has read. What it may
// not have in HTTP/1.1 is refused.
func (r *request) fromHTTP2(in *http.Request, maxFields int) *syntaxError {
	*r = request{length: -1, minor: 1, method: []byte(in.Method), host: []byte(in.Host)}
	line := append(append(append([]byte(nil), in.Method...), ' '), in.RequestURI...)
	if err := r.parseLine(append(line, " HTTP/1.1"...)); err != nil {
		return err.(*syntaxError)
	}
	if in.Method == http.MethodConnect || r.path == nil || !validHost(r.host) {
		return &syntaxError{status: 400, reason: "the authority or the path is not valid"}
	}
	for name, values := range in.Header {
		n, known := parseName([]byte(name + ":"))
		for _, value := range values {
			switch {
			case n != len(name) || badInValue([]byte(value)):
				return &syntaxError{status: 400, reason: "a field is not valid"}
			case len(r.fields) == maxFields:
				return &syntaxError{status: 431, reason: "too many fields"}
			}
			r.fields = append(r.fields, field{name: []byte(name), value: []byte(value), kind: known})
			r.trailers = r.trailers || known == kindTE && hasOption([]byte(value), "trailers")
		}
	}
	switch {
	case in.ContentLength > 0 || in.ContentLength == 0 && in.Header.Get("Content-Length") != "":
		r.length = in.ContentLength
	case in.Body != nil && in.Body != http.NoBody && in.ContentLength < 0:
		r.chunked = true
	}
	return nil
}

// pass lets the request through.
func (h *h2stream) pass(pass *Pass, head *Head) {
	h.x = exchange{s: h.s, life: &h.life, head: head, front: h, pass: pass, method: h.r.Method,
		request: h.req.appendTo(nil, head.Client.Addr().WithZone("").String(), head.TLS)}
	if h.req.chunked || h.req.length > 0 {
		h.rest = h2body{r: h.r, buf: h.s.buffers.get(), left: h.req.length, length: h.req.length}
		h.x.rest, h.x.chunked = &h.rest, h.req.chunked
		defer func() { h.s.buffers.put(h.rest.buf) }()
	}
	err := errFailed // where what follows panics
	if done := pass.Done; done != nil {
		defer func() { done(h.x.status, err) }()
	}
	if err = h.x.run(); err != nil && (h.x.cut || h.x.status == 0) {
		panic(http.ErrAbortHandler) // an answer that is not whole must not look so
	}
}

// h2body is the body of a request of HTTP/2.
type h2body struct {
	r            *http.Request
	buf          []byte
	left, length int64
	last         error // what came with the last piece
}

func (b *h2body) next(limit int, wait bool) ([]byte, error) {
	if !wait {
		return nil, errMore // nobody can tell
	}
	for b.last == nil {
		var n int
		n, b.last = b.r.Body.Read(b.buf[:min(limit, len(b.buf))])
		if n > 0 {
			b.left -= int64(n)
			return b.buf[:n], nil
		}
	}
	if b.last == io.EOF && b.length >= 0 && b.left != 0 {
		return nil, errCut // net/http checks it, too
	}
	return nil, b.last
}

func (b *h2body) ended() bool { return b.length >= 0 && b.left == 0 || b.last == io.EOF }

func (b *h2body) trailer() []field {
	var fields []field
	for name, values := range b.r.Trailer {
		n, known := parseName([]byte(name + ":"))
		for _, value := range values {
			if n == len(name) && known == kindOther && !badInValue([]byte(value)) {
				fields = append(fields, field{name: []byte(name), value: []byte(value)})
			}
		}
	}
	return fields
}

// What a front does, on a stream of HTTP/2.

func (h *h2stream) inform(r *response) error {
	if r.status == http.StatusContinue { // net/http says it once the body is read
		return nil
	}
	h.setFields(r)
	h.w.WriteHeader(r.status)
	clear(h.w.Header())
	return nil
}

func (h *h2stream) setFields(r *response) {
	header := h.w.Header()
	for i := range r.fields {
		if f := &r.fields[i]; f.passes() {
			header.Add(string(f.name), string(f.value))
		}
	}
}

func (h *h2stream) begin(r *response, kind bodyKind) error {
	h.setFields(r)
	header := h.w.Header()
	if header["Content-Type"] == nil {
		header["Content-Type"] = nil // or net/http would guess
	}
	if r.length >= 0 && r.status != http.StatusNoContent && (kind == bodyLength || kind == bodyNone) {
		header.Set("Content-Length", strconv.FormatInt(r.length, 10))
	}
	h.x.cut = true
	h.w.WriteHeader(r.status)
	return nil
}

func (h *h2stream) write(p []byte) error {
	h.life.wr.set(h.s.lives.after(h.s.o.StallTimeout))
	_, err := h.w.Write(p)
	return h.written(err)
}

func (h *h2stream) flush() error {
	h.life.wr.set(h.s.lives.after(h.s.o.StallTimeout))
	return h.written(h.rc.Flush())
}

func (h *h2stream) written(err error) error {
	switch {
	case h.life.wr.stop():
		return ErrSlow
	case err != nil:
		return ErrClientGone
	}
	return nil
}

func (h *h2stream) end(trailer []field) error {
	for _, f := range trailer {
		h.w.Header().Add(http.TrailerPrefix+string(f.name), string(f.value))
	}
	h.x.cut = false
	return nil
}

func (h *h2stream) answer(a *Answer) {
	header := h.w.Header()
	for name, values := range a.Header {
		if !framing(name) {
			header[name] = values
		}
	}
	if a.hasBody() {
		header.Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	h.w.WriteHeader(a.Status)
	if a.hasBody() && h.r.Method != http.MethodHead {
		_, _ = h.w.Write(a.Body) // fails only where the client is gone
	}
}

func (h *h2stream) tunnel(*response, *kept, *Pass) error { return errFailed } // HTTP/2 has no Upgrade

func (h *h2stream) unread() { _ = h.rc.SetReadDeadline(past) }
