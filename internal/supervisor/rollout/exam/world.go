package exam

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"dormouse/internal/fleet"
)

// What chance decides: each has dice of its own for each installation.
const (
	diceSize = iota + 1
	diceCluster
	diceLabel
	diceAsleep
	diceDefect
	diceDelay
	diceShows
	diceTrouble
	diceTroubleAt
	diceTroubleFor
	diceTroubleAgain
	diceCure
	diceReason
	diceCall
	diceBoot
	diceAnswer
	diceOutage
	diceBusy
	diceBusyAt
	diceGone
	diceWake
	diceUnverifiable
	diceLook
)

// dice are chances that do not depend on the order in which they are thrown.
type dice uint64

// roll returns a number in [0, 1) for these questions.
func (d dice) roll(what int, which ...int) float64 {
	h := uint64(d) ^ uint64(what)*0x9e3779b97f4a7c15
	h = mix(h)
	for _, w := range which {
		h = mix(h ^ uint64(w)*0xd1342543de82ef95)
	}
	return float64(h>>11) / (1 << 53)
}

func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// tenant is an installation as it really is.
type tenant struct {
	dice    dice
	memory  int
	cluster string
	labels  map[string]string
	asleep  bool
	// affected: the release is bad for it, and fails so long after its start.
	affected bool
	delay    time.Duration
	// Background trouble, as offsets from the rollout's beginning.
	failsOnce  bool
	spells     []spell
	chronic    bool
	chronicAt  time.Duration
	broken     bool // any of the above
	verifiable bool

	// What runs on it is up since upAt, and bad for good from badAt (or never).
	upAt, badAt time.Duration
	// cured spells were ended by a restart; starts counts what chance is asked for.
	cured, starts int
}

// spell is a time in which an installation answers badly whatever the release.
type spell struct{ from, to time.Duration }

// since is for how long everybody has been up when a rollout begins.
const since = 1000 * time.Hour

// never is after any exam.
const never = time.Duration(math.MaxInt64)

// world is a fleet and a release as they really are.
type world struct {
	release *Release
	tenants []tenant
	// newBoot is how many times as long the new release boots.
	newBoot    float64
	call, boot lognormal
	outages    []outage
}

type outage struct {
	from, to time.Duration
	unknown  bool
	cluster  string
	share    float64
}

// lognormal is a distribution by its median and its 99th percentile, in seconds.
type lognormal struct{ mu, sigma float64 }

func newLognormal(p50, p99 float64) lognormal {
	return lognormal{math.Log(p50 / 1000), max(0, math.Log(p99/p50)) / 2.3263}
}

// at returns the value at a quantile.
func (l lognormal) at(u float64) time.Duration {
	u = min(max(u, 1e-9), 1-1e-9)
	return seconds(math.Exp(l.mu + l.sigma*math.Sqrt2*math.Erfinv(2*u-1)))
}

func orElse(v, otherwise float64) float64 {
	if v == 0 {
		return otherwise
	}
	return v
}

func minutes(m float64) time.Duration { return seconds(60 * m) }

func newWorld(r *Release) (*world, error) {
	l := r.Latency
	w := &world{release: r, newBoot: orElse(l.NewBoot, 1), tenants: make([]tenant, r.Installations),
		call: newLognormal(orElse(l.CallP50, 500), orElse(l.CallP99, max(5000, l.CallP50))),
		boot: newLognormal(orElse(l.BootP50, 2000), orElse(l.BootP99, max(10000, l.BootP50)))}
	for _, o := range r.Observer.Outages {
		w.outages = append(w.outages, outage{from: minutes(o.AtMinutes), to: minutes(o.AtMinutes + o.Minutes), unknown: o.Answer == answerUnknown,
			cluster: o.Cluster, share: orElse(o.Share, 1)})
	}
	sizes, clusters := newChoice(r.Sizes, defaultSize), newChoice(r.Clusters, defaultCluster)
	keys := slices.Sorted(maps.Keys(r.Labels))
	labels := make([]choice, len(keys))
	for k, key := range keys {
		labels[k] = newChoice(r.Labels[key], "")
	}
	for i := range w.tenants {
		t := &w.tenants[i]
		t.dice = dice(mix(r.Seed ^ mix(uint64(i)+1)))
		t.memory, _ = strconv.Atoi(sizes.at(t.dice.roll(diceSize)))
		t.cluster = clusters.at(t.dice.roll(diceCluster))
		t.labels = make(map[string]string, len(keys))
		for k, key := range keys {
			t.labels[key] = labels[k].at(t.dice.roll(diceLabel, k))
		}
		t.asleep = t.dice.roll(diceAsleep) < r.Asleep
		t.verifiable = t.dice.roll(diceUnverifiable) >= r.Churn.Unverifiable
		t.upAt, t.badAt = -since, never
		w.trouble(t)
	}
	return w, w.afflict()
}

// What installations have where a corpus does not say.
const (
	defaultSize    = "128"
	defaultCluster = "one"
)

