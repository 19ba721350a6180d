package rollout

import (
	"fmt"
	"net/url"
	"slices"
	"time"

	"dormouse/internal/fleet"
)

// Defaults of a spec.
const (
	defaultSlotsPercent     = 10
	defaultVerifySlots      = 20
	defaultHealthyFor       = 10 * time.Second
	defaultHealthDeadline   = 5 * time.Minute
	defaultSoak             = 2 * time.Hour
	defaultMinSamples       = 3
	defaultProgressDeadline = 30 * time.Minute
	// noneSoak is what any negative soak becomes: none at all, where 0 is the default.
	noneSoak = -time.Second
)

// The shares of the group that the first waves bring it to: what a release that
// is bad for all, and one that is bad for a stratum, may touch before it is known.
const (
	firstWaveShare  = 0.005
	secondWaveShare = 0.02
	firstWaveLeast  = 3
)

// Normalise fills in the defaults of a spec for a group of so many members and
// refuses what makes no sense with a KindInvalid error that names the field.
// What it returns it leaves as it is when given it again.
func Normalise(spec fleet.RolloutSpec, members int) (fleet.RolloutSpec, error) {
	s := spec
	if members < 0 {
		return s, fleet.InvalidField("members", "a group can't have %d members", members)
	}
	if err := checkRings(s.Rings); err != nil {
		return s, err
	}
	if err := checkNumbers(s); err != nil {
		return s, err
	}
	if err := checkMetric(s.Metric); err != nil {
		return s, err
	}
	s.Rings = slices.Clone(s.Rings)
	for i := range s.Rings {
		if s.Rings[i].Name == "" {
			s.Rings[i].Name = fmt.Sprintf("ring-%d", i+1)
		}
	}
	if s.FirstWave == 0 {
		s.FirstWave = max(firstWaveLeast, int(firstWaveShare*float64(members)))
	}
	if s.Slots == 0 && s.SlotsPercent == 0 {
		s.SlotsPercent = defaultSlotsPercent
	}
	orDefault(&s.VerifySlots, defaultVerifySlots)
	orDefault(&s.HealthyFor, defaultHealthyFor)
	orDefault(&s.HealthDeadline, defaultHealthDeadline)
	orDefault(&s.MinSamples, defaultMinSamples)
	orDefault(&s.Soak, defaultSoak)
	if s.Soak < 0 {
		s.Soak = noneSoak
	}
	// A member may need both before it has come to an end.
	orDefault(&s.ProgressDeadline, max(defaultProgressDeadline, 2*(s.HealthyFor+s.HealthDeadline)))
	if least := s.HealthyFor + s.HealthDeadline; s.ProgressDeadline <= least {
		return s, fleet.InvalidField("progress_deadline", "progress_deadline is %s, but one installation may take healthy_for + health_deadline = %s: make it longer",
			s.ProgressDeadline, least)
	}
	return s, nil
}

func orDefault[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

func checkNumbers(s fleet.RolloutSpec) error {
	for _, n := range []struct {
		field string
		value int
	}{{"first_wave", s.FirstWave}, {"slots", s.Slots}, {"verify_slots", s.VerifySlots},
		{"min_samples", s.MinSamples}, {"max_failures", s.MaxFailures}} {
		if n.value < 0 {
			return fleet.InvalidField(n.field, "%s is %d: it can't be negative", n.field, n.value)
		}
	}
	for _, n := range []struct {
		field string
		value float64
	}{{"slots_percent", s.SlotsPercent}, {"max_failures_percent", s.MaxFailuresPercent}} {
		if !(n.value >= 0 && n.value <= 100) {
			return fleet.InvalidField(n.field, "%s is %g: give a percentage from 0 to 100", n.field, n.value)
		}
	}
	for _, n := range []struct {
		field string
		value time.Duration
	}{{"healthy_for", s.HealthyFor}, {"health_deadline", s.HealthDeadline}, {"progress_deadline", s.ProgressDeadline}} {
		if n.value < 0 {
			return fleet.InvalidField(n.field, "%s is %s: it can't be negative", n.field, n.value)
		}
	}
	if s.Slots > 0 && s.SlotsPercent > 0 {
		return fleet.InvalidField("slots_percent", "slots and slots_percent are both given: give one of them")
	}
	return nil
}

func checkRings(rings []fleet.RolloutRing) error {
	names := map[string]bool{}
	var percent float64
	for i, r := range rings {
		field := fmt.Sprintf("rings.%d", i)
		kinds := 0
		for _, given := range []bool{len(r.Labels) > 0, len(r.Installations) > 0, r.Percent != 0} {
			if given {
				kinds++
			}
		}
		switch {
		case kinds > 1:
			return fleet.InvalidField(field, "ring %d chooses in more than one way: give labels, installations or percent", i+1)
		case kinds == 0 && i < len(rings)-1:
			return fleet.InvalidField(field, "ring %d matches all installations, so that nothing is left for those after it: say which it takes, or make it the last", i+1)
		case !(r.Percent >= 0 && r.Percent <= 100):
			return fleet.InvalidField(field+".percent", "percent is %g: give a percentage from 0 to 100", r.Percent)
		case r.Name != "" && names[r.Name]:
			return fleet.InvalidField(field+".name", "two rings are called %s: give each a name of its own", r.Name)
		}
		names[r.Name] = true
		if percent += r.Percent; percent > 100 {
			return fleet.InvalidField(field+".percent", "the rings up to this one take %g percent: at most 100 can be taken", percent)
		}
	}
	return nil
}

func checkMetric(m *fleet.MetricGate) error {
	if m == nil {
		return nil
	}
	u, err := url.Parse(m.URL)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fleet.InvalidField("metric.url", "%q is not the address of a Prometheus server: give http://HOST:PORT", m.URL)
	case m.Query == "":
		return fleet.InvalidField("metric.query", "there is no query: give an expression that has one value")
	case m.Max != m.Max:
		return fleet.InvalidField("metric.max", "max is not a number")
	case m.For < 0:
		return fleet.InvalidField("metric.for", "for is %s: it can't be negative", m.For)
	}
	return nil
}

// slots is how many members may be in work at once.
func slots(s fleet.RolloutSpec, members int) int {
	if s.Slots > 0 {
		return s.Slots
	}
	percent := s.SlotsPercent
	if percent == 0 {
		percent = defaultSlotsPercent
	}
	return max(1, int(percent*float64(members)/100+0.999999))
}

// soak is how long a ring is watched.
func soak(s fleet.RolloutSpec, ring int) time.Duration {
	d := s.Soak
	if ring < len(s.Rings) && s.Rings[ring].Soak != nil {
		d = *s.Rings[ring].Soak
	}
	return max(0, d)
}
