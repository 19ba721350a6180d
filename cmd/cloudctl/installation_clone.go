package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"dormouse/client"
)

func (a *app) installationClone() *cobra.Command {
	var w waiting
	var live time.Duration
	var version int64
	cmd := &cobra.Command{
		Use: "clone NAME", Short: "Make a throw-away copy of a sleeping installation, to look at", Args: one("NAME"),
		Long: `Make a copy of a sleeping installation, with its data, to look at. It runs on an
isolated network without a way out, and is thrown away after --for with whatever
was changed in it. The installation sleeps on; whatever else is asked of it ends
the copy at once.

--wait waits until the copy runs, and shows where it is reached from its host.`,
		Example:           "  cloudctl installation clone acme --for 10m --wait",
		ValidArgsFunction: a.complete(installationNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			if live < 10*time.Second || live > time.Hour || live%time.Second != 0 {
				return usagef("--for %s: give whole seconds, from 10s to 1h", live)
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			accepted, err := c.Installations.Clone(ctx, args[0], client.CloneInstallation{TimeToLiveSeconds: int(live.Seconds())}, client.IfMatch(version))
			if err != nil {
				return err
			}
			if !w.wait {
				return a.printInstallation(accepted)
			}
			return a.awaitClone(ctx, c, accepted, w)
		}),
	}
	cmd.Flags().DurationVar(&live, "for", 15*time.Minute, "how long the copy runs, 1h at most")
	w.flags(cmd)
	ifVersion(cmd, &version)
	return cmd
}

// awaitClone waits until the clone can be looked at, and shows it.
func (a *app) awaitClone(ctx context.Context, c *client.Client, accepted client.Installation, w waiting) error {
	if accepted.Operation == nil {
		return fmt.Errorf("waiting for the clone: the server named no operation; look for it with instance list")
	}
	until, reached := context.WithCancel(ctx)
	defer reached()
	runs := false
	w.seen = func(op client.Operation) {
		if op.Step == client.StepHoldClone && !op.Finished() {
			runs = true
			reached()
		}
	}
	if err := a.follow(until, c, accepted.Operation, w); err != nil && !runs {
		return err
	}
	for i, err := range c.Instances.All(ctx, client.ListInstances{Installation: accepted.ID}) {
		if err != nil {
			return err
		}
		if i.Clone {
			return a.printInstance(i)
		}
	}
	return fmt.Errorf("the clone of %s is gone already: give it longer with --for", accepted.Name)
}
