package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"dormouse/client"
)

func (a *app) clusterCommand() *cobra.Command {
	cmd := newGroup("cluster", "The places where installations run", "clusters")
	cmd.AddCommand(a.clusterCreate(), a.clusterList(), a.clusterGet(), a.clusterCheck(), a.clusterDelete(),
		a.explain("NAME", "a cluster", a.complete(clusterNames), func(ctx context.Context, c *client.Client, name string) (client.Explanation, error) {
			return c.Clusters.Explain(ctx, name)
		}))
	return cmd
}

func (a *app) clusterCreate() *cobra.Command {
	var w waiting
	var provider string
	var settings []string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Register a cluster and have it checked", Args: one("NAME"),
		Long: `Register a cluster. Its provider checks it, and says what is missing.

Providers:
  kvm   virtual machines under QEMU on the server's own machine
  sim   instances that exist only in the simulator's state; --set takes its
        latency, fault rates and capacity: see "cloudctl help simulator"`,
		Example: `  cloudctl cluster create local --provider kvm --wait
  cloudctl cluster create test --provider sim --set latency=10ms`,
		RunE: a.run(func(ctx context.Context, args []string) error {
			set, err := pairs("set", settings)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			accepted, err := c.Clusters.Create(ctx, client.CreateCluster{Name: args[0], Provider: provider, Settings: set})
			if err != nil {
				return err
			}
			return a.settleCluster(ctx, c, accepted, w)
		}),
	}
	cmd.Flags().StringVar(&provider, "provider", "", "the provider, `kvm|sim` (required)")
	cmd.Flags().StringArrayVar(&settings, "set", nil, "a setting of the provider, as `KEY=VALUE`; may be repeated")
	// Fails only for a flag that is not there.
	_ = cmd.MarkFlagRequired("provider")
	completeWith(cmd, "provider", "kvm", "sim")
	w.flags(cmd)
	return cmd
}

func (a *app) clusterList() *cobra.Command {
	var l limits
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List clusters", Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			limit, err := l.of(0)
			if err != nil {
				return err
			}
			list, more, err := collect(c.Clusters.All(ctx, client.ListPage{Limit: pageSize(limit)}), limit)
			if err != nil {
				return err
			}
			return a.listed(list, more, func() string { return a.clusterTable(list) })
		}),
	}
	l.flags(cmd, "list at most `N` (all)")
	return cmd
}

// listed prints a list and says where there are more.
func (a *app) listed(list any, more bool, text func() string) error {
	if err := a.print(list, text); err != nil {
		return err
	}
	if more {
		a.note("there are more: --limit N or --all shows them")
	}
	return nil
}

func (a *app) clusterGet() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show a cluster, its checks and its hosts", Args: one("NAME"),
		ValidArgsFunction: a.complete(clusterNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			cluster, err := c.Clusters.Get(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printCluster(cluster)
		}),
	}
}

func (a *app) clusterCheck() *cobra.Command {
	var w waiting
	var settings []string
	cmd := &cobra.Command{
		Use: "check NAME", Short: "Have a cluster checked again, and new hosts join it", Args: one("NAME"),
		Long: `Have a cluster checked again by its provider. Hosts that it shows now join the cluster,
and what their capacity is now counts. What runs is not touched: what is held stays held, and a
host that is found no more is down as long as something lies on it, and forgotten else.

With --set, settings change where the check passes; where it fails, nothing changes. A
cluster whose creation has failed is created again.`,
		Example: `  cloudctl cluster check local --wait
  cloudctl cluster check test --set hosts=5 --wait
  cloudctl cluster check test --set latency= --wait      # takes a setting away`,
		ValidArgsFunction: a.complete(clusterNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			set, err := pairs("set", settings)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			accepted, err := c.Clusters.Check(ctx, args[0], client.CheckCluster{Settings: set})
			if err != nil {
				return err
			}
			return a.settleCluster(ctx, c, accepted, w)
		}),
	}
	cmd.Flags().StringArrayVar(&settings, "set", nil, "a setting of the provider that changes, as `KEY=VALUE`; may be repeated")
	w.flags(cmd)
	return cmd
}

