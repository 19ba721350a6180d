package exam

import (
	"errors"
	"fmt"
	"time"

	"dormouse/internal/fleet"
	"dormouse/internal/supervisor/rollout"
)

// Spec is how the rollout of a release goes about it: fleet.RolloutSpec with
// durations in seconds. What is 0 takes the defaults that every rollout takes.
type Spec struct {
	Rings              []Ring  `json:"rings,omitempty"`
	FirstWave          int     `json:"first_wave,omitempty"`
	Slots              int     `json:"slots,omitempty"`
	SlotsPercent       float64 `json:"slots_percent,omitempty"`
	VerifySlots        int     `json:"verify_slots,omitempty"`
	HealthyFor         float64 `json:"healthy_for_seconds,omitempty"`
	HealthDeadline     float64 `json:"health_deadline_seconds,omitempty"`
	Soak               float64 `json:"soak_seconds,omitempty"`
	MinSamples         int     `json:"min_samples,omitempty"`
	MaxFailures        int     `json:"max_failures,omitempty"`
	MaxFailuresPercent float64 `json:"max_failures_percent,omitempty"`
	ProgressDeadline   float64 `json:"progress_deadline_seconds,omitempty"`
}

// Ring chooses installations, as fleet.RolloutRing does.
type Ring struct {
	Name    string            `json:"name,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Percent float64           `json:"percent,omitempty"`
	// Soak overrides that of the spec, in seconds.
	Soak *float64 `json:"soak_seconds,omitempty"`
}

// spec returns the rollout's, complete. What the judge halts is rolled back.
func (r *Release) spec() (fleet.RolloutSpec, error) {
	s := r.Spec
	if s == nil {
		s = &Spec{}
	}
	out := fleet.RolloutSpec{FirstWave: s.FirstWave, Slots: s.Slots, SlotsPercent: s.SlotsPercent, VerifySlots: s.VerifySlots,
		HealthyFor: seconds(s.HealthyFor), HealthDeadline: seconds(s.HealthDeadline), Soak: seconds(s.Soak), MinSamples: s.MinSamples,
		MaxFailures: s.MaxFailures, MaxFailuresPercent: s.MaxFailuresPercent, ProgressDeadline: seconds(s.ProgressDeadline), AutoRollback: true}
	for _, ring := range s.Rings {
		f := fleet.RolloutRing{Name: ring.Name, Labels: ring.Labels, Percent: ring.Percent}
		if ring.Soak != nil {
			d := seconds(*ring.Soak)
			f.Soak = &d
		}
		out.Rings = append(out.Rings, f)
	}
	return rollout.Normalise(out, r.Installations)
}

func (r *Release) checkSpec() error {
	_, err := r.spec()
	var invalid *fleet.Error
	if errors.As(err, &invalid) && invalid.Field != "" {
		return fmt.Errorf("spec.%s: %w", invalid.Field, err)
	}
	return err
}

// seconds bounds what it converts to three years, so that sums of it stay far from
// where durations end.
func seconds(s float64) time.Duration {
	return time.Duration(max(-1e8, min(s, 1e8)) * float64(time.Second))
}
