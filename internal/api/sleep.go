package api

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// The bounds of names, idle policies and wake rules. The OpenAPI document repeats them.
const (
	maxDNSNames     = 32
	maxDNSName      = 253
	minIdleSeconds  = 60 // the idle supervisor looks once a minute
	maxIdleSeconds  = 365 * 24 * 3600
	maxSchedules    = 16
	maxWakeRules    = 64
	maxWakeRule     = 255 // bytes
	maxWakesPerHour = 100_000
)

// checkSleep validates what a request says of names, idle policy and wake rules; nil
// says nothing.
func (s *server) checkSleep(names *[]string, idle *client.UpdateIdlePolicy, wake *client.UpdateWakeRules, m members) error {
	for path := range m.null {
		field, rest, _ := strings.Cut(path, ".")
		if field == "dns_names" && rest != "" || (field == "idle" || field == "wake") && strings.Contains(rest, ".") {
			return fleet.InvalidField(printable(path), "%s must not be null: leave it out", printable(path))
		}
	}
	if names != nil {
		if err := s.checkDNSNames(*names); err != nil {
			return err
		}
	}
	var policy fleet.IdlePolicy
	idleChange(idle, m).Apply(&policy)
	var rules fleet.WakeRules
	wakeChange(wake, m).Apply(&rules)
	return firstError(s.checkIdle(policy), checkWake(rules))
}

func (s *server) checkDNSNames(names []string) error {
	if len(names) > maxDNSNames {
		return fleet.InvalidField("dns_names", "there are %d names, at most %d are allowed", len(names), maxDNSNames)
	}
	domain := s.gatewayDomain()
	for i, name := range names {
		field := fmt.Sprintf("dns_names.%d", i)
		switch {
		case !isHostName(name):
			return fleet.InvalidField(field, "%s is not a host name: use labels of lower-case letters, digits and inner hyphens with dots between them, such as www.acme.example", printable(name))
		case name == domain || strings.HasSuffix(name, "."+domain):
			return fleet.InvalidField(field, "%s is under %s, where the gateway names installations itself: leave it out", name, domain)
		case slices.Contains(names[:i], name):
			return fleet.InvalidField(field, "%s is given twice: give it once", name)
		}
	}
	return nil
}

// isHostName accepts two DNS labels or more, of which the last is no number: no
// address, no wildcard and no name of ours.
func isHostName(name string) bool {
	labels := strings.Split(name, ".")
	if len(name) > maxDNSName || len(labels) < 2 {
		return false
	}
	for _, l := range labels {
		if !isDNSLabel(l) {
			return false
		}
	}
	return strings.ContainsFunc(labels[len(labels)-1], func(r rune) bool { return r < '0' || r > '9' })
}

// gatewayDomain is the domain under which the gateway names installations.
func (s *server) gatewayDomain() string {
	_, domain, _ := strings.Cut(urlHost(s.GatewayURL("name")), ".")
	return domain
}

func (s *server) checkIdle(p fleet.IdlePolicy) error {
	if p.IdleAfterSeconds != 0 && (p.IdleAfterSeconds < minIdleSeconds || p.IdleAfterSeconds > maxIdleSeconds) {
		return fleet.InvalidField("idle.idle_after_seconds", "idle_after_seconds must be from %d to %d, or 0 for what the group says, or never", minIdleSeconds, maxIdleSeconds)
	}
	if p.MinimumAwakeSeconds < 0 || p.MinimumAwakeSeconds > maxIdleSeconds {
		return fleet.InvalidField("idle.minimum_awake_seconds", "minimum_awake_seconds must be from 0 to %d", maxIdleSeconds)
	}
	if len(p.Schedules) > maxSchedules {
		return fleet.InvalidField("idle.schedules", "there are %d schedules, at most %d are allowed", len(p.Schedules), maxSchedules)
	}
	for i, schedule := range p.Schedules {
		if err := s.Schedules.Check(schedule); err != nil {
			return inField(fmt.Sprintf("idle.schedules.%d", i), err)
		}
	}
	return nil
}

func checkWake(r fleet.WakeRules) error {
	for _, list := range []struct {
		field, what string
		values      []string
		ok          func(string) bool
	}{
		{"paths", "the beginning of a path, such as /healthz", r.Paths, func(v string) bool { return v[0] == '/' && isVisible(v) }},
		{"methods", "a method, such as HEAD", r.Methods, isToken},
		{"user_agents", "a part of a user agent", r.UserAgents, func(v string) bool { return isVisible(strings.ReplaceAll(v, " ", "_")) && strings.TrimSpace(v) != "" }},
		{"cidrs", "a network, such as 10.0.0.0/8 or 2001:db8::/32", r.CIDRs, isNetwork},
	} {
		field := "wake." + list.field
		if len(list.values) > maxWakeRules {
			return fleet.InvalidField(field, "there are %d, at most %d are allowed", len(list.values), maxWakeRules)
		}
		for i, v := range list.values {
			if v == "" || len(v) > maxWakeRule || !list.ok(v) {
				return fleet.InvalidField(fmt.Sprintf("%s.%d", field, i), "%s is not %s", printable(v), list.what)
			}
		}
	}
	for field, v := range map[string]string{"require_cookie": r.RequireCookie, "require_header": r.RequireHeader} {
		if v != "" && (len(v) > maxWakeRule || !isToken(v)) {
			return fleet.InvalidField("wake."+field, "%s is not a name: use letters, digits and !#$%%&'*+-.^_`|~", printable(v))
		}
	}
	return checkRange("wake.wakes_per_hour", r.WakesPerHour, 0, maxWakesPerHour)
}

// isToken accepts what RFC 9110, section 5.6.2, calls a token: methods, names of headers and of cookies.
func isToken(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r > '~' || !isAlnum(byte(r)) && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

// isVisible accepts ASCII without space and control characters.
func isVisible(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// isNetwork accepts a network in CIDR form, without bits behind its prefix.
func isNetwork(s string) bool {
	p, err := netip.ParsePrefix(s)
	return err == nil && p == p.Masked() && !p.Addr().Is4In6()
}
