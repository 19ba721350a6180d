package exam

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Release is one line of a corpus.
type Release struct {
	ID string `json:"id"`
	// Class groups releases in the report, and means nothing else; empty is the defect's kind, or good.
	Class         string `json:"class,omitempty"`
	Seed          uint64 `json:"seed"`
	Installations int    `json:"installations"`
	// Asleep is the part of the installations that hibernate when the rollout begins.
	Asleep float64 `json:"asleep,omitempty"`
	// Sizes (MiB of memory), Clusters and Labels (key → value) are weights.
	Sizes    map[string]float64            `json:"sizes,omitempty"`
	Clusters map[string]float64            `json:"clusters,omitempty"`
	Labels   map[string]map[string]float64 `json:"labels,omitempty"`
	// Defect is what is wrong with the release; nil is nothing.
	Defect     *Defect    `json:"defect,omitempty"`
	Background Background `json:"background,omitzero"`
	Observer   Observer   `json:"observer,omitzero"`
	Latency    Latency    `json:"latency,omitzero"`
	Churn      Churn      `json:"churn,omitzero"`
	Spec       *Spec      `json:"spec,omitempty"`
}

// DefectKind says how a defect shows.
type DefectKind string

// The kinds of defect.
const (
	// DefectCrash: the program ends as soon as it starts.
	DefectCrash DefectKind = "crash"
	// DefectSlow: it takes DelaySeconds to become healthy.
	DefectSlow DefectKind = "slow"
	// DefectLate: it is healthy, and fails for good DelaySeconds after its start.
	DefectLate DefectKind = "late"
)

// Defect is what is wrong with a release, and for whom.
type Defect struct {
	Kind DefectKind `json:"kind"`
	// Where is the stratum it is in for, "memory=64", "cluster=east" or
	// "LABEL=VALUE"; several are joined by commas and must all match. Empty is everybody.
	Where string `json:"where,omitempty"`
	// Share is the part of those that have it; 0 is 1.
	Share float64 `json:"share,omitempty"`
	// Chance is how likely each start of one that has it shows it; 0 is 1.
	Chance float64 `json:"chance,omitempty"`
	// DelaySeconds varies evenly by the part Jitter between installations.
	DelaySeconds float64 `json:"delay_seconds,omitempty"`
	Jitter       float64 `json:"jitter,omitempty"`
}

// Background is what fails whatever the release.
type Background struct {
	// Rate is the part of the installations that have one trouble in the first HorizonHours (10).
	Rate         float64 `json:"rate,omitempty"`
	HorizonHours float64 `json:"horizon_hours,omitempty"`
	// Operation, Spell and Chronic are weights of its kinds; all 0 is one each.
	// Operation: its first update fails. Spell: it answers badly for about
	// SpellMinutes (20), and again later with the chance SpellAgain. Chronic: from some
	// moment on, before the rollout for half of them, it answers badly for ever.
	Operation    float64 `json:"operation,omitempty"`
	Spell        float64 `json:"spell,omitempty"`
	Chronic      float64 `json:"chronic,omitempty"`
	SpellMinutes float64 `json:"spell_minutes,omitempty"`
	SpellAgain   float64 `json:"spell_again,omitempty"`
	// RestartCures is the chance that any new start ends a spell.
	RestartCures float64 `json:"restart_cures,omitempty"`
	// Reason is why operations fail; empty is provider-error mostly, and others.
	Reason string `json:"reason,omitempty"`
}

// Observer is how health is seen.
type Observer struct {
	// EverySeconds (30) is how often each installation is asked.
	EverySeconds float64 `json:"every_seconds,omitempty"`
	// Wrong answers say the contrary, Unknown ones nothing; parts of all answers.
	Wrong   float64  `json:"wrong,omitempty"`
	Unknown float64  `json:"unknown,omitempty"`
	Outages []Outage `json:"outages,omitempty"`
}

// Outage is a time in which the observer is broken.
type Outage struct {
	AtMinutes float64 `json:"at_minutes"`
	Minutes   float64 `json:"minutes"`
	// Answer is what it says then: "bad" or "unknown".
	Answer string `json:"answer"`
	// Share is the part of the installations it is broken for; 0 is all. Cluster bounds it to one.
	Share   float64 `json:"share,omitempty"`
	Cluster string  `json:"cluster,omitempty"`
}

