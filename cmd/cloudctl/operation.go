package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"dormouse/client"
)

// operationsShown is how many operations are listed without --limit or --all: history has no end.
const operationsShown = 50

func (a *app) operationCommand() *cobra.Command {
	cmd := newGroup("operation", "Look at the work that is done, under way or queued", "operations", "op")
	cmd.AddCommand(a.operationList(), a.operationGet(),
		a.explain("ID", "an operation", nil, func(ctx context.Context, c *client.Client, id string) (client.Explanation, error) {
			return c.Operations.Explain(ctx, id)
		}))
	return cmd
}

func (a *app) operationList() *cobra.Command {
	var q client.ListOperations
	var l limits
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List operations, newest first", Args: cobra.NoArgs,
		Example: `  cloudctl operation list --resource acme
  cloudctl operation list --state failed --all -o json`,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			limit, err := l.of(operationsShown)
			if err != nil {
				return err
			}
			q.Limit = pageSize(limit)
			list, more, err := collect(c.Operations.All(ctx, q), limit)
			if err != nil {
				return err
			}
			return a.listed(list, more, func() string { return a.operationTable(list) })
		}),
	}
	cmd.Flags().StringVar(&q.Resource, "resource", "", "only those of the installation or cluster `NAME` (or ID)")
	cmd.Flags().StringVar(&q.State, "state", "", "only those in this `STATE`: queued, active, succeeded, failed or cancelled")
	completeWith(cmd, "state", "queued", "active", "succeeded", "failed", "cancelled")
	l.flags(cmd, fmt.Sprintf("list at most `N` (%d)", operationsShown))
	return cmd
}

func (a *app) operationGet() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use: "get ID", Short: "Show an operation and its steps", Args: one("ID"),
		Long: `Show an operation and its steps.

With --wait it waits for the end and exits as the command that asked for the
operation would have: 0 when it succeeded, 1 when it failed, 5 at --timeout.`,
		Example: `  cloudctl operation get 06f0c1q2v3n8e5d7g9h1j2k3l4
  cloudctl operation get 06f0c1q2v3n8e5d7g9h1j2k3l4 --wait --timeout 30m`,
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			// Read first: an ID that is wrong, or a server that is not there, is told at once.
			op, err := c.Operations.Get(ctx, args[0])
			if err != nil {
				return err
			}
			failed := a.follow(ctx, c, &op, w)
			return settled(ctx, a, w, failed, op,
				func(ctx context.Context) (client.Operation, error) { return c.Operations.Get(ctx, args[0]) },
				func(op client.Operation) error { return a.print(op, func() string { return a.operationSheet(op) }) })
		}),
	}
	w.flags(cmd)
	return cmd
}

func (a *app) operationTable(list []client.Operation) string {
	t := table{{"ID", "KIND", "RESOURCE", "STATE", "STEP", "AGE", "REASON"}}
	for _, op := range list {
		step := ""
		if op.StepsTotal > 0 {
			step = fmt.Sprintf("%d/%d", min(op.StepNumber, op.StepsTotal), op.StepsTotal)
			if op.Step != "" && !op.Finished() {
				step += " " + op.Step
			}
		}
		reason := op.WaitReason
		if op.Finished() {
			reason = ""
		}
		if op.State == "failed" || op.State == "cancelled" {
			reason = op.FailReason
		}
		t = append(t, []string{op.ID, op.Kind, op.ResourceType + "/" + op.ResourceName, op.State, step, a.age(op.CreatedAt), reason})
	}
	return t.String()
}

func (a *app) operationSheet(op client.Operation) string {
	var s sheet
	s.add("ID", op.ID)
	s.add("Kind", op.Kind)
	s.add("Resource", op.ResourceType+" "+op.ResourceName+" ("+op.ResourceID+")")
	s.add("State", op.State)
	if op.Step != "" && !op.Finished() {
		text := fmt.Sprintf("%d of %d, %s", op.StepNumber, op.StepsTotal, op.Step)
		if !op.StepSince.IsZero() {
			text += ", since " + a.age(op.StepSince)
		}
		s.add("Step", text)
	}
	if !op.Finished() && op.WaitReason != "" {
		s.add("Waiting for", op.WaitReason+because("", op.WaitDetail))
	}
	if op.Attempt > 0 {
		s.add("Failed tries", fmt.Sprint(op.Attempt))
	}
	if op.FailReason != "" || op.Error != "" {
		text := op.FailReason + because("", op.Error)
		if op.FailReason == "" {
			text = op.Error
		}
		s.add("Last error", text)
	}
	var steps []string
	for i, step := range op.Steps {
		text := fmt.Sprintf("%d %s, %s", i+1, step.Name, span(step.FinishedAt.Sub(step.StartedAt)))
		if step.Attempts > 1 {
			text += fmt.Sprintf(", attempt %d", step.Attempts)
		}
		steps = append(steps, text)
	}
	s.list("Steps done", steps)
	s.add("Worker", op.Worker)
	s.add("Created", a.ago(op.CreatedAt))
	if !op.FinishedAt.IsZero() {
		s.add("Finished", a.ago(op.FinishedAt)+", after "+span(op.FinishedAt.Sub(op.CreatedAt)))
	}
	return s.String()
}
