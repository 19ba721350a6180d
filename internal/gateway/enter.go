package gateway

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway/wire"
)

// visit is one request, or one connection of plain TCP, on its way in.
type visit struct {
	head  *wire.Head
	host  string // in lower case, without a port; the installation's own of plain TCP
	begin time.Time
	entry *entry
	// barred is what about it keeps it from waking the installation; "" is nothing.
	barred string
	// lasts: it may stay open for as long as it likes.
	lasts bool
	// browser: a person waits for a page.
	browser bool
	// held: it has waited.
	held     bool
	waitsFor expectation
	// woke: it began a wake.
	woke bool
}

func (v *visit) source() netip.Prefix { return sourceOf(v.head.Client.Addr()) }

// Enter implements wire.Handler. It returns when the visitor may pass, or with
// what is answered instead.
func (g *Gateway) Enter(ctx context.Context, h *wire.Head) (*wire.Pass, *wire.Answer) {
	v := visit{head: h, begin: time.Now(), lasts: h.Port != 0}
	if h.Header != nil {
		v.lasts = h.Header("Upgrade") != ""
		mode := h.Header("Sec-Fetch-Mode") // a program in a page is no person, whatever it accepts
		v.browser = h.Method == http.MethodGet && !v.lasts && wantsHTML(h) && (mode == "" || mode == "navigate")
	}
	pass, why := g.admit(ctx, &v)
	if why == nil {
		return pass, nil
	}
	if why.hidden {
		why = g.lookupRefusal(v.host, g.book.pretend(ctx, v.host))
	}
	status := why.status
	if ctx.Err() != nil {
		status = 0
	} else {
		g.metrics.Refused(why.reason)
	}
	if h.Port == 0 {
		g.metrics.Request(status, time.Since(v.begin))
	}
	return nil, why.answer(h)
}

// admit finds a visitor's door, and waits at it until it opens.
func (g *Gateway) admit(ctx context.Context, v *visit) (*wire.Pass, *refusal) {
	if why := g.readHost(v); why != nil {
		return nil, why
	}
	for {
		var why *refusal
		if v.entry, why = g.findEntry(ctx, v); why != nil {
			return nil, why
		}
		d := g.door(v.entry.route.InstallationID)
		pass, until, why := d.try(v)
		if pass != nil || why != nil {
			return pass, why
		}
		if until == atOnce {
			if ctx.Err() != nil {
				return nil, gone()
			}
			continue
		}
		if why := d.hold(ctx, v, until); why != nil {
			return nil, why
		}
	}
}

// findEntry finds where a visitor wants to go.
func (g *Gateway) findEntry(ctx context.Context, v *visit) (*entry, *refusal) {
	if v.host == "" {
		return nil, unknown("") // a port that leads nowhere any more
	}
	e, err := g.book.find(ctx, v.host)
	if err != nil {
		if ctx.Err() != nil {
			return nil, gone()
		}
		return nil, g.lookupRefusal(v.host, err)
	}
	return e, nil
}

// lookupRefusal is what is answered where a name was not found.
func (g *Gateway) lookupRefusal(host string, err error) *refusal {
	if fleet.KindOf(err) == fleet.KindNotFound {
		return unknown(host)
	}
	g.log.WithError(err).WithField("host", host).Debug("looking up a route") // the outage is told of once
	return &refusal{status: http.StatusServiceUnavailable, reason: "lookup", title: "Try again in a moment",
		detail: "Where this workspace is can't be found out right now.", retryAfter: shortly}
}

// readHost finds out by which name a visitor comes.
func (g *Gateway) readHost(v *visit) *refusal {
	if v.head.Port != 0 {
		v.host = g.ports.host(v.head.Port)
		return nil
	}
	if v.head.Method == http.MethodConnect {
		return &refusal{status: http.StatusMethodNotAllowed, reason: "method", title: "This is no forward proxy"}
	}
	host, ok := hostName(v.head.Host)
	if ok {
		if name, ours := strings.CutSuffix(host, g.suffix); ours && strings.Contains(name, ".") {
			v.host = host
			return unknown(host) // none has such a name, so nobody is asked
		}
	}
	if !ok {
		return &refusal{status: http.StatusBadRequest, reason: "host", title: "Bad host name",
			detail: "Use the address NAME" + g.suffix + " of a workspace."}
	}
	v.host = host
	return nil
}

// hostName takes the name out of a Host header: in lower case, without a port.
func hostName(host string) (string, bool) {
	if strings.HasPrefix(host, "[") {
		return "", false // an IPv6 literal
	}
	if name, port, ok := strings.Cut(host, ":"); ok {
		if port == "" || strings.Trim(port, "0123456789") != "" {
			return "", false
		}
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if len(host) > 253 || net.ParseIP(host) != nil {
		return "", false
	}
	for label := range strings.SplitSeq(host, ".") {
		if !isLabel(label) {
			return "", false
		}
	}
	return host, true
}

// isLabel tells whether s is a DNS label (RFC 1123, section 2.1) in lower case.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// Failed implements wire.Handler. The machine may have gone to sleep, or away,
// since its route was looked up: then that is said.
func (g *Gateway) Failed(ctx context.Context, h *wire.Head, _ *wire.Pass, err error) *wire.Answer {
	v := visit{head: h}
	why := g.readHost(&v)
	if why == nil {
		why = g.failure(ctx, &v, err)
	}
	if ctx.Err() == nil {
		g.metrics.Refused(why.reason)
	}
	return why.answer(h)
}

func (g *Gateway) failure(ctx context.Context, v *visit, err error) *refusal {
	why := &refusal{status: http.StatusBadGateway, reason: "no-answer", title: "The workspace does not answer",
		detail: "Its machine runs, but the program in it refused the connection or broke it off.", retryAfter: shortly}
	var timeout net.Error
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		why.status, why.detail = http.StatusGatewayTimeout, "Its machine did not answer in time."
	}
	if errors.Is(err, wire.ErrBroken) {
		return &refusal{status: http.StatusServiceUnavailable, reason: "broken-off", title: "This workspace is going to sleep",
			detail: "The request took too long to be waited for, and was broken off.", retryAfter: shortly}
	}
	e, refused := g.findEntry(ctx, v)
	if refused != nil {
		return refused
	}
	g.book.again(e.route.InstallationID)
	if e, refused = g.findEntry(ctx, v); refused != nil {
		return refused
	}
	if g.condition(e.route, v.head.Port).standing != serving {
		return refusalOf(e.route, v.host)
	}
	g.log.WithError(err).WithFields(logrus.Fields{"installation": e.route.Name, "state": e.route.State}).Warn("instance did not answer")
	if e.route.State != fleet.StateStable {
		// Work on it is the likely cause.
		if doing, ok := inWords(e.route.State); ok {
			why.status, why.title, why.detail, why.retryAfter = http.StatusServiceUnavailable, "This workspace "+doing.words, "", doing.retryAfter
		}
	}
	return why
}
