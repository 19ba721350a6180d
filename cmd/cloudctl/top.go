package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dormouse/client"
)

func (a *app) topCommand() *cobra.Command {
	var every time.Duration
	var limit, count int
	cmd := &cobra.Command{
		Use: "top", Short: "Watch the installations that are visited most", Args: cobra.NoArgs,
		Long: `Watch the installations that were visited last, the busiest first, until it is
interrupted. Where standard output is no terminal, or results are JSON or YAML,
they are written once, or as often as --count says.

The gateway tells of visits now and then, and so the rates move in steps.`,
		Example: "  cloudctl top\n  cloudctl top --limit 5 -o json",
		RunE: a.run(func(ctx context.Context, _ []string) error {
			switch {
			case every < time.Second:
				return usagef("--every %s: give at least 1s", every)
			case limit < 1 || limit > 200:
				return usagef("--limit %d: give a number from 1 to 200", limit)
			case count < 0:
				return usagef("--count %d: give a number above 0", count)
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			if a.lookEvery > 0 {
				every = a.lookEvery
			}
			live := a.stdoutTTY && a.output == formatTable
			if count == 0 && !live {
				count = 1
			}
			return a.top(ctx, c, every, limit, count, live)
		}),
	}
	cmd.Flags().DurationVar(&every, "every", 5*time.Second, "look anew after so long")
	cmd.Flags().IntVar(&limit, "limit", 20, "show at most `N`")
	cmd.Flags().IntVar(&count, "count", 0, "end after `N` looks (on a terminal, when it is interrupted)")
	return cmd
}

// top looks again and again; count 0 is without end.
func (a *app) top(ctx context.Context, c *client.Client, every time.Duration, limit, count int, live bool) error {
	var before map[string]client.Traffic
	var looked time.Time
	for n := 1; ; n++ {
		list, err := c.Installations.ListTraffic(ctx, limit)
		switch {
		case err != nil && ctx.Err() != nil && live:
			return nil // that is how it ends
		case err != nil:
			return err
		}
		if list == nil {
			list = []client.Traffic{}
		}
		now := a.now()
		t := a.trafficTable(busiest(list, before), before, now.Sub(looked))
		if live {
			if err := a.redraw(t); err != nil {
				return err
			}
		} else if err := a.print(list, t.String); err != nil {
			return err
		}
		before, looked = map[string]client.Traffic{}, now
		for _, x := range list {
			before[x.InstallationID] = x
		}
		if n == count {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(every):
		}
	}
}

// busiest sorts by the requests since the last look, and leaves equals in their order.
func busiest(list []client.Traffic, before map[string]client.Traffic) []client.Traffic {
	requests := func(x client.Traffic) int64 {
		b, ok := before[x.InstallationID]
		if !ok {
			return 0
		}
		return x.Requests - b.Requests
	}
	slices.SortStableFunc(list, func(x, y client.Traffic) int { return int(min(1, max(-1, requests(y)-requests(x)))) })
	return list
}

// redraw writes a table over the one before, from the top of the terminal, each line
// cut to its width.
func (a *app) redraw(t table) error {
	var out strings.Builder
	out.WriteString("\x1b[H\x1b[J")
	for line := range strings.Lines(t.String()) {
		out.WriteString(cut(strings.TrimSuffix(line, "\n"), a.width()-1) + "\n")
	}
	if _, err := fmt.Fprint(a.stdout, out.String()); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}
