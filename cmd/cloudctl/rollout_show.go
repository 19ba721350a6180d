package main

import (
	"fmt"
	"strings"
	"time"

	"dormouse/client"
)

func (a *app) printRollout(r client.Rollout) error {
	return a.print(r, func() string { return a.rolloutSheet(r) })
}

func (a *app) rolloutTable(list []client.RolloutSummary) string {
	t := table{{"ID", "GROUP", "REVISIONS", "STATE", "AGE", "TOOK", "REASON"}}
	for _, r := range list {
		took := ""
		if !r.FinishedAt.IsZero() {
			took = span(r.FinishedAt.Sub(r.CreatedAt))
		}
		t = append(t, []string{r.ID, r.Group, revisions(r.FromRevision, r.ToRevision), r.State, a.age(r.CreatedAt), took, r.Reason})
	}
	return t.String()
}

func revisions(from, to int64) string { return fmt.Sprintf("%d → %d", from, to) }

func (a *app) memberTable(r client.Rollout, list []client.RolloutMember) string {
	t := table{{"NAME", "RING", "WAVE", "STATE", "TRIES", "SINCE", "REASON"}}
	for _, m := range list {
		since := m.StartedAt
		if !m.FinishedAt.IsZero() {
			since = m.FinishedAt
		}
		tries := ""
		if m.Attempts > 0 {
			tries = fmt.Sprint(m.Attempts)
		}
		t = append(t, []string{m.Name, ringName(r, m.Ring), fmt.Sprint(m.Wave + 1), m.State, tries, a.age(since),
			strings.TrimPrefix(because(m.Reason, m.Detail), ": ")})
	}
	return t.String()
}

// ringName is the name of a ring; its number where the rollout does not show one.
func ringName(r client.Rollout, ring int) string {
	if ring >= 0 && ring < len(r.Rings) {
		return r.Rings[ring].Name
	}
	return fmt.Sprint(ring + 1)
}

func (a *app) rolloutSheet(r client.Rollout) string {
	var s sheet
	s.add("Rollout", r.ID)
	s.add("Group", r.Group)
	s.add("Revisions", revisions(r.FromRevision, r.ToRevision))
	s.add("State", rolloutState(r))
	if !r.Finished() {
		s.add("Ring", a.ringLine(r))
	}
	s.add("Members", progressLine(r))
	s.list("Rings", ringLines(r))
	s.add("Pace", paceLine(r))
	s.list("Failures", failureLines(r))
	s.list("Settings", specLines(r.Spec))
	s.add("Operation", a.operationLine(r.Operation))
	s.add("Version", fmt.Sprint(r.Version))
	s.add("Created", a.ago(r.CreatedAt))
	if !r.FinishedAt.IsZero() {
		s.add("Finished", a.ago(r.FinishedAt)+", after "+span(r.FinishedAt.Sub(r.CreatedAt)))
	}
	return s.String()
}

func rolloutState(r client.Rollout) string {
	text := r.State + inBrackets(r.Reason, r.Detail)
	if r.Forced {
		text += ", forced"
	}
	return text
}

func (a *app) ringLine(r client.Rollout) string {
	text := fmt.Sprintf("%s (%d of %d), wave %d", ringName(r, r.Ring), r.Ring+1, len(r.Rings), r.Wave+1)
	if !r.WaveSince.IsZero() {
		text += ", since " + a.age(r.WaveSince)
	}
	return text
}

// settledOf is how many members have come to an end.
func settledOf(c client.RolloutCounts) int {
	return c.Done + c.AsleepVerified + c.Unverifiable + c.Failed + c.RolledBack
}

// progressLine says how far a rollout is; "" before its members are known.
func progressLine(r client.Rollout) string {
	if r.Total == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d (%d%%): %s", settledOf(r.Counts), r.Total, settledOf(r.Counts)*100/r.Total, countsText(r.Counts))
}

