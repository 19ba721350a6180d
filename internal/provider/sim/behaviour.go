package sim

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

// BehaviourVariable is the variable of an instance's environment that says how
// its release behaves; see ParseBehaviour. A package, a group or an
// installation may set it, so that a release is bad for all or for some.
const BehaviourVariable = "SIM_BEHAVIOUR"

// never is later than any time that matters.
const never = time.Duration(math.MaxInt64)

// defaultWake is how long an installation must have been off for only_wake.
const defaultWake = time.Minute

// Behaviour is how a release behaves, and where. Use ParseBehaviour.
type Behaviour struct {
	// Crash: the boot ends with ReasonCrashLoop and exit code 1.
	Crash bool
	// Slow is how long after the boot it becomes healthy; until then it is unhealthy.
	Slow time.Duration
	// FailAfter is how long after it has become healthy it turns unhealthy for good,
	// ExitAfter when its program ends, with ReasonProgramExited and exit code 1.
	FailAfter, ExitAfter time.Duration

	// OnlyMemoryMiB and OnlyCluster (ID or name) restrict it to instances of that
	// size and in that cluster; 0 and "" do not.
	OnlyMemoryMiB int64
	OnlyCluster   string
	// Fraction of the installations show it: which ones depends on their ID and the cluster's seed.
	Fraction float64
	// OnlyClone and NotClone restrict it to clones, and to what is none.
	OnlyClone, NotClone bool
	// OnlyWake restricts it to boots of an installation all of whose instances in
	// this role had been off for that long at least; 0 does not. Its first boot of all and
	// the boots of clones are no wakes, nor is the start of a successor right
	// after its predecessor was stopped; the first start of a successor on the volume of one that
	// slept is one.
	OnlyWake time.Duration
}

// BehaviourWords returns every word that ParseBehaviour knows, with its form, for help texts.
func BehaviourWords() []string {
	return []string{
		"crash", "slow=DURATION", "fail_after=DURATION", "exit_after=DURATION",
		"only_memory=MIB", "only_cluster=NAME-OR-ID", "fraction=0..1", "only_clone", "not_clone", "only_wake or only_wake=DURATION",
	}
}

// ParseBehaviour reads a value of BehaviourVariable: behaviours (crash,
// slow=90s, fail_after=60s, exit_after=60s) and restrictions (only_memory=256,
// only_cluster=NAME, fraction=0.05, only_clone, not_clone, only_wake or
// only_wake=10s), with ";" between them, in any order. It takes at least one behaviour;
// where there are several restrictions, all must hold. The error is a KindInvalid about
// the field "env.SIM_BEHAVIOUR".
func ParseBehaviour(text string) (Behaviour, error) {
	b := Behaviour{FailAfter: never, ExitAfter: never, Fraction: 1}
	seen := map[string]bool{}
	acts := false
	for part := range strings.SplitSeq(text, ";") {
		key, value, _ := strings.Cut(part, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if key == "" && value == "" {
			continue
		}
		err := b.set(key, value)
		if err == nil && seen[key] {
			err = errors.New("it is there twice")
		}
		if err != nil {
			return Behaviour{}, fleet.InvalidField("env."+BehaviourVariable, "reading %s: %q: %w", BehaviourVariable, strings.TrimSpace(part), err)
		}
		seen[key] = true
		switch key {
		case "crash", "slow", "fail_after", "exit_after":
			acts = true
		}
	}
	if !acts {
		return Behaviour{}, fleet.InvalidField("env."+BehaviourVariable,
			"reading %s: %q says nothing to do: name one of crash, slow, fail_after and exit_after", BehaviourVariable, text)
	}
	return b, nil
}

func (b *Behaviour) set(key, value string) (err error) {
	switch key {
	case "crash":
		b.Crash = true
		err = alone(value)
	case "slow":
		b.Slow, err = parseDuration(value)
	case "fail_after":
		b.FailAfter, err = parseDuration(value)
	case "exit_after":
		b.ExitAfter, err = parseDuration(value)
	case "only_memory":
		b.OnlyMemoryMiB, err = parseInt(value, 1, 1<<40)
	case "only_cluster":
		if b.OnlyCluster = value; value == "" {
			err = errors.New("want the name or the ID of a cluster")
		}
	case "fraction":
		if b.Fraction, err = strconv.ParseFloat(value, 64); err != nil || !(b.Fraction >= 0 && b.Fraction <= 1) {
			err = errors.New("want a number from 0 to 1")
		}
	case "only_clone":
		b.OnlyClone = true
		err = alone(value)
	case "not_clone":
		b.NotClone = true
		err = alone(value)
	case "only_wake":
		if b.OnlyWake = defaultWake; value == "" {
			return nil
		}
		if b.OnlyWake, err = parseDuration(value); err == nil && b.OnlyWake == 0 {
			err = errors.New("want a time above 0 that it must have been off")
		}
	default:
		err = errors.New("there is no such word")
	}
	return err
}

func alone(value string) error {
	if value != "" {
		return errors.New("it takes no value")
	}
	return nil
}

// shows tells whether a boot of the instance that begins now shows the behaviour.
func (o *call) shows(b Behaviour, rec *record) bool {
	switch {
	case b.OnlyMemoryMiB != 0 && b.OnlyMemoryMiB != rec.MemoryMiB,
		b.OnlyCluster != "" && b.OnlyCluster != string(o.id) && b.OnlyCluster != o.config.name,
		b.OnlyClone && !rec.Clone, b.NotClone && rec.Clone,
		b.OnlyWake > 0 && !o.wakes(rec, b.OnlyWake):
		return false
	}
	return b.Fraction == 1 || draw(o.config.Seed, "fraction", CallEnsure, string(rec.Installation), 0) < b.Fraction
}

// wakes tells whether the installation's instances have all been off for that
// long, and one of them had been on before.
func (o *call) wakes(rec *record, long time.Duration) bool {
	if rec.Clone {
		return false
	}
	last := int64(0)
	for _, id := range o.of[rec.Installation] {
		other := o.instances[id]
		switch {
		case other.Clone || other.Role != rec.Role:
		case other.Power != fleet.PowerOff:
			return false
		default:
			last = max(last, other.OffAt)
		}
	}
	return last != 0 && o.now().Sub(time.UnixMicro(last)) >= long
}

// behave settles, at the beginning of a boot, what its release will do.
func (o *call) behave(rec *record) error {
	rec.Acts, rec.Crash = false, false
	if rec.Behaviour == "" {
		return nil
	}
	b, err := ParseBehaviour(rec.Behaviour)
	if err != nil {
		return fmt.Errorf("powering on instance %s: %w", rec.ID, err)
	}
	rec.Acts = o.shows(b, rec)
	rec.Crash = rec.Acts && b.Crash
	return nil
}
