package rollout

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestNormaliseFillsIn(t *testing.T) {
	t.Parallel()
	s, err := Normalise(fleet.RolloutSpec{}, 2000)
	require.NoError(t, err)
	require.Equal(t, fleet.RolloutSpec{FirstWave: 10, SlotsPercent: 10, VerifySlots: 20, HealthyFor: 10 * time.Second, HealthDeadline: 5 * time.Minute,
		Soak: 2 * time.Hour, MinSamples: 3, ProgressDeadline: 30 * time.Minute}, s)
	again, err := Normalise(s, 2000)
	require.NoError(t, err)
	require.Equal(t, s, again)

	s, err = Normalise(fleet.RolloutSpec{Soak: -7 * time.Hour, Slots: 4, HealthDeadline: time.Hour, Rings: []fleet.RolloutRing{{Percent: 5}, {}}}, 10)
	require.NoError(t, err)
	require.Equal(t, 3, s.FirstWave)
	require.Zero(t, s.SlotsPercent)
	require.Zero(t, soak(s, 0), "a negative soak is none")
	require.Greater(t, s.ProgressDeadline, s.HealthyFor+s.HealthDeadline)
	require.Equal(t, []string{"ring-1", "ring-2"}, []string{s.Rings[0].Name, s.Rings[1].Name})
	again, err = Normalise(s, 10)
	require.NoError(t, err)
	require.Equal(t, s, again)
}

func TestNormaliseRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		spec  fleet.RolloutSpec
		field string
	}{
		"negative first wave":         {fleet.RolloutSpec{FirstWave: -1}, "first_wave"},
		"negative slots":              {fleet.RolloutSpec{Slots: -1}, "slots"},
		"both kinds of slots":         {fleet.RolloutSpec{Slots: 1, SlotsPercent: 1}, "slots_percent"},
		"more than all as slots":      {fleet.RolloutSpec{SlotsPercent: 101}, "slots_percent"},
		"no number":                   {fleet.RolloutSpec{SlotsPercent: math.NaN()}, "slots_percent"},
		"negative verify slots":       {fleet.RolloutSpec{VerifySlots: -2}, "verify_slots"},
		"negative gate":               {fleet.RolloutSpec{HealthyFor: -1}, "healthy_for"},
		"negative deadline":           {fleet.RolloutSpec{HealthDeadline: -1}, "health_deadline"},
		"progress shorter than gate":  {fleet.RolloutSpec{ProgressDeadline: time.Minute}, "progress_deadline"},
		"negative failures":           {fleet.RolloutSpec{MaxFailures: -1}, "max_failures"},
		"too many per cent":           {fleet.RolloutSpec{MaxFailuresPercent: 100.5}, "max_failures_percent"},
		"negative samples":            {fleet.RolloutSpec{MinSamples: -1}, "min_samples"},
		"ring that leaves none":       {fleet.RolloutSpec{Rings: []fleet.RolloutRing{{}, {Percent: 3}}}, "rings.0"},
		"ring in two ways":            {fleet.RolloutSpec{Rings: []fleet.RolloutRing{{Percent: 3, Installations: []string{"a"}}}}, "rings.0"},
		"ring of a negative share":    {fleet.RolloutSpec{Rings: []fleet.RolloutRing{{Percent: -3}, {}}}, "rings.0.percent"},
		"rings of more than all":      {fleet.RolloutSpec{Rings: []fleet.RolloutRing{{Percent: 60}, {Percent: 60}, {}}}, "rings.1.percent"},
		"rings of one name":           {fleet.RolloutSpec{Rings: []fleet.RolloutRing{{Name: "a", Percent: 6}, {Name: "a"}}}, "rings.1.name"},
		"metric without a server":     {fleet.RolloutSpec{Metric: &fleet.MetricGate{URL: "prometheus", Query: "up"}}, "metric.url"},
		"metric without a query":      {fleet.RolloutSpec{Metric: &fleet.MetricGate{URL: "http://p:9090"}}, "metric.query"},
		"metric without a limit":      {fleet.RolloutSpec{Metric: &fleet.MetricGate{URL: "http://p:9090", Query: "x", Max: math.NaN()}}, "metric.max"},
		"metric with a negative time": {fleet.RolloutSpec{Metric: &fleet.MetricGate{URL: "http://p:9090", Query: "x", For: -1}}, "metric.for"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Normalise(test.spec, 100)
			require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
			var e *fleet.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, test.field, e.Field)
		})
	}
	_, err := Normalise(fleet.RolloutSpec{}, -1)
	require.Error(t, err)
}
