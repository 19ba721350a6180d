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