// countsText lists the states that members are in.
func countsText(c client.RolloutCounts) string {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{
		{c.Done, "done"}, {c.AsleepVerified, "asleep-verified"}, {c.Unverifiable, "unverifiable"}, {c.Failed, "failed"},
		{c.Rolling, "rolling"}, {c.Verifying, "verifying"}, {c.RollingBack, "rolling back"}, {c.RolledBack, "rolled back"}, {c.Waiting, "waiting"},
	} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if len(parts) == 0 {
		return "nobody"
	}
	return strings.Join(parts, ", ")
}

func ringLines(r client.Rollout) []string {
	width := 0
	for _, ring := range r.Rings {
		width = max(width, len(ring.Name))
	}
	var lines []string
	for _, ring := range r.Rings {
		if r.Total == 0 {
			break // they are being planned
		}
		lines = append(lines, fmt.Sprintf("%-*s  %d of %d: %s", width, ring.Name, settledOf(ring.Counts), ring.Total, countsText(ring.Counts)))
	}
	return lines
}

// paceLine is the rate and the time left; "" where nothing is known.
func paceLine(r client.Rollout) string {
	var parts []string
	if r.RatePerMinute != nil {
		parts = append(parts, fmt.Sprintf("%.1f a minute", *r.RatePerMinute))
	}
	if r.SecondsLeft != nil {
		parts = append(parts, "about "+span(time.Duration(*r.SecondsLeft*float64(time.Second)))+" left")
	}
	return strings.Join(parts, ", ")
}

func failureLines(r client.Rollout) []string {
	var lines []string
	for _, m := range r.Failures {
		lines = append(lines, m.Name+because(m.Reason, m.Detail))
	}
	if more := r.Counts.Failed - len(r.Failures); more > 0 && len(lines) > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return lines
}

func specLines(s client.RolloutSpec) []string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	switch {
	case s.SlotsPercent > 0:
		add("%g%% at once, %d clones of sleepers", s.SlotsPercent, s.VerifySlots)
	case s.Slots > 0:
		add("%d at once, %d clones of sleepers", s.Slots, s.VerifySlots)
	}
	if s.HealthyFor != "" {
		add("healthy for %s after at most %s, soak %s", s.HealthyFor, s.HealthDeadline, s.Soak)
	}
	switch {
	case s.MaxFailures > 0 && s.MaxFailuresPercent > 0:
		add("halts when more than %d or %g%% fail", s.MaxFailures, s.MaxFailuresPercent)
	case s.MaxFailures > 0:
		add("halts when more than %d fail", s.MaxFailures)
	case s.MaxFailuresPercent > 0:
		add("halts when more than %g%% fail", s.MaxFailuresPercent)
	}
	if s.AutoRollback {
		add("rolls back where it would halt")
	}
	if m := s.Metric; m != nil {
		text := fmt.Sprintf("halts when %s is above %g", m.Query, m.Max)
		if m.For != "" {
			text += " for " + m.For
		}
		lines = append(lines, text)
	}
	return lines
}

// planSheet is what a rollout would do.
func planSheet(p client.RolloutPlan) string {
	var s sheet
	s.add("Group", p.Group)
	s.add("Revisions", revisions(p.FromRevision, p.ToRevision))
	s.add("Members", fmt.Sprintf("%d to move, %d of them asleep, tried on clones", p.Total, p.Asleep))
	s.list("Settings", specLines(p.Spec))
	t := table{{"RING", "MEMBERS", "ASLEEP", "WAVES", "FIRST WAVE"}}
	for _, r := range p.Rings {
		waves := make([]string, len(r.Waves))
		for i, n := range r.Waves {
			waves[i] = fmt.Sprint(n)
		}
		t = append(t, []string{r.Name, fmt.Sprint(r.Total), fmt.Sprint(r.Asleep), strings.Join(waves, ", "), strings.Join(r.FirstWave, ", ")})
	}
	return s.String() + "\n" + t.String()
}

// joined are the pairs of a map in one cell.
func joined(m map[string]string) string { return strings.Join(keyValues(m), " ") }
