package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dormouse/client"
)

const sleepHelp = `An idle policy has it put to sleep after a time without visitors, and at given
times: --schedule 'MINUTE HOUR DAY MONTH WEEKDAY;ZONE;hibernate' or ;wake, as in
crontab(5), in a zone such as Europe/Berlin. Who is there keeps it awake. A flag
that may be repeated replaces what was there; given empty, it removes it.`

// sleepFlags say when something is put to sleep, and who does not wake it.
type sleepFlags struct {
	cmd                                           *cobra.Command
	idleAfter, minimumAwake                       time.Duration
	never, hidden                                 bool
	schedules, paths, methods, agents, cidrs, dns []string
	cookie, header                                string
	wakesPerHour                                  int
}

func (s *sleepFlags) flags(cmd *cobra.Command) {
	s.cmd = cmd
	f := cmd.Flags()
	f.DurationVar(&s.idleAfter, "idle-after", 0, "put it to sleep after so long without visitors, such as 15m; 0 leaves it to the group, or never")
	f.DurationVar(&s.minimumAwake, "minimum-awake", 0, "keep it awake for so long after a wake")
	f.BoolVar(&s.never, "never-sleep", false, "never put it to sleep without being asked")
	f.StringArrayVar(&s.schedules, "schedule", nil, "what is done at given times, as `'CRON;ZONE;hibernate|wake'`; may be repeated")
	f.StringArrayVar(&s.paths, "no-wake-path", nil, "requests whose path begins so do not wake it, as `/PATH`; may be repeated")
	f.StringArrayVar(&s.methods, "no-wake-method", nil, "requests with this `METHOD` do not wake it; may be repeated")
	f.StringArrayVar(&s.agents, "no-wake-agent", nil, "requests whose user agent holds this `TEXT` do not wake it; may be repeated")
	f.StringArrayVar(&s.cidrs, "no-wake-cidr", nil, "clients in this `NETWORK` do not wake it; may be repeated")
	f.StringVar(&s.cookie, "wake-cookie", "", "only requests with the cookie `NAME` wake it")
	f.StringVar(&s.header, "wake-header", "", "only requests with the header `NAME` wake it")
	f.IntVar(&s.wakesPerHour, "wakes-per-hour", 0, "visits wake it at most `N` times an hour")
	f.BoolVar(&s.hidden, "hidden", false, "answer those who may not wake it as if there were no such installation")
}

func (s *sleepFlags) dnsFlag(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&s.dns, "dns-name", nil, "a `NAME` besides its own under which it is reached, such as www.acme.example; may be repeated")
}

// patch is what the flags that were given ask for; nil where none was.
func (s *sleepFlags) patch() (names *[]string, idle *client.UpdateIdlePolicy, wake *client.UpdateWakeRules, err error) {
	i, w := client.UpdateIdlePolicy{}, client.UpdateWakeRules{}
	if i.IdleAfterSeconds, err = s.seconds("idle-after", s.idleAfter); err != nil {
		return nil, nil, nil, err
	}
	if i.MinimumAwakeSeconds, err = s.seconds("minimum-awake", s.minimumAwake); err != nil {
		return nil, nil, nil, err
	}
	i.Never = flagged(s, "never-sleep", s.never)
	if lines := s.texts("schedule", s.schedules); lines != nil {
		schedules := make([]client.Schedule, len(*lines))
		for n, line := range *lines {
			parts := strings.Split(line, ";")
			if len(parts) != 3 {
				return nil, nil, nil, usagef("--schedule %q: write it 'MINUTE HOUR DAY MONTH WEEKDAY;ZONE;hibernate', or ;wake at the end", line)
			}
			schedules[n] = client.Schedule{Cron: strings.TrimSpace(parts[0]), Zone: strings.TrimSpace(parts[1]), Do: strings.TrimSpace(parts[2])}
		}
		i.Schedules = &schedules
	}
	w.Paths, w.Methods = s.texts("no-wake-path", s.paths), s.texts("no-wake-method", s.methods)
	w.UserAgents, w.CIDRs = s.texts("no-wake-agent", s.agents), s.texts("no-wake-cidr", s.cidrs)
	w.RequireCookie, w.RequireHeader = flagged(s, "wake-cookie", s.cookie), flagged(s, "wake-header", s.header)
	w.WakesPerHour, w.Hidden = flagged(s, "wakes-per-hour", s.wakesPerHour), flagged(s, "hidden", s.hidden)
	if i != (client.UpdateIdlePolicy{}) {
		idle = &i
	}
	if w != (client.UpdateWakeRules{}) {
		wake = &w
	}
	return s.texts("dns-name", s.dns), idle, wake, nil
}

