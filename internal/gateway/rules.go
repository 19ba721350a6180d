package gateway

import (
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"dormouse/internal/fleet"
	"dormouse/internal/gateway/wire"
)

// SensibleRules are WakeRules that keep health probes, crawlers and scanners
// from waking an installation. Nothing is kept out that the rules of an
// installation or group do not say: they are here to be copied.
func SensibleRules() fleet.WakeRules {
	return fleet.WakeRules{
		Paths: []string{"/healthz", "/livez", "/readyz", "/metrics", "/robots.txt", "/.env", "/.git/", "/wp-login.php", "/wp-admin/",
			"/xmlrpc.php", "/phpmyadmin", "/cgi-bin/", "/vendor/phpunit"},
		Methods: []string{http.MethodHead, http.MethodOptions, http.MethodTrace},
		UserAgents: []string{"bot", "crawl", "spider", "slurp", "kube-probe", "elb-healthchecker", "googlehc", "uptime", "pingdom",
			"zgrab", "masscan", "nmap", "nuclei", "censys"},
	}
}

// rules are WakeRules ready for use; nil lets all wake.
type rules struct {
	fleet.WakeRules
	agents   []string // in lower case
	networks []netip.Prefix
}

func newRules(r fleet.WakeRules) *rules {
	if reflect.ValueOf(r).IsZero() {
		return nil
	}
	made := &rules{WakeRules: r}
	// An empty one is a part of everything: nobody means that.
	empty := func(s string) bool { return s == "" }
	made.Paths = slices.DeleteFunc(slices.Clone(r.Paths), empty)
	for _, a := range slices.DeleteFunc(slices.Clone(r.UserAgents), empty) {
		made.agents = append(made.agents, strings.ToLower(a))
	}
	for _, c := range r.CIDRs {
		// One that can't be read was let through by whoever checks rules: it keeps nobody out.
		if p, err := netip.ParsePrefix(c); err == nil {
			made.networks = append(made.networks, p.Masked())
		}
	}
	return made
}

// forbid returns what about a request keeps it from waking the installation;
// "" where nothing does. Of plain TCP only the network is known.
func (r *rules) forbid(h *wire.Head) string {
	if r == nil {
		return ""
	}
	client := h.Client.Addr().Unmap().WithZone("")
	for _, n := range r.networks {
		if n.Contains(client) {
			return "network"
		}
	}
	if h.Header == nil {
		return ""
	}
	for _, m := range r.Methods {
		if strings.EqualFold(m, h.Method) {
			return "method"
		}
	}
	if path := pathOf(h.Target); path != "" {
		for _, p := range r.Paths {
			if strings.HasPrefix(path, p) {
				return "path"
			}
		}
	}
	if len(r.agents) > 0 {
		agent := strings.ToLower(h.Header("User-Agent"))
		for _, a := range r.agents {
			if strings.Contains(agent, a) {
				return "user-agent"
			}
		}
	}
	if r.RequireCookie == "" && r.RequireHeader == "" ||
		r.RequireHeader != "" && h.Header(r.RequireHeader) != "" || r.RequireCookie != "" && hasCookie(h.Header("Cookie"), r.RequireCookie) {
		return ""
	}
	return "credential"
}

// pathOf returns the path of a request's target, which may be in absolute form.
func pathOf(target string) string {
	if _, rest, ok := strings.Cut(target, "://"); ok && !strings.HasPrefix(target, "/") {
		_, path, _ := strings.Cut(rest, "/")
		target = "/" + path
	}
	path, _, _ := strings.Cut(target, "?")
	return path
}

// hasCookie looks for a cookie that has a value. It is lenient about the others:
// browsers send what any program has set.
func hasCookie(line, name string) bool {
	for part := range strings.SplitSeq(line, ";") {
		if key, value, ok := strings.Cut(strings.TrimSpace(part), "="); ok && key == name && value != "" {
			return true
		}
	}
	return false
}
