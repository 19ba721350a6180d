package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"dormouse/client"
)

func (a *app) rolloutCommand() *cobra.Command {
	cmd := newGroup("rollout", "Bring the members of a group to another revision, wave by wave", "rollouts")
	cmd.AddCommand(a.rolloutCreate(), a.rolloutStatus(), a.rolloutList(), a.rolloutMembers(),
		a.explain("ID|GROUP", "a rollout, or a group's newest,", a.complete(groupNames), explainRollout),
		a.rolloutRequest("pause", "Begin nothing new until the rollout is resumed", "", (*client.Rollouts).Pause),
		a.rolloutResume(),
		a.rolloutRequest("cancel", "End a rollout and leave every member where it is", "cancelled", (*client.Rollouts).Cancel),
		a.rolloutRequest("rollback", "Put back what a rollout has touched", "rolled-back", (*client.Rollouts).Rollback),
		a.rolloutRequest("retry", "Put the new release again on the members that failed", "succeeded", (*client.Rollouts).Retry))
	return cmd
}

// looksLikeID tells a rollout's ID from the name of a group.
func looksLikeID(s string) bool {
	if len(s) != 26 {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'v') {
			return false
		}
	}
	return true
}

// findRollout finds a rollout by its ID, or the newest of a group.
func findRollout(ctx context.Context, c *client.Client, idOrGroup string) (client.Rollout, error) {
	if looksLikeID(idOrGroup) {
		r, err := c.Rollouts.Get(ctx, idOrGroup)
		if !client.IsNotFound(err) {
			return r, err
		}
		g, other := c.Groups.Get(ctx, idOrGroup)
		if client.IsNotFound(other) {
			return r, err
		}
		return newestRollout(ctx, c, g, other)
	}
	g, err := c.Groups.Get(ctx, idOrGroup)
	return newestRollout(ctx, c, g, err)
}

func newestRollout(ctx context.Context, c *client.Client, g client.Group, err error) (client.Rollout, error) {
	switch {
	case err != nil:
		return client.Rollout{}, err
	case g.Rollout == nil:
		return client.Rollout{}, &missingError{fmt.Sprintf("group %s has had no rollout", g.Name), "begin one", "rollout create " + g.Name}
	}
	return c.Rollouts.Get(ctx, g.Rollout.ID)
}

func explainRollout(ctx context.Context, c *client.Client, idOrGroup string) (client.Explanation, error) {
	r, err := findRollout(ctx, c, idOrGroup)
	if err != nil {
		return client.Explanation{}, err
	}
	return c.Rollouts.Explain(ctx, r.ID)
}

func (a *app) rolloutList() *cobra.Command {
	var q client.ListRollouts
	var l limits
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List rollouts, newest first", Args: cobra.NoArgs,
		Example: "  cloudctl rollout list --group web",
		RunE: a.run(func(ctx context.Context, _ []string) error {
			limit, err := l.of(operationsShown)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			q.Limit = pageSize(limit)
			list, more, err := collect(c.Rollouts.All(ctx, q), limit)
			if err != nil {
				return err
			}
			return a.listed(list, more, func() string { return a.rolloutTable(list) })
		}),
	}
	cmd.Flags().StringVar(&q.Group, "group", "", "only those of the group `NAME` (or ID)")
	l.flags(cmd, fmt.Sprintf("list at most `N` (%d)", operationsShown))
	return cmd
}

func (a *app) rolloutMembers() *cobra.Command {
	var q client.ListRolloutMembers
	var l limits
	cmd := &cobra.Command{
		Use: "members ID|GROUP", Short: "List the members of a rollout, or of a group's newest", Args: one("ID|GROUP"),
		Example:           "  cloudctl rollout members web --state failed",
		ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			limit, err := l.of(0)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			r, err := findRollout(ctx, c, args[0])
			if err != nil {
				return err
			}
			q.Limit = pageSize(limit)
			list, more, err := collect(c.Rollouts.AllMembers(ctx, r.ID, q), limit)
			if err != nil {
				return err
			}
			return a.listed(list, more, func() string { return a.memberTable(r, list) })
		}),
	}
	cmd.Flags().StringVar(&q.State, "state", "", "only those in this `STATE`, such as failed or waiting")
	completeWith(cmd, "state", "waiting", "rolling", "verifying", "done", "asleep-verified", "unverifiable", "failed", "rolling-back", "rolled-back", "gone")
	l.flags(cmd, "list at most `N` (all)")
	return cmd
}

// rolloutMethod is a method of client.Rollouts that asks for a change.
type rolloutMethod = func(*client.Rollouts, context.Context, string, ...client.RequestOption) (client.Rollout, error)

// rolloutRequest is the command of a verb, after which --wait waits for the
// state want; "" is nothing to wait for.
func (a *app) rolloutRequest(name, short, want string, method rolloutMethod) *cobra.Command {
	var w rolloutWaiting
	var version int64
	cmd := &cobra.Command{
		Use: name + " ID|GROUP", Short: short, Args: one("ID|GROUP"),
		Example:           fmt.Sprintf("  cloudctl rollout %s web", name),
		ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.controlRollout(ctx, args[0], w, want, version, method)
		}),
	}
	if want != "" {
		w.flags(cmd)
	}
	ifVersion(cmd, &version)
	return cmd
}

func (a *app) rolloutResume() *cobra.Command {
	var w rolloutWaiting
	var version int64
	var force bool
	cmd := &cobra.Command{
		Use: "resume ID|GROUP", Short: "Go on after a pause, or with --force after a halt", Args: one("ID|GROUP"),
		Long: `Go on with a rollout that was paused.

One that was halted, by the judge or by a limit, goes on with --force only, and
is halted no more after that.`,
		Example: `  cloudctl rollout resume web --wait
  cloudctl rollout resume web --force`,
		ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			method := (*client.Rollouts).Resume
			if force {
				method = (*client.Rollouts).Force
			}
			return a.controlRollout(ctx, args[0], w, "succeeded", version, method)
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "go on against the judge and the limits")
	w.flags(cmd)
	ifVersion(cmd, &version)
	return cmd
}

func (a *app) controlRollout(ctx context.Context, idOrGroup string, w rolloutWaiting, want string, version int64, method rolloutMethod) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	id := idOrGroup
	if !looksLikeID(idOrGroup) {
		r, err := findRollout(ctx, c, idOrGroup)
		if err != nil {
			return err
		}
		id = r.ID
	}
	r, err := method(c.Rollouts, ctx, id, client.IfMatch(version))
	if err != nil {
		return err
	}
	return a.settleRollout(ctx, c, r, w, want)
}

// rolloutWaiting are the flags of commands after which a rollout goes on.
type rolloutWaiting struct {
	wait    bool
	timeout time.Duration
}

func (w *rolloutWaiting) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&w.wait, "wait", false, "watch the rollout until it is finished or halted")
	cmd.Flags().DurationVar(&w.timeout, "timeout", 0, "how long --wait waits, a `DURATION` such as 2h (as long as it takes); the rollout goes on after it")
}

// settleRollout waits if asked to, and prints what became of the rollout.
func (a *app) settleRollout(ctx context.Context, c *client.Client, r client.Rollout, w rolloutWaiting, want string) error {
	if !w.wait {
		return a.printRollout(r)
	}
	return a.watchRollout(ctx, c, r, w.timeout, want)
}
