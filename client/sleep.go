package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// IdlePolicy says when an installation is put to sleep, and woken, without anybody asking.
type IdlePolicy struct {
	// Never: it is not put to sleep whatever else is said.
	Never bool `json:"never,omitempty"`
	// IdleAfterSeconds is how long nobody must have come; never where absent.
	IdleAfterSeconds int `json:"idle_after_seconds,omitempty"`
	// MinimumAwakeSeconds is how long it stays awake after a wake.
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
	// Do is hibernate or wake.
	Do string `json:"do"`
}

// WakeRules say which requests do not wake a sleeping installation.
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
	// WakesPerHour bounds the wakes by visits; the gateway's own bound where absent.
	WakesPerHour int `json:"wakes_per_hour,omitempty"`
	// Hidden: who may not wake it is answered as if there were no such installation.
	Hidden bool `json:"hidden,omitempty"`
}

// UpdateIdlePolicy changes an idle policy: what is absent stays, and zero and
// empty values are the group's again, or none.
type UpdateIdlePolicy struct {
	Never               *bool       `json:"never,omitempty"`
	IdleAfterSeconds    *int        `json:"idle_after_seconds,omitempty"`
	MinimumAwakeSeconds *int        `json:"minimum_awake_seconds,omitempty"`
	Schedules           *[]Schedule `json:"schedules,omitempty"`
}

// UpdateWakeRules changes wake rules as UpdateIdlePolicy does an idle policy. Lists are replaced whole.
type UpdateWakeRules struct {
	Paths         *[]string `json:"paths,omitempty"`
	Methods       *[]string `json:"methods,omitempty"`
	UserAgents    *[]string `json:"user_agents,omitempty"`
	CIDRs         *[]string `json:"cidrs,omitempty"`
	RequireCookie *string   `json:"require_cookie,omitempty"`
	RequireHeader *string   `json:"require_header,omitempty"`
	WakesPerHour  *int      `json:"wakes_per_hour,omitempty"`
	Hidden        *bool     `json:"hidden,omitempty"`
}

// NextSchedule is what a schedule does next, and when.
type NextSchedule struct {
	At time.Time `json:"at"`
	Do string    `json:"do"`
}

// Saved is what is kept of a sleeping machine's memory.
type Saved struct {
	// Tier is warm, packed or cold, from the fastest wake to the cheapest sleep.
	Tier string `json:"tier"`
	// Bytes is what the saved memory takes on the disk.
	Bytes int64     `json:"bytes"`
	At    time.Time `json:"at"`
}

// HibernateInstallation is the body of POST /api/v1/installations/{id}/hibernate.
type HibernateInstallation struct {
	// Mode is memory (the default: programs go on where they were) or cold (the
	// program is stopped cleanly, and only the disk is kept).
	Mode string `json:"mode,omitempty"`
}

// Traffic is what gateways have seen of an installation's visitors, and what keeps it awake.
type Traffic struct {
	InstallationID string `json:"installation_id"`
	Name           string `json:"name"`
	State          string `json:"state"`
	// Requests, BytesIn and BytesOut count from the installation's first day.
	Requests int64 `json:"requests"`
	BytesIn  int64 `json:"bytes_in"`
	BytesOut int64 `json:"bytes_out"`
	// Open are the requests and connections that were open when it was last told of, at ToldAt.
	Open   int64     `json:"open"`
	ToldAt time.Time `json:"told_at,omitzero"`
	// LastActiveAt is when somebody last came, or a byte moved; absent where nobody has.
	LastActiveAt time.Time `json:"last_active_at,omitzero"`
	// Wakes is how often it was woken.
	Wakes       int64     `json:"wakes"`
	AwakeSince  time.Time `json:"awake_since,omitzero"`
	AsleepSince time.Time `json:"asleep_since,omitzero"`
	// KeepsAwake says in words what keeps it awake; empty where nothing does.
	KeepsAwake []string `json:"keeps_awake,omitempty"`
	// SleepsAt is when it is put to sleep if nobody comes; absent where it is not.
	SleepsAt     time.Time     `json:"sleeps_at,omitzero"`
	NextSchedule *NextSchedule `json:"next_schedule,omitempty"`
}

// Traffic tells of an installation's visitors, and what keeps it awake.
func (s *Installations) Traffic(ctx context.Context, id string) (Traffic, error) {
	return get[Traffic](ctx, s.c, nil, "installations", id, "traffic")
}

// ListTraffic tells of the installations that were visited last, at most limit (the
// server's own if 0); there is no further page.
func (s *Installations) ListTraffic(ctx context.Context, limit int) ([]Traffic, error) {
	query := url.Values{}
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	page, err := get[Page[Traffic]](ctx, s.c, query, "traffic")
	return page.Items, err
}

// HibernateCold asks to stop an installation's program cleanly and to keep its disk only.
func (s *Installations) HibernateCold(ctx context.Context, id string, options ...RequestOption) (Installation, error) {
	return mutate[Installation](ctx, s.c, http.MethodPost, HibernateInstallation{Mode: "cold"}, options, "installations", id, "hibernate")
}

// CloneInstallation is the body of POST /api/v1/installations/{id}/clone.
type CloneInstallation struct {
	// TimeToLiveSeconds is how long the copy runs once it is healthy; 900 if 0, 3600 at most.
	TimeToLiveSeconds int `json:"time_to_live_seconds,omitempty"`
}

// StepHoldClone is the step of a clone's operation while the copy can be looked at.
const StepHoldClone = "hold-clone"

// Clone asks for a throw-away copy of a sleeping installation.
func (s *Installations) Clone(ctx context.Context, id string, in CloneInstallation, options ...RequestOption) (Installation, error) {
	return mutate[Installation](ctx, s.c, http.MethodPost, in, options, "installations", id, "clone")
}
