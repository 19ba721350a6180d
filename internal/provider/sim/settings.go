package sim

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

// Settings are a cluster's settings, parsed. The zero value has no hosts; use
// ParseSettings.
type Settings struct {
	// Hosts is how many machines the cluster has, each with MemoryMiB and DiskMiB.
	Hosts              int
	MemoryMiB, DiskMiB int64
	// Latency is how long each call takes, BootTime from power-on to healthy,
	// StopTime from the request of a clean stop to off.
	Latency, BootTime, StopTime Span
	// BackgroundTime is how long a background failure lasts, an hour at the most.
	BackgroundTime Span
	// Clones and Sleep tell whether Clone and Suspend work.
	Clones, Sleep bool
	// Faults are the probabilities, by fault.
	Faults map[Fault]float64
	// RetryAfter is what a throttled call says.
	RetryAfter time.Duration
	// Seed is what every draw depends on.
	Seed int64
}

// counted tells whether anything here depends on the number of an attempt.
func (s *Settings) counted() bool {
	return len(s.Faults) > 0 || s.Latency.P50 > 0 || s.Latency.Min != s.Latency.Max
}

// The defaults: room for 100,000 instances and more on one host.
const (
	defaultHostMiB    = 64 << 20 // 64 TiB
	defaultRetryAfter = time.Second
	defaultBackground = 5 * time.Minute
	maxHosts          = 1000
)

// Fault is something that goes wrong on purpose; as a setting, its key is
// "fault." and this word, and its value a probability from 0 to 1.
type Fault string

// The faults. Where several are set, one call meets at most one of those that
// spoil its answer: the first in this order that is drawn.
const (
	// FaultThrottle: KindThrottled with RetryAfter, nothing done.
	FaultThrottle Fault = "throttle"
	// FaultErrorBefore: KindUnavailable, nothing done.
	FaultErrorBefore Fault = "error_before"
	// FaultCapacity: Ensure of a new instance says KindCapacity, nothing done.
	FaultCapacity Fault = "capacity"
	// FaultErrorAfter: the change is made, the answer is KindUnavailable.
	FaultErrorAfter Fault = "error_after"
	// FaultLostAnswer: the change is made, then the connection breaks: KindUnavailable over io.ErrUnexpectedEOF.
	FaultLostAnswer Fault = "lost_answer"
	// FaultTimeoutAfter: the change is made, then no answer comes until the
	// context ends, or for 30 s.
	FaultTimeoutAfter Fault = "timeout_after"
	// FaultNotFoundAfterCreate: the first two Observe calls after a creation say KindNotFound.
	FaultNotFoundAfterCreate Fault = "not_found_after_create"
	// FaultBadEnd: a power-on ends with a guest panic instead of a healthy
	// instance, and a power-off stops uncleanly.
	FaultBadEnd Fault = "bad_end"
	// FaultPartialList: a page of List lacks its second half and does not say so.
	FaultPartialList Fault = "partial_list"
	// FaultWrongHealth: a look at a healthy instance, by Observe or List, says that it is unhealthy.
	FaultWrongHealth Fault = "wrong_health"
	// FaultUnknownHealth: a look at an instance that is on can't tell its health.
	FaultUnknownHealth Fault = "unknown_health"
	// FaultObserverOutage is drawn for the cluster and each minute of the clock: during
	// it, no look at any instance can tell its health.
	FaultObserverOutage Fault = "observer_outage"
	// FaultBackground is drawn for each installation and hour of the clock: at some
	// moment of it, whatever its instance runs is unhealthy for BackgroundTime, and
	// OnChange tells of both ends. It has nothing to do with the release.
	FaultBackground Fault = "background"
)

// Faults returns every fault, in the order in which they are drawn.
func Faults() []Fault {
	return []Fault{
		FaultThrottle, FaultErrorBefore, FaultCapacity, FaultErrorAfter, FaultLostAnswer,
		FaultTimeoutAfter, FaultNotFoundAfterCreate, FaultBadEnd, FaultPartialList, FaultWrongHealth,
		FaultUnknownHealth, FaultObserverOutage, FaultBackground,
	}
}

