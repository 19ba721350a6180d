package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"dormouse/client"
)

func (a *app) instanceCommand() *cobra.Command {
	cmd := newGroup("instance", "The virtual machines of installations, and where they are reached", "instances", "vm")
	cmd.AddCommand(a.instanceList(), a.instanceGet())
	return cmd
}

func (a *app) instanceList() *cobra.Command {
	var q client.ListInstances
	var l limits
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List instances with their addresses, oldest first", Args: cobra.NoArgs,
		Example: "  cloudctl instance list --installation acme",
		RunE: a.run(func(ctx context.Context, _ []string) error {
			limit, err := l.of(maxPage)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			q.Limit = pageSize(limit)
			list, more, err := collect(c.Instances.All(ctx, q), limit)
			if err != nil {
				return err
			}
			return a.listed(list, more, func() string { return a.instanceTable(list) })
		}),
	}
	cmd.Flags().StringVar(&q.Installation, "installation", "", "only those of the installation `NAME` (or ID)")
	cmd.Flags().StringVar(&q.Cluster, "cluster", "", "only those in the cluster `NAME` (or ID)")
	l.flags(cmd, fmt.Sprintf("list at most `N` (%d)", maxPage))
	// Fail only for flags that are not there.
	_ = cmd.RegisterFlagCompletionFunc("installation", a.complete(installationNames))
	_ = cmd.RegisterFlagCompletionFunc("cluster", a.complete(clusterNames))
	return cmd
}

func (a *app) instanceGet() *cobra.Command {
	return &cobra.Command{
		Use: "get ID", Short: "Show an instance", Args: one("ID"),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			i, err := c.Instances.Get(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printInstance(i)
		}),
	}
}

func (a *app) printInstance(i client.InstanceDetail) error {
	return a.print(i, func() string {
		var s sheet
		s.add("ID", i.ID)
		s.add("Installation", i.Installation)
		s.add("Owner", i.Owner)
		s.add("Place", i.Cluster+", "+i.Host)
		s.add("Power", i.Power)
		s.add("Role", roleOf(i))
		s.add("Kernel", i.Kernel)
		s.add("Image", i.Image)
		s.add("Size", fmt.Sprintf("%s, %d vCPU", showMiB(int64(i.MemoryMiB)), i.VCPUs))
		s.add("Address", i.Address)
		s.add("MAC", i.MAC)
		s.list("Reached at", endpointsOf(i))
		s.add("Restarts", fmt.Sprint(i.Restarts))
		s.add("Created", a.ago(i.CreatedAt))
		return s.String()
	})
}

func (a *app) instanceTable(list []client.InstanceDetail) string {
	t := table{{"ID", "INSTALLATION", "HOST", "POWER", "KERNEL", "MEMORY", "ADDRESS", "REACHED AT", "AGE"}}
	for _, i := range list {
		t = append(t, []string{i.ID, i.Installation, i.Host, i.Power, i.Kernel, showMiB(int64(i.MemoryMiB)), i.Address, strings.Join(endpointsOf(i), " "), a.age(i.CreatedAt)})
	}
	return t.String()
}

// endpointsOf are where its ports are reached, named by their protocol.
func endpointsOf(i client.InstanceDetail) []string {
	var all []string
	for _, e := range i.Endpoints {
		if e.Address != "" {
			all = append(all, e.Protocol+"://"+e.Address)
		}
	}
	return all
}

func roleOf(i client.InstanceDetail) string {
	switch {
	case i.Clone:
		return i.Role + ", a clone"
	case i.Serving:
		return i.Role + ", serving"
	}
	return i.Role
}