// Latency is how long things take, log-normally. Defaults: 500 and 5000 ms a call,
// 2000 and 10000 ms a boot.
type Latency struct {
	CallP50 float64 `json:"call_p50_ms,omitempty"`
	CallP99 float64 `json:"call_p99_ms,omitempty"`
	BootP50 float64 `json:"boot_p50_ms,omitempty"`
	BootP99 float64 `json:"boot_p99_ms,omitempty"`
	// NewBoot is how many times as long the new release takes to start; 0 is 1.
	NewBoot float64 `json:"new_boot,omitempty"`
}

// Churn is what else happens to installations meanwhile, as parts of them, at
// even chances in the first ChurnHours (8).
type Churn struct {
	// Busy are in somebody else's hands for some minutes, Gone are deleted, and
	// Wakes (of the sleepers) are woken by their users.
	Busy  float64 `json:"busy,omitempty"`
	Gone  float64 `json:"gone,omitempty"`
	Wakes float64 `json:"wakes,omitempty"`
	Hours float64 `json:"hours,omitempty"`
	// Unverifiable is the part of the sleepers of which no clone can be tried.
	Unverifiable float64 `json:"unverifiable,omitempty"`
}

// MaxInstallations bounds one release.
const MaxInstallations = 1_000_000

// maxLine bounds a line of a corpus in bytes.
const maxLine = 1 << 20

// ReadCorpus reads releases, one JSON object a line; empty lines and those that
// begin with # are skipped. Its errors name the line.
func ReadCorpus(r io.Reader) ([]Release, error) {
	var releases []Release
	ids := map[string]int{}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	n := 0
	for lines.Scan() {
		n++
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		release, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if release.ID == "" {
			release.ID = fmt.Sprintf("line-%d", n)
		}
		if before, twice := ids[release.ID]; twice {
			return nil, fmt.Errorf("line %d: the id %s is that of line %d already", n, release.ID, before)
		}
		ids[release.ID] = n
		releases = append(releases, release)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	return releases, nil
}

func parse(line []byte) (Release, error) {
	var r Release
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, explain(err)
	}
	if d.More() {
		return r, fmt.Errorf("there is more than one object on the line")
	}
	return r, r.check()
}

// explain says in a corpus's terms what is wrong with a line.
func explain(err error) error {
	var wrong *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrong) && wrong.Field == "":
		return fmt.Errorf("give a JSON object, not a JSON %s", wrong.Value)
	case errors.As(err, &wrong):
		return fmt.Errorf("%s: give %s, not a JSON %s", wrong.Field, wanted(wrong.Type), wrong.Value)
	case errors.As(err, &syntax):
		return fmt.Errorf("it is no JSON object: at character %d: %w", syntax.Offset, err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it is no JSON object: the line ends in the middle of it")
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fmt.Errorf("there is no field %s: docs/exam-corpus.md lists those that there are", field)
	}
	return err
}

// wanted says what a type of Go is in JSON.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Int:
		return "a whole number"
	case reflect.Uint64:
		return "a whole number of 0 or more"
	case reflect.Float64:
		return "a number"
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a list"
	}
	return "an object"
}

// WriteCorpus writes releases as ReadCorpus reads them.
func WriteCorpus(w io.Writer, releases []Release) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for i := range releases {
		if err := e.Encode(&releases[i]); err != nil {
			return fmt.Errorf("writing release %s: %w", releases[i].ID, err)
		}
	}
	return nil
}

func (r *Release) check() error {
	if r.Installations < 1 || r.Installations > MaxInstallations {
		return fmt.Errorf("installations is %d: give 1 to %d", r.Installations, MaxInstallations)
	}
	for _, p := range r.parts() {
		if !(p.value >= 0 && p.value <= 1) {
			return fmt.Errorf("%s is %g: give a part from 0 to 1", p.name, p.value)
		}
	}
	for _, p := range r.amounts() {
		if !(p.value >= 0 && p.value <= 1e9) {
			return fmt.Errorf("%s is %g: give an amount from 0 to 1e9", p.name, p.value)
		}
	}
	for size := range r.Sizes {
		if n, err := strconv.Atoi(size); err != nil || n < 1 {
			return fmt.Errorf("sizes: %q is not a number of MiB", size)
		}
	}
	groups := map[string]map[string]float64{"sizes": r.Sizes, "clusters": r.Clusters}
	for key, values := range r.Labels {
		if key == "" || key == whereMemory || key == whereCluster {
			return fmt.Errorf("labels: a label can't be called %q", key)
		}
		groups["labels."+key] = values
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		if err := checkWeights(name, groups[name]); err != nil {
			return err
		}
	}
	for i, o := range r.Observer.Outages {
		if o.Answer != answerBad && o.Answer != answerUnknown {
			return fmt.Errorf("observer.outages.%d.answer is %q: give %q or %q", i, o.Answer, answerBad, answerUnknown)
		}
	}
	if d := r.Defect; d != nil {
		switch d.Kind {
		case DefectCrash, DefectSlow, DefectLate:
		default:
			return fmt.Errorf("defect.kind is %q: give crash, slow or late", d.Kind)
		}
		if err := r.checkWhere(d.Where); err != nil {
			return fmt.Errorf("defect.where: %w", err)
		}
	}
	if e := r.Observer.EverySeconds; e != 0 && e < 1 {
		return fmt.Errorf("observer.every_seconds is %g: give 1 or more", e)
	}
	return r.checkSpec()
}

