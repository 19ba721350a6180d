package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/spf13/cobra"

	"dormouse/client"
)

func (a *app) packageTrace() *cobra.Command {
	var in client.TracePackage
	var memory sizeFlag
	var atMost time.Duration
	cmd := &cobra.Command{
		Use: "trace NAME[@VERSION]", Short: "Boot a package once with its kernel's trace of system calls, and say what was missing", Args: one("NAME[@VERSION]"),
		Long: `Boot a package once in a throw-away machine, without volume and network, with its
kernel's trace of system calls, and say what the kernel lacked for it. That is
recorded with the package as evidence (package get). Only packages for the kernel
nanos can be traced: linux runs every program.

Standard output has what was missing; -o json has the last lines of the trace too.`,
		Example:           "  cloudctl package trace postgresql@15 --for 20s --memory 512MiB",
		ValidArgsFunction: a.complete(packageNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			in.MemoryMiB, in.Seconds = memory.mib, int(math.Ceil(atMost.Seconds()))
			return a.trace(ctx, c, args[0], in)
		}),
	}
	cmd.Flags().DurationVar(&atMost, "for", 0, "how long it runs at most (30s)")
	cmd.Flags().Var(&memory, "memory", "its memory (what the package asks for)")
	return cmd
}

// trace traces a package and prints what that told.
func (a *app) trace(ctx context.Context, c *client.Client, ref string, in client.TracePackage) error {
	t, err := c.Packages.Trace(ctx, ref, in)
	if err != nil {
		return err
	}
	return a.print(t, func() string {
		var s sheet
		s.list("Evidence", t.Evidence)
		if len(t.Evidence) == 0 {
			s.add("Evidence", "nothing was missing")
		}
		switch x := t.Exit; {
		case x == nil:
			s.add("End", "it ran until the time was over")
		case x.Code >= 0:
			s.add("End", fmt.Sprintf("it ended with exit code %d", x.Code))
		default:
			s.add("End", "it ended: "+x.Reason)
		}
		return s.String()
	})
}