// Keys returns every settings key with its form, for help texts, in order.
func Keys() []string {
	keys := []string{
		"hosts (number, default 1)",
		"memory_mib (per host, default " + strconv.Itoa(defaultHostMiB) + ")",
		"disk_mib (per host, default " + strconv.Itoa(defaultHostMiB) + ")",
		"latency (of each call: 20ms, 10ms..50ms or p50=20ms,p99=200ms; default 0s)",
		"boot_time (likewise)",
		"stop_time (likewise)",
		"throttle_retry_after (duration, default 1s)",
		"background_time (of a background failure: as latency, default 5m, at most 1h)",
		"clones (true or false, default true)",
		"sleep (true or false, default true)",
		"seed (integer, default 0)",
	}
	for _, f := range Faults() {
		keys = append(keys, "fault."+string(f)+" (probability from 0 to 1, default 0)")
	}
	return keys
}

// ParseSettings reads the settings of a cluster. Its error joins one *fleet.Error
// of KindInvalid for each bad key, whose Field is "settings." and the key.
func ParseSettings(values map[string]string) (Settings, error) {
	s := Settings{
		Hosts: 1, MemoryMiB: defaultHostMiB, DiskMiB: defaultHostMiB, RetryAfter: defaultRetryAfter, Clones: true, Sleep: true,
		BackgroundTime: Span{Min: defaultBackground, Max: defaultBackground}, Faults: map[Fault]float64{},
	}
	var bad []error
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if err := s.set(key, values[key]); err != nil {
			bad = append(bad, fleet.InvalidField("settings."+key, "setting %s=%s: %w", key, values[key], err))
		}
	}
	return s, errors.Join(bad...)
}

func (s *Settings) set(key, value string) (err error) {
	switch key {
	case "hosts":
		var n int64
		n, err = parseInt(value, 1, maxHosts)
		s.Hosts = int(n)
	case "memory_mib":
		s.MemoryMiB, err = parseInt(value, 1, 1<<40)
	case "disk_mib":
		s.DiskMiB, err = parseInt(value, 1, 1<<40)
	case "latency":
		s.Latency, err = ParseSpan(value)
	case "boot_time":
		s.BootTime, err = ParseSpan(value)
	case "stop_time":
		s.StopTime, err = ParseSpan(value)
	case "background_time":
		if s.BackgroundTime, err = ParseSpan(value); err == nil && s.BackgroundTime.Zero() {
			err = errors.New("want more than no time at all")
		}
	case "sleep":
		if s.Sleep, err = strconv.ParseBool(value); err != nil {
			err = errors.New("want true or false")
		}
	case "clones":
		if s.Clones, err = strconv.ParseBool(value); err != nil {
			err = errors.New("want true or false")
		}
	case "throttle_retry_after":
		s.RetryAfter, err = parseDuration(value)
	case "seed":
		if s.Seed, err = strconv.ParseInt(value, 10, 64); err != nil {
			err = errors.New("want a whole number of 64 bits")
		}
	default:
		name, isFault := strings.CutPrefix(key, "fault.")
		if !isFault || !slices.Contains(Faults(), Fault(name)) {
			return errors.New("there is no such setting; remove it")
		}
		p, perr := strconv.ParseFloat(value, 64)
		if perr != nil || math.IsNaN(p) || p < 0 || p > 1 {
			return errors.New("want a probability from 0 to 1")
		}
		if p > 0 {
			s.Faults[Fault(name)] = p
		}
	}
	return err
}

func parseInt(value string, low, high int64) (int64, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < low || n > high {
		return 0, fmt.Errorf("want a whole number from %d to %d", low, high)
	}
	return n, nil
}

func parseDuration(value string) (time.Duration, error) {
	d, err := time.ParseDuration(strings.TrimSpace(value))
	if err != nil || d < 0 {
		return 0, errors.New("want a duration such as 20ms or 1.5s")
	}
	return d, nil
}
