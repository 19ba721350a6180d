package exam

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// GenerateOptions say what corpus to make. Zero values take the defaults named here.
type GenerateOptions struct {
	// Seed: the same one gives the same corpus. Releases (600) are half good, half bad.
	Seed     uint64
	Releases int
	// Installations (2000) of each, and the part of them with background trouble (0.01).
	Installations int
	Background    float64
	// Delays multiplies how late a defect shows (1).
	Delays float64
}

// draft is a release being made.
type draft struct {
	*Release
	r      *rand.Rand
	delays float64
}

// class makes one sort of release.
type class struct {
	name string
	make func(*draft)
}

// badClasses and goodClasses come up in turn, so that each is examined as often.
func badClasses() []class {
	return []class{
		{"crash-all", func(d *draft) { d.defect(DefectCrash, 0) }},
		{"crash-size", func(d *draft) { d.defect(DefectCrash, 0); d.stratum(whereMemory) }},
		{"some-crash", func(d *draft) { d.defect(DefectCrash, 0); d.some() }},
		{"slow-all", func(d *draft) { d.defect(DefectSlow, 15*60) }},
		{"crash-label", func(d *draft) { d.defect(DefectCrash, 0); d.stratum("") }},
		{"some-late-minute", func(d *draft) { d.defect(DefectLate, 60); d.some() }},
		{"late-minute-all", func(d *draft) { d.defect(DefectLate, 60) }},
		{"crash-cluster", func(d *draft) { d.defect(DefectCrash, 0); d.stratum(whereCluster) }},
		{"some-late-hour", func(d *draft) { d.defect(DefectLate, 3600); d.some() }},
		{"late-hour-all", func(d *draft) { d.defect(DefectLate, 3600) }},
		{"late-hour-stratum", func(d *draft) { d.defect(DefectLate, 3600); d.stratum("any") }},
		{"some-slow", func(d *draft) { d.defect(DefectSlow, 15*60); d.some() }},
		{"slow-stratum", func(d *draft) { d.defect(DefectSlow, 15*60); d.stratum("any") }},
		{"late-minute-stratum", func(d *draft) { d.defect(DefectLate, 60); d.stratum("any") }},
	}
}

func goodClasses() []class {
	return []class{
		{"good-plain", func(*draft) {}},
		{"good-flaky-observer", func(d *draft) { d.flaky() }},
		{"good-outage-bad", func(d *draft) { d.outage(answerBad, false) }},
		{"good-slow-but-fine", func(d *draft) { d.Latency.NewBoot = 5 + 15*d.r.Float64() }},
		{"good-outage-unknown", func(d *draft) { d.outage(answerUnknown, false) }},
		{"good-outage-cluster", func(d *draft) { d.outage(answerBad, true) }},
		{"good-everything", func(d *draft) { d.flaky(); d.outage(answerBad, d.r.IntN(2) == 0); d.outage(answerUnknown, false) }},
	}
}

// Generate makes a corpus.
func Generate(o GenerateOptions) []Release {
	if o.Releases == 0 {
		o.Releases = 600
	}
	if o.Installations == 0 {
		o.Installations = 2000
	}
	o.Background = orElse(o.Background, 0.01)
	o.Delays = orElse(o.Delays, 1)
	bad, good := badClasses(), goodClasses()
	releases := make([]Release, o.Releases)
	for i := range releases {
		rng := rand.New(rand.NewPCG(o.Seed, uint64(i)))
		d := &draft{Release: &releases[i], r: rng, delays: o.Delays}
		d.ID, d.Seed, d.Installations = fmt.Sprintf("r%04d", i), rng.Uint64()>>11, o.Installations
		d.fleet()
		d.Background = Background{Rate: o.Background, SpellAgain: 0.3 * rng.Float64(), SpellMinutes: 5 + 55*rng.Float64(), RestartCures: 0.5 * rng.Float64()}
		c := good[i/2%len(good)]
		if i%2 == 1 {
			c = bad[i/2%len(bad)]
			// A bad release can meet a bad observer.
			switch rng.IntN(8) {
			case 0:
				d.flaky()
			case 1:
				d.outage([]string{answerBad, answerUnknown}[rng.IntN(2)], rng.IntN(2) == 0)
			}
		}
		d.Class = c.name
		c.make(d)
	}
	return releases
}

