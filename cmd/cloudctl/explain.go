package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"dormouse/client"
)

// explain is the command that explains one thing, whatever it is.
func (a *app) explain(arg, what string, complete cobra.CompletionFunc, get func(context.Context, *client.Client, string) (client.Explanation, error)) *cobra.Command {
	return &cobra.Command{
		Use: "explain " + arg, Short: "Say what " + strings.TrimSuffix(what, ",") + " waits for, and why", Args: one(arg),
		Long: "Say what " + what + ` waits for: which step, since when, how many attempts,
the last error, what comes next, what can be done about it, and what it accepts now.`,
		ValidArgsFunction: complete,
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			e, err := get(ctx, c, args[0])
			if err != nil {
				return err
			}
			return a.print(e, func() string { return a.explanationSheet(e) })
		}),
	}
}

func (a *app) explanationSheet(e client.Explanation) string {
	var s sheet
	title := map[string]string{"installation": "Installation", "cluster": "Cluster", "rollout": "Rollout", "operation": "Operation"}
	s.add(title[e.About], e.Name)
	s.add("State", e.State)
	s.add("Summary", e.Summary)
	if e.WaitingFor != "" {
		s.add("Waiting for", e.WaitingFor+because("", e.Detail))
	} else {
		s.add("Detail", e.Detail)
	}
	if e.Step != "" {
		s.add("Step", fmt.Sprintf("%d of %d, %s", e.StepNumber, e.StepsTotal, e.Step))
	}
	s.add("Since", a.age(e.Since))
	if e.Attempts > 0 {
		s.add("Attempts", fmt.Sprint(e.Attempts))
	}
	s.add("Last error", e.LastError)
	next := e.Next
	if !e.NextAt.IsZero() {
		if ahead := e.NextAt.Sub(a.now()); ahead > 0 {
			next += ", in " + span(ahead) + " at the latest"
		}
	}
	s.add("Next", next)
	s.list("Advice", e.Advice)
	s.add("Accepts", strings.Join(e.Accepts, ", "))
	if e.About != "operation" {
		s.add("Operation", a.operationLine(e.Operation))
	}
	s.add("Queued", strings.Join(e.Queued, ", "))
	return s.String()
}
