package exam

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"dormouse/internal/fleet"
)

// Figure is one line of a report.
type Figure struct {
	Name  string
	Value float64
	Unit  string
}

// String prints it as the benches do.
func (f Figure) String() string { return fmt.Sprintf("%s %.4g %s", f.Name, f.Value, f.Unit) }

// Bad tells whether the release has a defect.
func (r *Release) Bad() bool { return r.Defect != nil }

// reach says for whom a defect is: all, a stratum, or some.
func (d *Defect) reach() string {
	whole := orElse(d.Share, 1) > 0.9 && orElse(d.Chance, 1) > 0.9
	switch {
	case whole && d.Where == "":
		return "all"
	case whole:
		return "stratum"
	}
	return "some"
}

// class is the group that a release is reported in.
func (r *Release) class() string {
	switch {
	case r.Class != "":
		return r.Class
	case r.Defect == nil:
		return "good"
	}
	return string(r.Defect.Kind) + "-" + r.Defect.reach()
}

// Run plays all releases, as many at once as there are processors. A release
// that can't be played is an error.
func Run(releases []Release) ([]Result, error) {
	results := make([]Result, len(releases))
	errs := make([]error, len(releases))
	next := make(chan int)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := range next {
				results[i], errs[i] = Play(&releases[i], nil)
			}
		})
	}
	for i := range releases {
		next <- i
	}
	close(next)
	workers.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return results, nil
}

// Wrong tells whether a result is not what it should be: a bad release that was
// not halted, or a good one that did not come to its end.
func (r *Result) Wrong() bool {
	if r.Release.Bad() {
		return !r.Halted()
	}
	return r.State != fleet.RolloutSucceeded
}

// touchLimit is how many installations a release that is bad for all, or for a stratum, may touch.
func touchLimit(reach string, installations int) float64 {
	if reach == "stratum" {
		return 0.02 * float64(installations)
	}
	return max(3, 0.005*float64(installations))
}

// Score sums results up.
func Score(results []Result) []Figure {
	var figures []Figure
	add := func(name string, value float64, unit string) { figures = append(figures, Figure{name, value, unit}) }
	var bad, caught, accused, undecided int
	var good, back, ended []float64
	touched := map[string]float64{}
	part := map[string]float64{}
	over := map[string]int{}
	classes := map[string][2]int{}
	var decisions int
	var deciding time.Duration
	for i := range results {
		r := &results[i]
		decisions += r.Decisions
		deciding += r.Deciding
		if !r.Halted() && r.State != fleet.RolloutSucceeded {
			undecided++
		}
		class := classes[r.Release.class()]
		class[1]++
		if !r.Wrong() {
			class[0]++
		}
		classes[r.Release.class()] = class
		if r.Halted() {
			back, ended = append(back, r.Back.Minutes()), append(ended, r.RollingBack.Minutes())
		}
		if !r.Release.Bad() {
			if r.State == fleet.RolloutSucceeded {
				good = append(good, r.Took.Hours())
			} else {
				accused++
			}
			continue
		}
		bad++
		n, reach := float64(r.Touched), r.Release.Defect.reach()
		if r.Halted() {
			caught++
		} else {
			n = float64(r.Release.Installations)
		}
		touched[reach] = max(touched[reach], n)
		part[reach] = max(part[reach], 100*n/float64(r.Release.Installations))
		if n > touchLimit(reach, r.Release.Installations) {
			over[reach]++
		}
	}
	add("exam.releases", float64(len(results)), "releases")
	if bad > 0 {
		add("exam.recall", float64(caught)/float64(bad), "part")
	}
	if caught+accused > 0 {
		add("exam.precision", float64(caught)/float64(caught+accused), "part")
	}
	add("exam.undecided", float64(undecided), "releases")
	for _, reach := range []string{"all", "stratum", "some"} {
		if _, any := part[reach]; !any {
			continue
		}
		name := "exam.touched_max." + reach
		if reach == "all" {
			name = "exam.touched_max"
		}
		add(name, touched[reach], "installations")
		add("exam.touched_max_part."+reach, part[reach], "%")
		if reach != "some" {
			add("exam.touched_over_limit."+reach, float64(over[reach]), "releases")
		}
	}
	if len(back) > 0 {
		add("exam.rollback_minutes_p50", quantile(back, 0.5), "min")
		add("exam.rollback_minutes_p95", quantile(back, 0.95), "min")
		add("exam.rollback_minutes_max", quantile(back, 1), "min")
		add("exam.rollback_end_minutes_max", quantile(ended, 1), "min")
	}
	if len(good) > 0 {
		add("exam.good_hours.p50", quantile(good, 0.5), "h")
		add("exam.good_hours.p95", quantile(good, 0.95), "h")
		add("exam.good_hours.max", quantile(good, 1), "h")
	}
	for _, name := range slices.SortedFunc(maps.Keys(classes), cmp.Compare[string]) {
		c := classes[name]
		add("exam.right."+name, float64(c[0])/float64(c[1]), "part")
	}
	if decisions > 0 {
		add("exam.decide_us", float64(deciding.Microseconds())/float64(decisions), "us")
	}
	return figures
}

// quantile returns the value that the part q of the values does not exceed.
func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	return values[max(0, int(math.Ceil(q*float64(len(values))))-1)]
}

// SlowBack tells whether it took too long until the old release was back.
func (r *Result) SlowBack() bool { return r.Back > backLimit }

// backLimit is how long the old release may take to be back everywhere.
const backLimit = 5 * time.Minute

// TooMany tells whether a bad release touched more than it may.
func (r *Result) TooMany() bool {
	if !r.Release.Bad() {
		return false
	}
	reach := r.Release.Defect.reach()
	return reach != "some" && float64(r.Touched) > touchLimit(reach, r.Release.Installations)
}

// String tells a result in a line.
func (r *Result) String() string {
	where := ""
	if d := r.Release.Defect; d != nil {
		where = fmt.Sprintf(" (%s where %q share %g)", d.Kind, d.Where, orElse(d.Share, 1))
	}
	return fmt.Sprintf("%s %s%s: %s after %s, %d touched, back in %s, ended in %s: %s %s", r.Release.ID, r.Release.class(), where,
		r.State, r.Took.Round(time.Minute), r.Touched, r.Back.Round(time.Second), r.RollingBack.Round(time.Second), r.Reason, r.Detail)
}

// The halves of a corpus.
const (
	HalfTune   = "tune"
	HalfReport = "report"
)

// HalfOf tells which half of a corpus the i-th release is in. Both halves have
// good and bad ones of every class.
func HalfOf(i int) string {
	if mix(uint64(i/2)+0x5eed)&1 == 0 {
		return HalfTune
	}
	return HalfReport
}
