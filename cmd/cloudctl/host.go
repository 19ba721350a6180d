package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dormouse/client"
)

// drainTimeout is how long --wait waits for a drain.
const drainTimeout = 24 * time.Hour

func (a *app) hostCommand() *cobra.Command {
	cmd := newGroup("host", "The machines of a cluster: who may be placed there, and moving everybody away", "hosts")
	cmd.AddCommand(a.hostList(), a.hostGet(),
		a.hostRequest("cordon", "Have a host take no new installations; what lies there stays", (*client.Hosts).Cordon),
		a.hostRequest("uncordon", "Have a host take installations again; cancels a drain", (*client.Hosts).Uncordon),
		a.hostDrain(), a.hostRemove())
	return cmd
}

// inCluster is the flag that says where a host is looked for.
type inCluster struct{ name string }

func (in *inCluster) flag(a *app, cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&in.name, "cluster", "", usage)
	// Fails only for a flag that is not there.
	_ = cmd.RegisterFlagCompletionFunc("cluster", a.complete(clusterNames))
}

// clusters are the named one, or all.
func (in *inCluster) clusters(ctx context.Context, c *client.Client) ([]client.Cluster, error) {
	if in.name == "" {
		list, _, err := collect(c.Clusters.All(ctx, client.ListPage{Limit: maxPage}), 0)
		return list, err
	}
	cluster, err := c.Clusters.Get(ctx, in.name)
	return []client.Cluster{cluster}, err
}

// find returns the cluster that has the host of that name or ID.
func (in *inCluster) find(ctx context.Context, c *client.Client, host string) (cluster client.Cluster, found client.Host, err error) {
	clusters, err := in.clusters(ctx, c)
	if err != nil {
		return cluster, found, err
	}
	var having []string
	for _, cl := range clusters {
		for _, h := range cl.Hosts {
			if h.ID == host {
				return cl, h, nil
			}
			if h.Name == host {
				cluster, found = cl, h
				having = append(having, cl.Name)
			}
		}
	}
	switch len(having) {
	case 0:
		return cluster, found, &missingError{fmt.Sprintf("there is no host %q", host), "see what there is", "host list"}
	case 1:
		return cluster, found, nil
	}
	return cluster, found, usagef("several clusters have a host %s: name one of %s with --cluster", host, strings.Join(having, ", "))
}

func (a *app) hostList() *cobra.Command {
	var in inCluster
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List hosts, and how far those are that are drained", Args: cobra.NoArgs,
		Example: "  cloudctl host list --cluster local",
		RunE: a.run(func(ctx context.Context, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			clusters, err := in.clusters(ctx, c)
			if err != nil {
				return err
			}
			list := []client.Host{}
			for _, cl := range clusters {
				page, err := c.Hosts.List(ctx, cl.ID)
				if err != nil && !(client.IsNotFound(err) && in.name == "") { // it was deleted meanwhile
					return err
				}
				list = append(list, page.Items...)
			}
			return a.print(list, func() string { return hostTable(list) })
		}),
	}
	in.flag(a, cmd, "only those of the cluster `NAME` (or ID)")
	return cmd
}

// hostArgument is the flag and the completion of commands on one host.
func (in *inCluster) hostArgument(a *app, cmd *cobra.Command) {
	in.flag(a, cmd, "look for the host in the cluster `NAME` (or ID); needed where several have one of that name")
	cmd.Args = one("HOST")
	cmd.ValidArgsFunction = a.complete(func(ctx context.Context, c *client.Client) ([]string, error) {
		clusters, err := in.clusters(ctx, c)
		var found []string
		for _, cl := range clusters {
			for _, h := range cl.Hosts {
				found = append(found, clean(h.Name))
			}
		}
		return found, err
	})
}

// onHost runs f with the IDs of the host that the argument names, and of its cluster.
func (a *app) onHost(in *inCluster, f func(ctx context.Context, c *client.Client, cluster, host string) error) func(*cobra.Command, []string) error {
	return a.run(func(ctx context.Context, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		cluster, host, err := in.find(ctx, c, args[0])
		if err != nil {
			return err
		}
		return f(ctx, c, cluster.ID, host.ID)
	})
}

func (a *app) hostGet() *cobra.Command {
	var in inCluster
	cmd := &cobra.Command{Use: "get HOST", Short: "Show a host, what lies there, and what its drain waits for"}
	in.hostArgument(a, cmd)
	cmd.RunE = a.onHost(&in, func(ctx context.Context, c *client.Client, cluster, host string) error {
		h, err := c.Hosts.Get(ctx, cluster, host)
		if err != nil {
			return err
		}
		return a.printHost(h)
	})
	return cmd
}

// hostRequest is the command of a verb that takes effect at once.
func (a *app) hostRequest(name, short string, method func(*client.Hosts, context.Context, string, string, ...client.RequestOption) (client.Host, error)) *cobra.Command {
	var in inCluster
	cmd := &cobra.Command{Use: name + " HOST", Short: short, Example: fmt.Sprintf("  cloudctl host %s sim-1", name)}
	in.hostArgument(a, cmd)
	cmd.RunE = a.onHost(&in, func(ctx context.Context, c *client.Client, cluster, host string) error {
		h, err := method(c.Hosts, ctx, cluster, host)
		if err != nil {
			return err
		}
		return a.printHost(h)
	})
	return cmd
}