// checkWhere refuses a stratum that there can't be.
func (r *Release) checkWhere(where string) error {
	conditions, err := parseWhere(where)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(conditions)) {
		c := choice{}
		switch weights := r.Labels[key]; {
		case key == whereMemory:
			c = newChoice(r.Sizes, defaultSize)
		case key == whereCluster:
			c = newChoice(r.Clusters, defaultCluster)
		case len(weights) > 0:
			c = newChoice(weights, "")
		}
		if !slices.Contains(c.values, conditions[key]) {
			return fmt.Errorf("no installation has %s=%s", key, conditions[key])
		}
	}
	return nil
}

type named struct {
	name  string
	value float64
}

func (r *Release) parts() []named {
	parts := []named{{"asleep", r.Asleep}, {"background.rate", r.Background.Rate}, {"background.spell_again", r.Background.SpellAgain},
		{"background.restart_cures", r.Background.RestartCures}, {"observer.wrong", r.Observer.Wrong}, {"observer.unknown", r.Observer.Unknown},
		{"churn.busy", r.Churn.Busy}, {"churn.gone", r.Churn.Gone}, {"churn.wakes", r.Churn.Wakes}, {"churn.unverifiable", r.Churn.Unverifiable}}
	if d := r.Defect; d != nil {
		parts = append(parts, named{"defect.share", d.Share}, named{"defect.chance", d.Chance}, named{"defect.jitter", d.Jitter})
	}
	for i, o := range r.Observer.Outages {
		parts = append(parts, named{fmt.Sprintf("observer.outages.%d.share", i), o.Share})
	}
	return parts
}

func (r *Release) amounts() []named {
	amounts := []named{{"background.horizon_hours", r.Background.HorizonHours}, {"background.operation", r.Background.Operation},
		{"background.spell", r.Background.Spell}, {"background.chronic", r.Background.Chronic}, {"background.spell_minutes", r.Background.SpellMinutes},
		{"observer.every_seconds", r.Observer.EverySeconds}, {"latency.call_p50_ms", r.Latency.CallP50}, {"latency.call_p99_ms", r.Latency.CallP99},
		{"latency.boot_p50_ms", r.Latency.BootP50}, {"latency.boot_p99_ms", r.Latency.BootP99}, {"latency.new_boot", r.Latency.NewBoot},
		{"churn.hours", r.Churn.Hours}}
	if d := r.Defect; d != nil {
		amounts = append(amounts, named{"defect.delay_seconds", d.DelaySeconds})
	}
	for i, o := range r.Observer.Outages {
		amounts = append(amounts, named{fmt.Sprintf("observer.outages.%d.at_minutes", i), o.AtMinutes},
			named{fmt.Sprintf("observer.outages.%d.minutes", i), o.Minutes})
	}
	return amounts
}

func checkWeights(name string, weights map[string]float64) error {
	sum := 0.0
	for _, value := range slices.Sorted(maps.Keys(weights)) {
		w := weights[value]
		if !(w >= 0) || math.IsInf(w, 1) {
			return fmt.Errorf("%s.%s is %g: give a weight of 0 or more", name, value, w)
		}
		sum += w
	}
	if len(weights) > 0 && !(sum > 0 && !math.IsInf(sum, 1)) {
		return fmt.Errorf("%s: the weights add up to %g", name, sum)
	}
	return nil
}

// The dimensions of Defect.Where that are no labels, and the answers of an outage.
const (
	whereMemory   = "memory"
	whereCluster  = "cluster"
	answerBad     = "bad"
	answerUnknown = "unknown"
)

// parseWhere splits a stratum into its conditions.
func parseWhere(where string) (map[string]string, error) {
	conditions := map[string]string{}
	if where == "" {
		return conditions, nil
	}
	for _, part := range strings.Split(where, ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%q is not KEY=VALUE", part)
		}
		conditions[key] = value
	}
	return conditions, nil
}
