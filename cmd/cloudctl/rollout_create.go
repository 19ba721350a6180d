package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"dormouse/client"
)

// rolloutFlags are what a rollout can be told.
type rolloutFlags struct {
	to                                             int64
	rings                                          []string
	slots, maxFailures                             string
	firstWave, verifySlots, minSamples             int
	healthyFor, healthDeadline, soak, progressTime time.Duration
	autoRollback, dryRun                           bool
	metricURL, metricQuery                         string
	metricMax                                      float64
	metricFor                                      time.Duration
}

func (f *rolloutFlags) bind(flags *pflag.FlagSet) {
	flags.Int64Var(&f.to, "to", 0, "the `revision` to bring the members to (the newest)")
	flags.StringArrayVar(&f.rings, "ring", nil, "a ring, as `NAME[:CHOICE]` (see above); may be repeated (one ring of all)")
	flags.StringVar(&f.slots, "slots", "", "how many installations are in work at once, a number or `N|P%` of the members (10%)")
	flags.IntVar(&f.verifySlots, "verify-slots", 0, "how many clones of sleepers are tried at once (20)")
	flags.IntVar(&f.firstWave, "first-wave", 0, "how many installations each ring begins with (0.5 % of the members, at least 3)")
	flags.DurationVar(&f.healthyFor, "healthy-for", 0, "how long a member must answer well to count as done (10s)")
	flags.DurationVar(&f.healthDeadline, "health-deadline", 0, "how long it may take until it answers well (5m)")
	flags.DurationVar(&f.soak, "soak", 0, "how long each ring is watched before the next begins; 0s is not at all (2h)")
	flags.IntVar(&f.minSamples, "min-samples", 0, "how many members must have been judged before a ring is left (3)")
	flags.StringVar(&f.maxFailures, "max-failures", "", "halt when more fail, a number or `N|P%` of those begun (no such limit; the judge halts all the same)")
	flags.BoolVar(&f.autoRollback, "auto-rollback", false, "take back what was touched where the rollout would halt")
	flags.DurationVar(&f.progressTime, "progress-deadline", 0, "halt when nothing came to an end for so long (30m, or more where members may take longer)")
	flags.StringVar(&f.metricURL, "metric-url", "", "`URL` of a Prometheus whose query is a gate")
	flags.StringVar(&f.metricQuery, "metric-query", "", "the query, an `EXPRESSION` with one value")
	flags.Float64Var(&f.metricMax, "metric-max", 0, "the `value` above which the rollout halts")
	flags.DurationVar(&f.metricFor, "metric-for", 0, "how long it must be above it (at once)")
	flags.BoolVar(&f.dryRun, "dry-run", false, "print the plan, and change nothing")
}

const rolloutHelp = `Bring the members of a group to another revision of its configuration, ring by
ring and wave by wave. The server carries it out, whatever becomes of cloudctl.
A rollout of the same group that is not finished is superseded.

Rings are worked on in order. Each installation belongs to the first that takes
it, and to the last where none does:

  --ring canary:label=tier=internal     by label (may be repeated: all must be there)
  --ring few:percent=5                  a share of the members
  --ring some:installations=acme,shop   by name or ID
  --ring rest                           all others; the last ring only
  --ring few:percent=5:soak=30m         with a soak of its own

Each ring begins with a small wave drawn over all sizes, labels and clusters.
Sleeping members are tried on throw-away clones and not woken.

With --wait it exits with 0 when the rollout has succeeded, with 1 when it was
halted, rolled back, cancelled or superseded, and with 5 at --timeout.`

