package api

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// The bounds of what a rollout may be asked to do.
const (
	maxRings      = 100
	maxRingMember = 10_000
	maxRolloutInt = 1_000_000
	maxQuery      = 4096 // bytes
	// maxRolloutTime bounds every duration of a rollout.
	maxRolloutTime = 30 * 24 * time.Hour
	// noSoak is none at all, where 0 is the default: any negative time is.
	noSoak = -time.Second
)

// rolloutSpec validates a request for a rollout and makes it one of the domain.
// What is left out stays zero; a zero that was sent is refused where it would be
// taken for the default, or an empty choice for a choice of all.
func rolloutSpec(in client.CreateRollout, m members) (fleet.RolloutSpec, error) {
	if err := firstError(m.noNull(), checkRolloutNumbers(in, m), checkRings(in.Rings, m)); err != nil {
		return fleet.RolloutSpec{}, err
	}
	out := fleet.RolloutSpec{
		FirstWave: in.FirstWave, Slots: in.Slots, SlotsPercent: in.SlotsPercent, VerifySlots: in.VerifySlots,
		MinSamples: in.MinSamples, MaxFailures: in.MaxFailures, MaxFailuresPercent: in.MaxFailuresPercent, AutoRollback: in.AutoRollback,
	}
	for _, d := range []struct {
		field, text string
		to          *time.Duration
		zero        bool
	}{
		{"healthy_for", in.HealthyFor, &out.HealthyFor, false}, {"health_deadline", in.HealthDeadline, &out.HealthDeadline, false},
		{"soak", in.Soak, &out.Soak, true}, {"progress_deadline", in.ProgressDeadline, &out.ProgressDeadline, false},
	} {
		var err error
		if *d.to, err = duration(d.field, d.text, m.present[d.field], d.zero); err != nil {
			return out, err
		}
	}
	if m.present["soak"] && out.Soak == 0 {
		out.Soak = noSoak
	}
	var err error
	if out.Metric, err = metricGate(in.Metric, m); err != nil {
		return out, err
	}
	out.Rings, err = rings(in.Rings, m)
	return out, err
}

// duration reads a field of the form 1h30m. A zero is refused unless it means none.
func duration(field, text string, sent, zero bool) (time.Duration, error) {
	if !sent {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil || d < 0 || d > maxRolloutTime:
		return 0, fleet.InvalidField(field, "%s must be a duration of at most %s, such as 30s or 1h30m", field, maxRolloutTime)
	case d == 0 && !zero:
		return 0, fleet.InvalidField(field, "%s must be above 0: leave it out for the default", field)
	}
	return d, nil
}

func checkRolloutNumbers(in client.CreateRollout, m members) error {
	if m.present["to_revision"] && in.ToRevision < 1 {
		return fleet.InvalidField("to_revision", "to_revision must be the number of a revision, from 1: leave it out for the newest")
	}
	for field, n := range map[string]int{"first_wave": in.FirstWave, "slots": in.Slots, "verify_slots": in.VerifySlots,
		"min_samples": in.MinSamples, "max_failures": in.MaxFailures} {
		if m.present[field] && (n < 1 || n > maxRolloutInt) {
			return fleet.InvalidField(field, "%s must be from 1 to %d: leave it out for the default", field, maxRolloutInt)
		}
	}
	if m.present["slots"] && m.present["slots_percent"] {
		return fleet.InvalidField("slots_percent", "give slots or slots_percent, not both")
	}
	return firstError(checkPercent("slots_percent", in.SlotsPercent, m), checkPercent("max_failures_percent", in.MaxFailuresPercent, m))
}

func checkPercent(field string, percent float64, m members) error {
	if m.present[field] && (percent <= 0 || percent > 100) {
		return fleet.InvalidField(field, "%s must be above 0 and at most 100", field)
	}
	return nil
}

func checkRings(in []client.RolloutRing, m members) error {
	if m.present["rings"] && (len(in) == 0 || len(in) > maxRings) {
		return fleet.InvalidField("rings", "rings must be 1 to %d: leave them out for one ring of all", maxRings)
	}
	names := map[string]bool{}
	for i, ring := range in {
		at := func(field string) string { return fmt.Sprintf("rings.%d.%s", i, field) }
		switch {
		case !isDNSLabel(ring.Name):
			return fleet.InvalidField(at("name"), "the name of a ring must be a DNS label, such as canary, not %s", printable(ring.Name))
		case names[ring.Name]:
			return fleet.InvalidField(at("name"), "two rings have the name %s: choose another", ring.Name)
		case m.present[at("labels")] && len(ring.Labels) == 0, m.present[at("installations")] && len(ring.Installations) == 0:
			return fleet.InvalidField(at("labels"), "ring %s chooses by nothing: leave the empty field out for a ring of all", ring.Name)
		case len(ring.Installations) > maxRingMember:
			return fleet.InvalidField(at("installations"), "ring %s names %d installations, at most %d are allowed", ring.Name, len(ring.Installations), maxRingMember)
		}
		names[ring.Name] = true
		for key, value := range ring.Labels {
			if err := checkLabel(at("labels"), key, value); err != nil {
				return err
			}
		}
		for _, name := range ring.Installations {
			if !fleet.ValidID(name) && !isDNSLabel(name) {
				return fleet.InvalidField(at("installations"), "%s is neither the name nor the ID of an installation", printable(name))
			}
		}
		if err := checkPercent(at("percent"), ring.Percent, m); err != nil {
			return err
		}
	}
	return nil
}

func rings(in []client.RolloutRing, m members) ([]fleet.RolloutRing, error) {
	var out []fleet.RolloutRing
	for i, r := range in {
		ring := fleet.RolloutRing{Name: r.Name, Labels: r.Labels, Installations: r.Installations, Percent: r.Percent}
		if field := fmt.Sprintf("rings.%d.soak", i); m.present[field] {
			soak, err := duration(field, r.Soak, true, true)
			if err != nil {
				return nil, err
			}
			ring.Soak = &soak
		}
		out = append(out, ring)
	}
	return out, nil
}

func metricGate(in *client.MetricGate, m members) (*fleet.MetricGate, error) {
	if in == nil {
		return nil, nil
	}
	u, err := url.Parse(in.URL)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return nil, fleet.InvalidField("metric.url", "metric.url must be the address of a Prometheus, such as http://127.0.0.1:9090")
	case u.User != nil:
		return nil, fleet.InvalidField("metric.url", "metric.url must hold no user and password: everybody who sees the rollout would see them")
	case strings.TrimSpace(in.Query) == "" || len(in.Query) > maxQuery:
		return nil, fleet.InvalidField("metric.query", "metric.query must be an expression of at most %d bytes", maxQuery)
	case !m.present["metric.max"]:
		return nil, fleet.InvalidField("metric.max", "metric.max is missing: say above which value the rollout halts")
	}
	gate := &fleet.MetricGate{URL: in.URL, Query: in.Query, Max: in.Max}
	gate.For, err = duration("metric.for", in.For, m.present["metric.for"], true)
	return gate, err
}
