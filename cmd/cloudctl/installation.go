package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"dormouse/client"
)

func (a *app) installationCommand() *cobra.Command {
	cmd := newGroup("installation", "The tenants' workspaces: one virtual machine each", "installations", "inst")
	cmd.AddCommand(a.installationCreate(), a.installationList(), a.installationGet(), a.installationUpdate(),
		a.installationRequest("restart", "Stop the program cleanly and start it again", (*client.Installations).Restart),
		a.installationRequest("retry", "Try again what failed", (*client.Installations).Retry),
		a.installationHibernate(),
		a.installationRequest("wake", "Bring it back from sleep", (*client.Installations).Wake),
		a.installationDelete(), a.explain("NAME", "an installation", a.complete(installationNames), func(ctx context.Context, c *client.Client, name string) (client.Explanation, error) {
			return c.Installations.Explain(ctx, name)
		}), a.installationLogs(), a.installationOpen(), a.installationTraffic(), a.installationClone())
	return cmd
}

func (a *app) installationList() *cobra.Command {
	var q client.ListInstallations
	var labels []string
	var l limits
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List installations, oldest first", Args: cobra.NoArgs,
		Long: "List installations, oldest first: all of them, unless --limit says otherwise.",
		Example: `  cloudctl installation list --owner alice
  cloudctl installation list --state hibernating --label tier=gold -o json`,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			var err error
			if q.Labels, err = pairs("label", labels); err != nil {
				return err
			}
			limit, err := l.of(0)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			q.Limit = pageSize(limit)
			list, more, err := collect(c.Installations.All(ctx, q), limit)
			if err != nil {
				return err
			}
			return a.listed(list, more, func() string { return a.installationTable(list) })
		}),
	}
	cmd.Flags().StringVar(&q.Owner, "owner", "", "only those of this `OWNER`")
	cmd.Flags().StringVar(&q.State, "state", "", "only those in this `STATE`, such as stable or hibernating")
	cmd.Flags().StringVar(&q.Cluster, "cluster", "", "only those in the cluster `NAME`")
	cmd.Flags().StringVar(&q.Group, "group", "", "only those in the group `NAME`")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "only those with this label, as `KEY=VALUE`; may be repeated")
	l.flags(cmd, "list at most `N` (all)")
	return cmd
}

func (a *app) installationGet() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show an installation (by name or ID)", Args: one("NAME"),
		ValidArgsFunction: a.complete(installationNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			in, err := c.Installations.Get(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printInstallation(in)
		}),
	}
}

// requestMethod is a method of client.Installations that asks for a change.
type requestMethod = func(*client.Installations, context.Context, string, ...client.RequestOption) (client.Installation, error)

func (a *app) installationRequest(name, short string, method requestMethod) *cobra.Command {
	var w waiting
	var version int64
	cmd := &cobra.Command{
		Use: name + " NAME", Short: short, Args: one("NAME"),
		Example:           fmt.Sprintf("  cloudctl installation %s acme --wait", name),
		ValidArgsFunction: a.complete(installationNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.request(ctx, args[0], w, version, method)
		}),
	}
	w.flags(cmd)
	ifVersion(cmd, &version)
	return cmd
}

func ifVersion(cmd *cobra.Command, version *int64) {
	cmd.Flags().Int64Var(version, "if-version", 0, "only if it is still at version `N`")
}

func (a *app) request(ctx context.Context, name string, w waiting, version int64, method requestMethod) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	accepted, err := method(c.Installations, ctx, name, client.IfMatch(version))
	if err != nil {
		return err
	}
	return a.settleInstallation(ctx, c, accepted, w)
}

// settleInstallation waits if asked to and prints what became of the installation.
func (a *app) settleInstallation(ctx context.Context, c *client.Client, accepted client.Installation, w waiting) error {
	failed := a.follow(ctx, c, accepted.Operation, w)
	return settled(ctx, a, w, failed, accepted, func(ctx context.Context) (client.Installation, error) {
		latest, err := c.Installations.Get(ctx, accepted.ID)
		if client.IsNotFound(err) && accepted.Operation.Kind == "delete" {
			latest, err = accepted, nil
			latest.State, latest.Instance, latest.Operation = "deleted", nil, nil
		}
		return latest, err
	}, a.printInstallation)
}

func (a *app) installationDelete() *cobra.Command {
	var w waiting
	var version int64
	var yes bool
	cmd := &cobra.Command{
		Use: "delete NAME", Aliases: []string{"rm"}, Short: "Delete an installation with its data", Args: one("NAME"),
		Long: `Delete an installation: its virtual machine, its volume and the data on it.
There is no way back.

On a terminal it asks first, unless --yes is given. It does not ask where there
is no terminal to ask on.`,
		Example:           "  cloudctl installation delete acme --yes --wait",
		ValidArgsFunction: a.complete(installationNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			if !yes && a.stdinTTY && a.stderrTTY {
				if err := a.confirm(ctx, args[0]); err != nil {
					return err
				}
			}
			return a.request(ctx, args[0], w, version, (*client.Installations).Delete)
		}),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	w.flags(cmd)
	ifVersion(cmd, &version)
	return cmd
}

// confirm asks before something that can't be undone.
func (a *app) confirm(ctx context.Context, name string) error {
	_, _ = fmt.Fprintf(a.stderr, "delete installation %s with all its data? [y/N] ", clean(name))
	read := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.stdin).ReadString('\n') // no line is no yes
		read <- line
	}()
	select {
	case line := <-read:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return nil
		}
		return &usageError{err: fmt.Errorf("nothing was deleted"), advice: "answer y, or give --yes"}
	case <-ctx.Done():
		return fmt.Errorf("asking: %w", context.Cause(ctx))
	}
}

func (a *app) installationLogs() *cobra.Command {
	var o client.LogOptions
	var raw bool
	cmd := &cobra.Command{
		Use: "logs NAME", Short: "Print what the program of an installation has written", Args: one("NAME"),
		Long: `Print the console of an installation's virtual machine: what its program has
written, and the kernel.

On a terminal, escape sequences and control characters are taken out, because
they come from the tenant; --raw leaves them in. Into a file or a pipe
everything goes as it is.`,
		Example: `  cloudctl installation logs acme --tail 50
  cloudctl installation logs acme -f`,
		ValidArgsFunction: a.complete(installationNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			if o.Tail < 0 {
				return usagef("--tail %d: give a number of lines; 0 is all that is kept", o.Tail)
			}
			if a.output != formatTable {
				a.note("logs are text: --output does not change them")
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			log, err := c.Installations.Logs(ctx, args[0], o)
			if err != nil {
				return err
			}
			defer log.Close()
			return a.copyLogs(&brokenLog{log, c.BaseURL()}, raw)
		}),
	}
	cmd.Flags().BoolVarP(&o.Follow, "follow", "f", false, "go on with what is written from now on")
	cmd.Flags().IntVar(&o.Tail, "tail", 0, "begin with the last `N` lines (all that are kept)")
	cmd.Flags().BoolVar(&raw, "raw", false, "leave escape sequences in, on a terminal too")
	return cmd
}

// brokenLog makes a log that breaks off a server that can't be reached.
type brokenLog struct {
	r   io.Reader
	url string
}

func (l *brokenLog) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if err != nil && err != io.EOF {
		err = &client.UnreachableError{Method: "GET", URL: l.url, Err: fmt.Errorf("the log broke off: %w", err)}
	}
	return n, err
}