func (a *app) rolloutCreate() *cobra.Command {
	var f rolloutFlags
	var w rolloutWaiting
	cmd := &cobra.Command{
		Use: "create GROUP", Short: "Bring the members of a group to another revision", Args: one("GROUP"), Long: rolloutHelp,
		Example: `  cloudctl rollout create web --dry-run
  cloudctl rollout create web --ring canary:label=tier=internal --ring rest --soak 1h --auto-rollback
  cloudctl rollout create web --slots 20 --max-failures 1% --wait`,
		ValidArgsFunction: a.complete(groupNames),
	}
	cmd.RunE = a.run(func(ctx context.Context, args []string) error {
		in, err := f.body(cmd.Flags())
		if err != nil {
			return err
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		if f.dryRun {
			plan, err := c.Rollouts.Plan(ctx, args[0], in)
			if err != nil {
				return err
			}
			return a.print(plan, func() string { return planSheet(plan) })
		}
		r, err := c.Rollouts.Create(ctx, args[0], in)
		if err != nil {
			return err
		}
		return a.settleRollout(ctx, c, r, w, "succeeded")
	})
	f.bind(cmd.Flags())
	w.flags(cmd)
	cmd.MarkFlagsMutuallyExclusive("dry-run", "wait")
	return cmd
}

// body is what the flags ask for. What was not given is left to the server.
func (f *rolloutFlags) body(flags *pflag.FlagSet) (client.CreateRollout, error) {
	in := client.CreateRollout{ToRevision: f.to}
	in.FirstWave, in.VerifySlots, in.MinSamples, in.AutoRollback = f.firstWave, f.verifySlots, f.minSamples, f.autoRollback
	for flag, n := range map[string]int64{"to": f.to, "first-wave": int64(f.firstWave), "verify-slots": int64(f.verifySlots), "min-samples": int64(f.minSamples)} {
		if flags.Changed(flag) && n < 1 {
			return in, usagef("--%s %d: give a number above 0", flag, n)
		}
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
		to    *string
	}{
		{"healthy-for", f.healthyFor, &in.HealthyFor}, {"health-deadline", f.healthDeadline, &in.HealthDeadline},
		{"soak", f.soak, &in.Soak}, {"progress-deadline", f.progressTime, &in.ProgressDeadline},
	} {
		if d.value < 0 {
			return in, usagef("--%s %s: give a time that is not negative", d.flag, d.value)
		}
		if flags.Changed(d.flag) {
			*d.to = d.value.String()
		}
	}
	var err error
	if in.Slots, in.SlotsPercent, err = countOrPercent("slots", f.slots); err != nil {
		return in, err
	}
	if in.MaxFailures, in.MaxFailuresPercent, err = countOrPercent("max-failures", f.maxFailures); err != nil {
		return in, err
	}
	if in.Metric, err = f.metric(flags); err != nil {
		return in, err
	}
	for _, text := range f.rings {
		ring, err := parseRing(text)
		if err != nil {
			return in, usagef("--ring %q: %w", text, err)
		}
		in.Rings = append(in.Rings, ring)
	}
	return in, nil
}

func (f *rolloutFlags) metric(flags *pflag.FlagSet) (*client.MetricGate, error) {
	given := 0
	for _, flag := range []string{"metric-url", "metric-query", "metric-max"} {
		if flags.Changed(flag) {
			given++
		}
	}
	switch {
	case given == 0 && !flags.Changed("metric-for"):
		return nil, nil
	case given < 3:
		return nil, usagef("--metric-url, --metric-query and --metric-max are needed together")
	case f.metricFor < 0:
		return nil, usagef("--metric-for %s: give a time that is not negative", f.metricFor)
	}
	gate := &client.MetricGate{URL: f.metricURL, Query: f.metricQuery, Max: f.metricMax}
	if f.metricFor > 0 {
		gate.For = f.metricFor.String()
	}
	return gate, nil
}

// countOrPercent reads 10 or 10%; "" is neither.
func countOrPercent(flag, text string) (count int, percent float64, err error) {
	if text == "" {
		return 0, 0, nil
	}
	if share, ok := strings.CutSuffix(text, "%"); ok {
		percent, err = strconv.ParseFloat(strings.TrimSpace(share), 64)
		if err != nil || !(percent > 0 && percent <= 100) {
			return 0, 0, usagef("--%s %q: give a percentage above 0 and up to 100, such as 10%%", flag, text)
		}
		return 0, percent, nil
	}
	count, err = strconv.Atoi(text)
	if err != nil || count < 1 {
		return 0, 0, usagef("--%s %q: give a number above 0, or a percentage such as 10%%", flag, text)
	}
	return count, 0, nil
}

// parseRing reads NAME[:label=KEY=VALUE]…, NAME:percent=P or
// NAME:installations=A,B, each with :soak=DURATION where wanted.
func parseRing(text string) (client.RolloutRing, error) {
	name, choices, some := strings.Cut(text, ":")
	ring := client.RolloutRing{Name: name}
	if name == "" {
		return ring, fmt.Errorf("it has no name")
	}
	if !some {
		return ring, nil
	}
	for _, choice := range strings.Split(choices, ":") {
		key, value, found := strings.Cut(choice, "=")
		if !found || value == "" {
			return ring, fmt.Errorf("%q is none of label=KEY=VALUE, percent=P, installations=A,B and soak=DURATION", choice)
		}
		switch key {
		case "label":
			k, v, found := strings.Cut(value, "=")
			if !found || k == "" {
				return ring, fmt.Errorf("write label=KEY=VALUE")
			}
			if ring.Labels == nil {
				ring.Labels = map[string]string{}
			}
			ring.Labels[k] = v
		case "percent":
			percent, err := strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64)
			if err != nil || !(percent > 0 && percent <= 100) {
				return ring, fmt.Errorf("give a percentage above 0 and up to 100")
			}
			ring.Percent = percent
		case "installations":
			ring.Installations = append(ring.Installations, strings.Split(value, ",")...)
		case "soak":
			d, err := time.ParseDuration(value)
			if err != nil || d < 0 {
				return ring, fmt.Errorf("%q is no time: write it as 30m or 1h", value)
			}
			ring.Soak = d.String()
		default:
			return ring, fmt.Errorf("%s is none of label, percent, installations and soak", key)
		}
	}
	return ring, nil
}