// choice draws values by their weights.
type choice struct {
	values []string
	upTo   []float64
}

func newChoice(weights map[string]float64, otherwise string) choice {
	if len(weights) == 0 {
		return choice{[]string{otherwise}, []float64{1}}
	}
	var c choice
	sum := 0.0
	for _, v := range slices.Sorted(maps.Keys(weights)) {
		if weights[v] > 0 {
			sum += weights[v]
			c.values = append(c.values, v)
			c.upTo = append(c.upTo, sum)
		}
	}
	return c
}

func (c choice) at(u float64) string {
	u *= c.upTo[len(c.upTo)-1]
	for i, upTo := range c.upTo {
		if u < upTo {
			return c.values[i]
		}
	}
	return c.values[len(c.values)-1]
}

// afflict chooses whom the defect is in for: an exact part of those it may be in
// for, so that a small part of a small fleet is not none of it by chance.
func (w *world) afflict() error {
	d := w.release.Defect
	if d == nil {
		return nil
	}
	where, err := parseWhere(d.Where)
	if err != nil {
		return err
	}
	var matching []int
	for i := range w.tenants {
		if w.tenants[i].matches(where) {
			matching = append(matching, i)
		}
	}
	slices.SortFunc(matching, func(a, b int) int {
		if w.tenants[a].dice.roll(diceDefect) < w.tenants[b].dice.roll(diceDefect) {
			return -1
		}
		return 1
	})
	n := int(math.Ceil(orElse(d.Share, 1) * float64(len(matching))))
	if n == 0 {
		return fmt.Errorf("release %s: there is no installation that its defect could be in for (%s)", w.release.ID, d.Where)
	}
	for _, i := range matching[:n] {
		t := &w.tenants[i]
		t.affected = true
		t.delay = seconds(d.DelaySeconds * (1 + d.Jitter*(2*t.dice.roll(diceDelay)-1)))
	}
	return nil
}

func (t *tenant) matches(where map[string]string) bool {
	for key, value := range where {
		have := t.labels[key]
		switch key {
		case whereMemory:
			have = strconv.Itoa(t.memory)
		case whereCluster:
			have = t.cluster
		}
		if have != value {
			return false
		}
	}
	return true
}

// trouble gives an installation its background trouble, if it is its lot.
func (w *world) trouble(t *tenant) {
	b := w.release.Background
	if t.dice.roll(diceTrouble) >= b.Rate {
		return
	}
	if b.Operation+b.Spell+b.Chronic == 0 {
		b.Operation, b.Spell, b.Chronic = 1, 1, 1
	}
	horizon := minutes(60 * orElse(b.HorizonHours, 10))
	at := time.Duration(t.dice.roll(diceTroubleAt) * float64(horizon))
	switch u := t.dice.roll(diceTrouble, 1) * (b.Operation + b.Spell + b.Chronic); {
	case u < b.Operation:
		t.failsOnce = true
	case u < b.Operation+b.Spell:
		t.broken = true
		for n := 0; n < 20 && (n == 0 || t.dice.roll(diceTroubleAgain, n) < b.SpellAgain); n++ {
			length := minutes(orElse(b.SpellMinutes, 20) * (0.25 - math.Log(1-t.dice.roll(diceTroubleFor, n))))
			t.spells = append(t.spells, spell{at, at + length})
			at += length + minutes(120*t.dice.roll(diceTroubleAt, n+1))
		}
	default:
		t.broken, t.chronic = true, true
		t.chronicAt = 2*at - horizon
	}
}

// troubled tells whether it answers badly at a moment for a reason that is not the release's.
func (t *tenant) troubled(at time.Duration) bool {
	if t.chronic && at >= t.chronicAt {
		return true
	}
	for n, s := range t.spells {
		if n >= t.cured && at >= s.from && at < s.to {
			return true
		}
	}
	return false
}

// well is the truth about its health at a moment, while it is up.
func (t *tenant) well(at time.Duration) bool {
	return at >= t.upAt && at < t.badAt && !(t.broken && t.troubled(at))
}

// answer is what the observer says about it at a moment.
func (w *world) answer(i int, at time.Duration) fleet.HealthState {
	t := &w.tenants[i]
	for n := range w.outages {
		o := &w.outages[n]
		if at >= o.from && at < o.to && w.hits(n, t) {
			if o.unknown {
				return fleet.HealthUnknown
			}
			return fleet.HealthUnhealthy
		}
	}
	good := t.well(at)
	if o := &w.release.Observer; o.Wrong > 0 || o.Unknown > 0 {
		u := t.dice.roll(diceAnswer, int(at/time.Millisecond))
		switch {
		case u < o.Unknown:
			return fleet.HealthUnknown
		case u < o.Unknown+o.Wrong:
			good = !good
		}
	}
	if good {
		return fleet.HealthHealthy
	}
	return fleet.HealthUnhealthy
}