// fleet draws how the installations are divided, how fast they are and what else happens.
func (d *draft) fleet() {
	d.Sizes = d.weights([]string{"64", "128", "256", "512", "1024"}, 2)
	d.Clusters = d.weights([]string{"east", "west", "north", "south", "lab"}, 1)
	d.Labels = map[string]map[string]float64{}
	d.Labels["tier"] = d.weights([]string{"free", "pro", "team", "enterprise"}, 2)
	if d.r.IntN(2) == 0 {
		d.Labels["region"] = d.weights([]string{"de", "fr", "us", "jp", "in", "br", "za", "au"}, 2)
	}
	if d.r.IntN(3) == 0 {
		d.Labels["plan"] = d.weights([]string{"monthly", "yearly"}, 2)
	}
	if d.r.IntN(3) == 0 {
		d.Asleep = 0.1 + 0.4*d.r.Float64()
	}
	d.Latency = Latency{CallP50: round(200 + 600*d.r.Float64()), CallP99: round(2000 + 4000*d.r.Float64()),
		BootP50: round(500 + 4000*d.r.Float64()), BootP99: round(8000 + 12000*d.r.Float64())}
	d.Churn = Churn{Busy: 0.02, Gone: 0.01, Wakes: 0.1, Unverifiable: 0.05}
	d.Observer.EverySeconds = []float64{15, 30, 60}[d.r.IntN(3)]
}

func round(v float64) float64 { return float64(int(v)) }

// weights draws at least so many values, none with less than a twentieth.
func (d *draft) weights(values []string, least int) map[string]float64 {
	n := least + d.r.IntN(len(values)-least+1)
	w := map[string]float64{}
	for _, v := range values[:n] {
		w[v] = round(100*(0.08+d.r.ExpFloat64())) / 100
	}
	sum := 0.0
	for _, v := range slices.Sorted(maps.Keys(w)) {
		sum += w[v]
	}
	for v := range w {
		w[v] = max(w[v], round(100*0.055*sum)/100)
	}
	return w
}

func (d *draft) defect(kind DefectKind, delay float64) {
	d.Defect = &Defect{Kind: kind, DelaySeconds: delay * d.delays}
	if delay > 0 {
		d.Defect.Jitter = round(30*d.r.Float64()) / 100
	}
}

// some makes it bad for 2 to 10 % of the tenants.
func (d *draft) some() { d.Defect.Share = round(200+800*d.r.Float64()) / 10000 }

// stratum makes it bad for one size, cluster or value of a label only, that at
// most six tenths of the installations have.
func (d *draft) stratum(dimension string) {
	dimensions := []string{whereMemory, whereCluster}
	if dimension == "" || dimension == "any" {
		keys := slices.Sorted(maps.Keys(d.Labels))
		if dimension == "" {
			dimensions = keys
		} else {
			dimensions = append(dimensions, keys...)
		}
		dimension = dimensions[d.r.IntN(len(dimensions))]
	}
	if dimension == whereCluster && len(d.Clusters) == 1 {
		d.Clusters = map[string]float64{"east": 0.6, "west": 0.4}
	}
	weights := d.Labels[dimension]
	switch dimension {
	case whereMemory:
		weights = d.Sizes
	case whereCluster:
		weights = d.Clusters
	}
	sum := 0.0
	values := slices.Sorted(maps.Keys(weights))
	for _, v := range values {
		sum += weights[v]
	}
	for {
		v := values[d.r.IntN(len(values))]
		if weights[v] <= 0.6*sum || len(values) == 2 && weights[v] <= sum/2 {
			d.Defect.Where = dimension + "=" + v
			return
		}
	}
}

// flaky makes the observer give wrong answers now and then, or none.
func (d *draft) flaky() {
	d.Observer.Wrong = round(50+950*d.r.Float64()*d.r.Float64()) / 10000
	d.Observer.Unknown = round(1000*d.r.Float64()) / 10000
}

// outage breaks the observer for a time, at a moment when something is going on.
func (d *draft) outage(answer string, oneCluster bool) {
	o := Outage{AtMinutes: round(600 * d.r.Float64()), Minutes: round(5 + 85*d.r.Float64()), Answer: answer}
	if d.r.IntN(3) == 0 {
		o.AtMinutes = round(5 * d.r.Float64()) // while the first are begun
	}
	if oneCluster {
		clusters := slices.Sorted(maps.Keys(d.Clusters))
		o.Cluster = clusters[d.r.IntN(len(clusters))]
	}
	if d.r.IntN(3) == 0 {
		o.Share = round(20+70*d.r.Float64()) / 100
	}
	d.Observer.Outages = append(d.Observer.Outages, o)
}
