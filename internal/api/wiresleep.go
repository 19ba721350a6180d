package api

import (
	"errors"
	"net/url"
	"strconv"
	"time"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// inField says of which field an error about a part of it is.
func inField(field string, err error) error {
	var e *fleet.Error
	if !errors.As(err, &e) {
		return err
	}
	inner := *e
	inner.Field = field + "." + e.Field
	return &inner
}

func wireIdle(p fleet.IdlePolicy) *client.IdlePolicy {
	if !p.Never && p.IdleAfterSeconds == 0 && p.MinimumAwakeSeconds == 0 && len(p.Schedules) == 0 {
		return nil
	}
	out := &client.IdlePolicy{Never: p.Never, IdleAfterSeconds: p.IdleAfterSeconds, MinimumAwakeSeconds: p.MinimumAwakeSeconds}
	for _, s := range p.Schedules {
		out.Schedules = append(out.Schedules, client.Schedule{Cron: s.Cron, Zone: s.Zone, Do: string(s.Do)})
	}
	return out
}

func wireWake(r fleet.WakeRules) *client.WakeRules {
	out := client.WakeRules(r)
	if len(r.Paths)+len(r.Methods)+len(r.UserAgents)+len(r.CIDRs) == 0 && r.RequireCookie == "" && r.RequireHeader == "" && r.WakesPerHour == 0 && !r.Hidden {
		return nil
	}
	return &out
}

// idleOf makes a whole policy a change that sets all of it; nil where there is none.
func idleOf(p *client.IdlePolicy) *client.UpdateIdlePolicy {
	if p == nil {
		return nil
	}
	return &client.UpdateIdlePolicy{Never: &p.Never, IdleAfterSeconds: &p.IdleAfterSeconds, MinimumAwakeSeconds: &p.MinimumAwakeSeconds, Schedules: &p.Schedules}
}

func wakeOf(r *client.WakeRules) *client.UpdateWakeRules {
	if r == nil {
		return nil
	}
	return &client.UpdateWakeRules{Paths: &r.Paths, Methods: &r.Methods, UserAgents: &r.UserAgents, CIDRs: &r.CIDRs,
		RequireCookie: &r.RequireCookie, RequireHeader: &r.RequireHeader, WakesPerHour: &r.WakesPerHour, Hidden: &r.Hidden}
}

// idleChange is what a patch asks for; what it removes is unset.
func idleChange(in *client.UpdateIdlePolicy, m members) *fleet.IdleChange {
	if m.null["idle"] {
		return &fleet.IdleChange{Never: new(bool), IdleAfterSeconds: new(int), MinimumAwakeSeconds: new(int), Schedules: new([]fleet.Schedule)}
	}
	if in == nil {
		return nil
	}
	out := &fleet.IdleChange{Never: orUnset(in.Never, m, "idle.never"), IdleAfterSeconds: orUnset(in.IdleAfterSeconds, m, "idle.idle_after_seconds"),
		MinimumAwakeSeconds: orUnset(in.MinimumAwakeSeconds, m, "idle.minimum_awake_seconds")}
	if schedules := orUnset(in.Schedules, m, "idle.schedules"); schedules != nil {
		list := make([]fleet.Schedule, len(*schedules))
		for i, s := range *schedules {
			list[i] = fleet.Schedule{Cron: s.Cron, Zone: s.Zone, Do: fleet.OperationKind(s.Do)}
		}
		out.Schedules = &list
	}
	return out
}

func wakeChange(in *client.UpdateWakeRules, m members) *fleet.WakeChange {
	none := func() *[]string { return new([]string) }
	if m.null["wake"] {
		return &fleet.WakeChange{Paths: none(), Methods: none(), UserAgents: none(), CIDRs: none(),
			RequireCookie: new(string), RequireHeader: new(string), WakesPerHour: new(int), Hidden: new(bool)}
	}
	if in == nil {
		return nil
	}
	return &fleet.WakeChange{
		Paths: orUnset(in.Paths, m, "wake.paths"), Methods: orUnset(in.Methods, m, "wake.methods"),
		UserAgents: orUnset(in.UserAgents, m, "wake.user_agents"), CIDRs: orUnset(in.CIDRs, m, "wake.cidrs"),
		RequireCookie: orUnset(in.RequireCookie, m, "wake.require_cookie"), RequireHeader: orUnset(in.RequireHeader, m, "wake.require_header"),
		WakesPerHour: orUnset(in.WakesPerHour, m, "wake.wakes_per_hour"), Hidden: orUnset(in.Hidden, m, "wake.hidden"),
	}
}

// orUnset is what a field of a patch says: a null unsets it.
func orUnset[T any](v *T, m members, path string) *T {
	if m.null[path] {
		return new(T)
	}
	return v
}

// urlHost is the host of a URL without its port.
func urlHost(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// gatewayAddress is where the gateway reaches a port of protocol tcp; empty where it does not.
func gatewayAddress(v *InstallationView, port int, host string) string {
	for _, g := range v.GatewayPorts {
		if g.Port == port {
			return host + ":" + strconv.Itoa(g.Gateway)
		}
	}
	return ""
}

// nextSchedule is what a policy's schedules do next; nil where that is nothing.
func (s *server) nextSchedule(p fleet.IdlePolicy, after time.Time) *client.NextSchedule {
	next, at := s.Schedules.Next(p.Schedules, after)
	if at.IsZero() {
		return nil
	}
	return &client.NextSchedule{At: at.UTC(), Do: string(next.Do)}
}