func (a *app) hostDrain() *cobra.Command {
	var in inCluster
	var w waiting
	var body client.DrainHost
	cmd := &cobra.Command{
		Use: "drain HOST", Short: "Cordon a host and move everything away from it",
		Long: `Cordon a host and move its installations to other hosts of its cluster.

What runs is stopped, moved with its data and started there, a few at a time;
what does not become healthy there comes back, and is tried again later. What
sleeps is moved without being woken. Where no other host has room, the drain
waits for it. "cloudctl host uncordon" cancels it.

The drain ends when nothing is left. It fails, and leaves them where they are,
when all that is left are installations whose data can't be moved.`,
		Example: `  cloudctl host drain sim-1 --wait
  cloudctl host drain sim-1 --at-once 8
  cloudctl host get sim-1`,
	}
	in.hostArgument(a, cmd)
	cmd.Flags().IntVar(&body.AtOnce, "at-once", 0, "move at most `N` installations at a time (2); given again, it changes a drain under way")
	w.flagsWithin(cmd, drainTimeout)
	cmd.RunE = a.onHost(&in, func(ctx context.Context, c *client.Client, cluster, host string) error {
		if body.AtOnce < 0 {
			return usagef("--at-once %d: give a number above 0", body.AtOnce)
		}
		accepted, err := c.Hosts.Drain(ctx, cluster, host, body)
		if err != nil {
			return err
		}
		var op *client.Operation
		if accepted.Drain != nil {
			op = &accepted.Drain.Operation
		}
		failed := a.follow(ctx, c, op, w)
		return settled(ctx, a, w, failed, accepted, func(ctx context.Context) (client.Host, error) {
			return c.Hosts.Get(ctx, cluster, host)
		}, a.printHost)
	})
	return cmd
}

func (a *app) hostRemove() *cobra.Command {
	var in inCluster
	cmd := &cobra.Command{Use: "remove HOST", Aliases: []string{"rm"}, Short: "Forget a cordoned host on which nothing lies"}
	in.hostArgument(a, cmd)
	cmd.RunE = a.onHost(&in, func(ctx context.Context, c *client.Client, cluster, host string) error {
		// Read first: the result names what is gone.
		h, err := c.Hosts.Get(ctx, cluster, host)
		if err != nil {
			return err
		}
		if err := c.Hosts.Remove(ctx, cluster, host); err != nil {
			return err
		}
		return a.print(h, func() string { return fmt.Sprintf("removed %s\n", clean(h.Name)) })
	})
	return cmd
}

func (a *app) printHost(h client.Host) error {
	return a.print(h, func() string { return a.hostSheet(h) })
}

func hostTable(list []client.Host) string {
	t := table{{"NAME", "CLUSTER", "STATE", "FREE MEMORY", "FREE DISK", "DRAIN"}}
	for _, h := range list {
		drain := ""
		if h.State == "draining" && h.Drain != nil {
			drain = drainCounts(h.Drain)
		}
		t = append(t, []string{h.Name, h.Cluster, h.State, showMiB(h.MemoryMiB - h.MemoryHeldMiB), showMiB(h.DiskMiB - h.DiskHeldMiB), drain})
	}
	return t.String()
}

// drainCounts says in a few words how far a drain is.
func drainCounts(d *client.Drain) string {
	text := fmt.Sprintf("%d of %d done", d.Done, d.Total)
	for _, part := range []struct {
		n    int
		what string
	}{{d.Moving, "moving"}, {d.Waiting, "waiting"}, {d.Failed, "failed"}, {d.Stays, "can't move"}} {
		if part.n > 0 {
			text += fmt.Sprintf(", %d %s", part.n, part.what)
		}
	}
	return text
}

func (a *app) hostSheet(h client.Host) string {
	var s sheet
	s.add("Name", h.Name)
	s.add("ID", h.ID)
	s.add("Cluster", h.Cluster)
	s.add("State", h.State)
	s.add("Memory", fmt.Sprintf("%s of %s free", showMiB(h.MemoryMiB-h.MemoryHeldMiB), showMiB(h.MemoryMiB)))
	s.add("Disk", fmt.Sprintf("%s of %s free", showMiB(h.DiskMiB-h.DiskHeldMiB), showMiB(h.DiskMiB)))
	if h.Installations != nil {
		s.add("Lie there", fmt.Sprintf("%d installations", *h.Installations))
	}
	if d := h.Drain; d != nil {
		s.add("Drain", fmt.Sprintf("%s, at most %d at once", drainCounts(d), d.AtOnce))
		s.add("Waits for", strings.TrimSuffix(strings.TrimPrefix(inBrackets(d.Operation.WaitReason, d.Operation.WaitDetail), " ("), ")"))
		var left []string
		for _, m := range d.Members {
			text := fmt.Sprintf("%-8s %s (%s)", m.Progress, m.Name, m.State)
			if m.Busy != "" && m.Busy != "move" {
				text += ", " + m.Busy + " under way"
			}
			if m.Failures > 0 {
				text += fmt.Sprintf(": failed %d times, the last time%s", m.Failures, inBrackets(m.Reason, m.Detail))
			}
			left = append(left, text)
		}
		if more := d.Left - len(d.Members); more > 0 {
			left = append(left, fmt.Sprintf("and %d more", more))
		}
		s.list("Left", left)
		s.add("Operation", a.operationLine(&d.Operation))
	}
	return s.String()
}