func (a *app) clusterDelete() *cobra.Command {
	var w waiting
	cmd := &cobra.Command{
		Use: "delete NAME", Aliases: []string{"rm"}, Short: "Remove a cluster; refused while installations are in it", Args: one("NAME"),
		ValidArgsFunction: a.complete(clusterNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			accepted, err := c.Clusters.Delete(ctx, args[0])
			if err != nil {
				return err
			}
			return a.settleCluster(ctx, c, accepted, w)
		}),
	}
	w.flags(cmd)
	return cmd
}

// settleCluster waits if asked to and prints what became of the cluster.
func (a *app) settleCluster(ctx context.Context, c *client.Client, accepted client.Cluster, w waiting) error {
	failed := a.follow(ctx, c, accepted.Operation, w)
	return settled(ctx, a, w, failed, accepted, func(ctx context.Context) (client.Cluster, error) {
		latest, err := c.Clusters.Get(ctx, accepted.ID)
		if client.IsNotFound(err) && accepted.Operation.Kind == "delete-cluster" {
			latest, err = accepted, nil
			latest.State, latest.Operation = "deleted", nil
		}
		return latest, err
	}, a.printCluster)
}

func (a *app) printCluster(cluster client.Cluster) error {
	return a.print(cluster, func() string { return a.clusterSheet(cluster) })
}

func (a *app) clusterTable(list []client.Cluster) string {
	t := table{{"NAME", "PROVIDER", "STATE", "HOSTS", "FREE MEMORY", "FREE DISK", "AGE", "REASON"}}
	for _, c := range list {
		var memory, disk int64
		for _, h := range c.Hosts {
			memory += max(0, h.MemoryMiB-h.MemoryHeldMiB) // a host may have become smaller than what is held there
			disk += max(0, h.DiskMiB-h.DiskHeldMiB)
		}
		t = append(t, []string{c.Name, c.Provider, c.State, fmt.Sprint(len(c.Hosts)), showMiB(memory), showMiB(disk), a.age(c.CreatedAt), c.StateReason})
	}
	return t.String()
}

func (a *app) clusterSheet(c client.Cluster) string {
	var s sheet
	s.add("Name", c.Name)
	s.add("ID", c.ID)
	s.add("Provider", c.Provider)
	s.add("State", c.State+inBrackets(c.StateReason, c.StateDetail))
	if !c.AllowInstallations {
		s.add("Accepts", "no new installations")
	}
	s.list("Settings", keyValues(c.Settings))
	var checks, hosts []string
	for _, check := range c.Checks {
		text := "ok       " + check.Name
		if !check.OK {
			text = "missing  " + check.Name
		}
		if check.Detail != "" {
			text += ": " + check.Detail
		}
		checks = append(checks, text)
		if check.Mend != "" && !check.OK {
			checks = append(checks, "         mend it: "+check.Mend)
		}
	}
	s.list("Checks", checks)
	for _, h := range c.Hosts {
		hosts = append(hosts, fmt.Sprintf("%s %s: %s of %s memory free, %s of %s disk free", h.Name, h.State,
			showMiB(h.MemoryMiB-h.MemoryHeldMiB), showMiB(h.MemoryMiB), showMiB(h.DiskMiB-h.DiskHeldMiB), showMiB(h.DiskMiB)))
	}
	s.list("Hosts", hosts)
	s.add("Operation", a.operationLine(c.Operation))
	s.add("Created", a.ago(c.CreatedAt))
	return s.String()
}

// inBrackets is a reason with its detail, to follow a state.
func inBrackets(reason, detail string) string {
	var parts []string
	for _, part := range []string{reason, detail} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ": ") + ")"
}

// keyValues are the pairs of a map in order of their keys.
func keyValues(m map[string]string) []string {
	var list []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		list = append(list, key+"="+m[key])
	}
	return list
}
