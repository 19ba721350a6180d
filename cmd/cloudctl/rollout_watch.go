package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dormouse/client"
)

func (a *app) rolloutStatus() *cobra.Command {
	var watch bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: "status ID|GROUP", Aliases: []string{"get"}, Short: "Show where a rollout is, or a group's newest", Args: one("ID|GROUP"),
		Long: `Show where a rollout is: ring and wave, how many members are done, failed or
waiting, at which rate, how long it will take, and why members failed.

With --watch it shows this on standard error as it changes, on a terminal in
place, elsewhere as lines, and ends when the rollout is finished, or halted, which
is when somebody has to decide. It exits with 0 when the rollout has succeeded, with
1 when it was halted, rolled back, cancelled or superseded, and with 5 at --timeout.`,
		Example: `  cloudctl rollout status web
  cloudctl rollout status web --watch && echo everybody has it`,
		ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			r, err := findRollout(ctx, c, args[0])
			if err != nil {
				return err
			}
			return a.settleRollout(ctx, c, r, rolloutWaiting{wait: watch, timeout: timeout}, "succeeded")
		}),
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on showing it until it is finished or halted")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long --watch watches, a `DURATION` such as 2h (as long as it takes)")
	return cmd
}

// rests tells whether a rollout goes on by itself no more.
func rests(r client.Rollout) bool { return r.Finished() || r.State == "halted" }

// watchRollout shows a rollout until it rests, prints what became of it, and
// returns a *rolloutError where it is not in the state want.
func (a *app) watchRollout(ctx context.Context, c *client.Client, r client.Rollout, timeout time.Duration, want string) error {
	if timeout < 0 {
		return usagef("--timeout %s: give a time above 0, such as 2h", timeout)
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	shown := &rolloutProgress{a: a}
	a.live = shown
	last, err := c.Rollouts.Follow(ctx, r.ID, a.lookEvery, func(r client.Rollout) bool {
		shown.seen(r)
		return !rests(r)
	})
	shown.clear()
	a.live = nil
	if last.ID == "" {
		last = r
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return &rolloutError{rollout: last, waiting: context.Cause(ctx)}
	case err != nil:
		return fmt.Errorf("watching rollout %s: %w", r.ID, err)
	}
	if err := a.printRollout(last); err != nil || last.State == want {
		return err
	}
	return &rolloutError{rollout: last}
}

// rolloutProgress shows a rollout as it goes on, on standard error: in place on
// a terminal, as lines elsewhere. It shows nothing where a program reads standard error.
type rolloutProgress struct {
	a    *app
	last client.Rollout
	// lines is how many lines of the display stand on the terminal.
	lines int
	// told is the last line told, and key what it was about: the counts alone
	// are told now and then only.
	told, key string
	toldAt    time.Time
	// failed are the failures that have been told.
	failed map[string]bool
	lost   string
}

// countsEvery is how often a line tells of counts where nothing else has changed.
const countsEvery = 30 * time.Second

// seen shows what has changed.
func (p *rolloutProgress) seen(r client.Rollout) {
	p.last, p.lost = r, ""
	if p.a.stderrTTY {
		p.draw()
		return
	}
	if p.failed == nil {
		p.failed = map[string]bool{}
	}
	for i := len(r.Failures) - 1; i >= 0; i-- { // oldest first
		m := r.Failures[i]
		if failure := m.InstallationID + m.FinishedAt.String(); !p.failed[failure] {
			p.failed[failure] = true
			p.a.note("rollout of %s: %s failed%s", r.Group, m.Name, because(m.Reason, m.Detail))
		}
	}
	key := fmt.Sprint(r.State, r.Reason, r.Ring, r.Wave)
	if line := p.line(); line != p.told && (key != p.key || p.a.now().Sub(p.toldAt) >= countsEvery) {
		p.told, p.key, p.toldAt = line, key, p.a.now()
		p.a.note("%s", line)
	}
}

// line is the whole rollout in one line.
func (p *rolloutProgress) line() string {
	r := p.last
	text := "rollout of " + r.Group + ": " + r.State + inBrackets(r.Reason, r.Detail)
	if !r.Finished() {
		text += fmt.Sprintf(", ring %s (%d of %d), wave %d", ringName(r, r.Ring), r.Ring+1, len(r.Rings), r.Wave+1)
	}
	for _, part := range []string{progressLine(r), paceLine(r)} {
		if part != "" {
			text += ", " + part
		}
	}
	return text
}

// retrying shows that the server does not answer.
func (p *rolloutProgress) retrying(r client.Retry) {
	lost := p.lost
	p.lost = lostServer(r)
	switch {
	case p.a.stderrTTY:
		p.draw()
	case p.lost != lost:
		p.a.note("%s", p.lost)
	}
}

// clear takes the display away.
func (p *rolloutProgress) clear() {
	if p.lines > 0 {
		_, _ = fmt.Fprintf(p.a.stderr, "\x1b[%dA\x1b[J", p.lines)
		p.lines = 0
	}
}

// What a display shows at the most, so that it fits on a terminal: a taller one
// could not be taken away again.
const (
	shownRings    = 8
	shownFailures = 5
)

// draw writes the display anew, each line cut to the terminal's width.
func (p *rolloutProgress) draw() {
	r := p.last
	if r.ID == "" && p.lost == "" {
		return
	}
	var lines []string
	if r.ID != "" {
		lines = append(lines, fmt.Sprintf("rollout %s of %s, %s: %s", r.ID, r.Group, revisions(r.FromRevision, r.ToRevision), rolloutState(r)))
		if !r.Finished() {
			lines = append(lines, "  ring "+p.a.ringLine(r))
		}
		for _, part := range []string{progressLine(r), paceLine(r)} {
			if part != "" {
				lines = append(lines, "  "+part)
			}
		}
		lines = append(lines, indented(aroundRing(ringLines(r), r.Ring))...)
		for _, line := range failureLines(r)[:min(shownFailures, len(failureLines(r)))] {
			lines = append(lines, "  failed: "+line)
		}
	}
	if p.lost != "" {
		lines = append(lines, p.lost)
	}
	var out strings.Builder
	for _, line := range lines {
		out.WriteString(cut(line, p.a.width()-1) + "\n")
	}
	p.clear()
	p.lines = len(lines)
	_, _ = fmt.Fprint(p.a.stderr, out.String())
}

// aroundRing are the lines of so many rings as are shown, with the current one among them.
func aroundRing(lines []string, ring int) []string {
	if len(lines) < 2 {
		return nil // the line above says all
	}
	from := max(0, min(ring-1, len(lines)-shownRings))
	return lines[from:min(from+shownRings, len(lines))]
}

func indented(lines []string) []string {
	for i := range lines {
		lines[i] = "    " + lines[i]
	}
	return lines
}

// cut shortens a line to so many characters, what could steer the terminal taken out.
func cut(line string, width int) string {
	runes := []rune(clean(line))
	if len(runes) > width && width > 1 {
		runes = append(runes[:width-1], '…')
	}
	return string(runes)
}
