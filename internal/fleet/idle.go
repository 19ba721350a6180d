package fleet

import "time"

// IdlePolicy says when an installation is put to sleep, and woken, without
// anybody asking. The zero value never does. A field that is not set is the
// group's.
type IdlePolicy struct {
	// Never: it is not put to sleep whatever else is said.
	Never bool `json:"never,omitempty"`
	// IdleAfterSeconds is how long nobody must have come; 0 is never.
	IdleAfterSeconds int `json:"idle_after_seconds,omitempty"`
	// MinimumAwakeSeconds is how long it stays awake after a wake, whoever comes or not.
	MinimumAwakeSeconds int `json:"minimum_awake_seconds,omitempty"`
	// Schedules put it to sleep or wake it at given times.
	Schedules []Schedule `json:"schedules,omitempty"`
}

// Schedule is something to be done at given times.
type Schedule struct {
	// Cron has five fields (crontab(5)): minute, hour, day of month, month, day of week.
	Cron string `json:"cron"`
	// Zone is a name of the IANA time zone database, such as Europe/Berlin.
	Zone string `json:"zone"`
	// Do is OperationHibernate or OperationWake.
	Do OperationKind `json:"do"`
}

// WakeRules say which requests do not wake a sleeper. The zero value lets all.
type WakeRules struct {
	// Paths are prefixes of paths, Methods methods, UserAgents parts of user agents
	// (in any case), and CIDRs networks of clients that do not wake it.
	Paths      []string `json:"paths,omitempty"`
	Methods    []string `json:"methods,omitempty"`
	UserAgents []string `json:"user_agents,omitempty"`
	CIDRs      []string `json:"cidrs,omitempty"`
	// RequireCookie and RequireHeader name a cookie or header without which a
	// request does not wake it; where both are given, either will do.
	RequireCookie string `json:"require_cookie,omitempty"`
	RequireHeader string `json:"require_header,omitempty"`
	// WakesPerHour bounds the wakes by visits; 0 is the gateway's own bound.
	WakesPerHour int `json:"wakes_per_hour,omitempty"`
	// Hidden: who may not wake it is answered as if there were no such installation.
	Hidden bool `json:"hidden,omitempty"`
}

// Activity is what a gateway saw of an installation since it last told.
type Activity struct {
	InstallationID InstallationID
	// Requests are those that began; connections of other protocols count as one each.
	Requests int64
	// BytesIn came from clients and BytesOut went to them, heads apart.
	BytesIn, BytesOut int64
	// Open is how many requests and connections are open now.
	Open int64
	// LastAt is when the last one began, ended, or moved a byte.
	LastAt time.Time
}

// Over returns what comes of an installation's own policy and its group's, by
// field: what is set of its own wins. Never and IdleAfterSeconds are one: who
// sets either of them has not the group's of the other.
func (p IdlePolicy) Over(group IdlePolicy) IdlePolicy {
	out := group
	if p.Never || p.IdleAfterSeconds != 0 {
		out.Never, out.IdleAfterSeconds = p.Never, p.IdleAfterSeconds
	}
	own(&out.MinimumAwakeSeconds, p.MinimumAwakeSeconds)
	ownList(&out.Schedules, p.Schedules)
	return out
}

// Over returns what comes of an installation's own rules and its group's, by field.
func (r WakeRules) Over(group WakeRules) WakeRules {
	out := group
	ownList(&out.Paths, r.Paths)
	ownList(&out.Methods, r.Methods)
	ownList(&out.UserAgents, r.UserAgents)
	ownList(&out.CIDRs, r.CIDRs)
	own(&out.RequireCookie, r.RequireCookie)
	own(&out.RequireHeader, r.RequireHeader)
	own(&out.WakesPerHour, r.WakesPerHour)
	own(&out.Hidden, r.Hidden)
	return out
}

func own[T comparable](into *T, v T) {
	var unset T
	if v != unset {
		*into = v
	}
}