// flagged is a flag's value where it was given.
func flagged[T any](s *sleepFlags, flag string, value T) *T {
	if !s.cmd.Flags().Changed(flag) {
		return nil
	}
	return &value
}

// texts are the values of a flag that may be repeated; an empty one alone is none.
func (s *sleepFlags) texts(flag string, values []string) *[]string {
	if f := s.cmd.Flags().Lookup(flag); f == nil || !f.Changed {
		return nil
	}
	if len(values) == 1 && values[0] == "" {
		values = []string{}
	}
	return &values
}

func (s *sleepFlags) seconds(flag string, d time.Duration) (*int, error) {
	if d < 0 || d%time.Second != 0 {
		return nil, usagef("--%s %s: give whole seconds, such as 90s or 15m", flag, d)
	}
	return flagged(s, flag, int(d/time.Second)), nil
}

// whole is what the flags of a create say.
func (s *sleepFlags) whole() (names []string, idle *client.IdlePolicy, wake *client.WakeRules, err error) {
	n, i, w, err := s.patch()
	if n != nil {
		names = *n
	}
	if i != nil {
		idle = &client.IdlePolicy{Never: deref(i.Never), IdleAfterSeconds: deref(i.IdleAfterSeconds),
			MinimumAwakeSeconds: deref(i.MinimumAwakeSeconds), Schedules: deref(i.Schedules)}
	}
	if w != nil {
		wake = &client.WakeRules{Paths: deref(w.Paths), Methods: deref(w.Methods), UserAgents: deref(w.UserAgents), CIDRs: deref(w.CIDRs),
			RequireCookie: deref(w.RequireCookie), RequireHeader: deref(w.RequireHeader), WakesPerHour: deref(w.WakesPerHour), Hidden: deref(w.Hidden)}
	}
	return names, idle, wake, err
}

func deref[T any](v *T) (value T) {
	if v != nil {
		value = *v
	}
	return value
}

// idleLines is an idle policy for people.
func idleLines(p *client.IdlePolicy) []string {
	if p == nil {
		return nil
	}
	var lines []string
	switch {
	case p.Never:
		lines = append(lines, "never put to sleep")
	case p.IdleAfterSeconds > 0:
		lines = append(lines, "asleep after "+inSeconds(p.IdleAfterSeconds)+" without visitors")
	}
	if p.MinimumAwakeSeconds > 0 {
		lines = append(lines, "awake for at least "+inSeconds(p.MinimumAwakeSeconds))
	}
	for _, s := range p.Schedules {
		lines = append(lines, s.Do+" at "+s.Cron+" "+s.Zone)
	}
	return lines
}

func inSeconds(n int) string {
	text := (time.Duration(n) * time.Second).String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = strings.TrimSuffix(text, zero[1:])
		}
	}
	return text
}

// wakeLines is who does not wake it, for people.
func wakeLines(r *client.WakeRules) []string {
	if r == nil {
		return nil
	}
	var lines []string
	for _, list := range []struct {
		what   string
		values []string
	}{{"paths", r.Paths}, {"methods", r.Methods}, {"user agents", r.UserAgents}, {"networks", r.CIDRs}} {
		if len(list.values) > 0 {
			lines = append(lines, "not by "+list.what+" "+strings.Join(list.values, ", "))
		}
	}
	switch {
	case r.RequireCookie != "" && r.RequireHeader != "":
		lines = append(lines, "only with cookie "+r.RequireCookie+" or header "+r.RequireHeader)
	case r.RequireCookie != "":
		lines = append(lines, "only with cookie "+r.RequireCookie)
	case r.RequireHeader != "":
		lines = append(lines, "only with header "+r.RequireHeader)
	}
	if r.WakesPerHour > 0 {
		lines = append(lines, fmt.Sprintf("at most %d times an hour", r.WakesPerHour))
	}
	if r.Hidden {
		lines = append(lines, "hidden from others")
	}
	return lines
}
