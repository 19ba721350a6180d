package gateway

import (
	"bytes"
	"encoding/json"
	"html/template"
	"math"
	"net/http"
	"strconv"
	"strings"

	"dormouse/internal/gateway/wire"
)

// problem is a problem document (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Reason string `json:"reason,omitempty"`
}

func wantsHTML(h *wire.Head) bool {
	return h.Header != nil && strings.Contains(strings.ToLower(h.Header("Accept")), "text/html")
}

// answer makes what is sent: a page to browsers, a problem document to others.
// Nothing in it depends on anything but the refusal and what the client accepts.
func (f *refusal) answer(h *wire.Head) *wire.Answer {
	header := http.Header{
		"Cache-Control":          {"no-store"},
		"X-Content-Type-Options": {"nosniff"},
		ReasonHeader:             {f.reason},
	}
	var seconds int
	if f.retryAfter > 0 {
		seconds = int(math.Ceil(f.retryAfter.Seconds()))
		header.Set("Retry-After", strconv.Itoa(seconds))
	}
	var body bytes.Buffer
	if wantsHTML(h) {
		header.Set("Content-Type", "text/html; charset=utf-8")
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'")
		// It can't fail: the template is ours, and so is what goes in.
		_ = page.Execute(&body, view{Title: f.title, Detail: f.detail, Reloads: f.reloads, Seconds: seconds})
	} else {
		header.Set("Content-Type", "application/problem+json")
		_ = json.NewEncoder(&body).Encode(problem{Type: "about:blank", Title: f.title, Status: f.status, Detail: f.detail, Reason: f.reason})
	}
	return &wire.Answer{Status: f.status, Header: header, Body: body.Bytes()}
}

type view struct {
	Title, Detail string
	Reloads       bool
	Seconds       int
}

// page has nothing that must be fetched, and reloads itself without a script.
var page = template.Must(template.New("refusal").Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">{{if .Reloads}}<meta http-equiv="refresh" content="{{.Seconds}}">{{end}}<title>{{.Title}}</title>
<style>:root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:32rem;margin:20vh auto;padding:0 1rem;color:#222;background:#fff}
.bar{height:4px;border-radius:2px;overflow:hidden;background:#8884}.bar i{display:block;width:30%;height:100%;background:#5a7;animation:m 1.6s ease-in-out infinite alternate}
@keyframes m{to{margin-left:70%}}@media(prefers-reduced-motion:reduce){.bar i{animation:none;width:100%}}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}}</style>
<main{{if .Reloads}} role="status" aria-live="polite"{{end}}><h1>{{.Title}}</h1>{{with .Detail}}<p>{{.}}</p>{{end}}{{if .Reloads}}<div class="bar" aria-hidden="true"><i></i></div>{{end}}</main></html>
`))