func ownList[T any](into *[]T, v []T) {
	if len(v) > 0 {
		*into = v
	}
}

// IdleChange changes an idle policy: nil stays as it is, and a zero value unsets
// the field.
type IdleChange struct {
	Never                                 *bool
	IdleAfterSeconds, MinimumAwakeSeconds *int
	Schedules                             *[]Schedule
}

// Apply changes a policy; a nil change leaves it.
func (c *IdleChange) Apply(p *IdlePolicy) {
	if c == nil {
		return
	}
	change(&p.Never, c.Never)
	change(&p.IdleAfterSeconds, c.IdleAfterSeconds)
	change(&p.MinimumAwakeSeconds, c.MinimumAwakeSeconds)
	changeList(&p.Schedules, c.Schedules)
}

// WakeChange changes wake rules as IdleChange does an idle policy.
type WakeChange struct {
	Paths, Methods, UserAgents, CIDRs *[]string
	RequireCookie, RequireHeader      *string
	WakesPerHour                      *int
	Hidden                            *bool
}

// Apply changes rules; a nil change leaves them.
func (c *WakeChange) Apply(r *WakeRules) {
	if c == nil {
		return
	}
	changeList(&r.Paths, c.Paths)
	changeList(&r.Methods, c.Methods)
	changeList(&r.UserAgents, c.UserAgents)
	changeList(&r.CIDRs, c.CIDRs)
	change(&r.RequireCookie, c.RequireCookie)
	change(&r.RequireHeader, c.RequireHeader)
	change(&r.WakesPerHour, c.WakesPerHour)
	change(&r.Hidden, c.Hidden)
}

func change[T any](into, from *T) {
	if from != nil {
		*into = *from
	}
}

// changeList keeps an empty list nil, so that what is unset is left out where it is stored.
func changeList[T any](into, from *[]T) {
	if from == nil {
		return
	}
	*into = nil
	if len(*from) > 0 {
		*into = *from
	}
}

// IdleCandidate is an installation of which its idle policy asks something now.
type IdleCandidate struct {
	InstallationID InstallationID
	// Version is the installation's: what is asked for on its strength fits no other.
	Version int64
	// Idle: it is in service, and nobody has come for as long as its policy says.
	// Else a time of a schedule has come.
	Idle bool
	// AwakeSince is when it came into service, and Now the database's time.
	AwakeSince, Now time.Time
	// Policy is its policy. Its schedules have been carried out up to ScheduleSeenAt
	// (zero where nobody has looked at them yet), and are due since ScheduleDueAt.
	Policy                        IdlePolicy
	ScheduleSeenAt, ScheduleDueAt time.Time
}

// Pool is a supply of addresses, or the gateway's of ports, of which less than a tenth is free.
type Pool struct {
	// Name is the host's and the network's, or the gateway's range.
	Name string
	// Size is how many there are, and Free how many nobody has.
	Size, Free int64
	// New: it was not low when it was last looked at.
	New bool
}

// ScheduleSeen says how far an installation's schedules have been carried out.
type ScheduleSeen struct {
	InstallationID InstallationID
	// Due is ScheduleDueAt as it was read: where the schedules have changed since,
	// nothing is written.
	Due time.Time
	// SeenAt is up to when, and NextAt when they are due again; zero is never.
	SeenAt, NextAt time.Time
}

// Traffic is what gateways have told of an installation's visitors, with what keeps it awake.
type Traffic struct {
	Activity
	Name  string
	State State
	Idle  IdlePolicy
	// ToldAt is when a gateway last told; zero where none has.
	ToldAt                  time.Time
	AwakeSince, AsleepSince time.Time
	Wakes                   int64
	// Busy is the operation that is under way; empty where there is none.
	Busy OperationKind
	// Now is the database's time.
	Now time.Time
}

// OpenFor is how long what a gateway has told to be open counts as such.
const OpenFor = 3 * time.Minute
