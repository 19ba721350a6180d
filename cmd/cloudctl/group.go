package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"dormouse/client"
)

func (a *app) groupCommand() *cobra.Command {
	cmd := newGroup("group", "Installations that share a configuration and a release", "groups")
	cmd.AddCommand(a.groupCreate(), a.groupList(), a.groupGet(), a.groupUpdate(), a.groupDelete(), a.groupRevisions())
	return cmd
}

func (a *app) groupList() *cobra.Command {
	var l limits
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List groups, oldest first", Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			limit, err := l.of(0)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			list, more, err := collect(c.Groups.All(ctx, client.ListPage{Limit: pageSize(limit)}), limit)
			if err != nil {
				return err
			}
			return a.listed(list, more, func() string { return a.groupTable(list) })
		}),
	}
	l.flags(cmd, "list at most `N` (all)")
	return cmd
}

func (a *app) groupGet() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show a group, its configuration and its members' revisions", Args: one("NAME"),
		ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			g, err := c.Groups.Get(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printGroup(g)
		}),
	}
}

func (a *app) groupDelete() *cobra.Command {
	var version int64
	cmd := &cobra.Command{
		Use: "delete NAME", Aliases: []string{"rm"}, Short: "Remove a group; refused while it has members or a rollout", Args: one("NAME"),
		ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			// Read first: the result names what is gone.
			g, err := c.Groups.Get(ctx, args[0])
			if err != nil {
				return err
			}
			if err := c.Groups.Delete(ctx, g.ID, client.IfMatch(version)); err != nil {
				return err
			}
			return a.print(g, func() string { return fmt.Sprintf("deleted %s\n", clean(g.Name)) })
		}),
	}
	ifVersion(cmd, &version)
	return cmd
}

func (a *app) groupRevisions() *cobra.Command {
	var l limits
	cmd := &cobra.Command{
		Use: "revisions NAME", Short: "List the revisions of a group's configuration, oldest first", Args: one("NAME"),
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
			list, more, err := collect(c.Groups.AllRevisions(ctx, args[0], client.ListPage{Limit: pageSize(limit)}), limit)
			if err != nil {
				return err
			}
			return a.listed(list, more, func() string { return a.revisionTable(list) })
		}),
	}
	l.flags(cmd, "list at most `N` (all)")
	return cmd
}

func (a *app) printGroup(g client.Group) error {
	return a.print(g, func() string { return a.groupSheet(g) })
}

func (a *app) groupTable(list []client.Group) string {
	t := table{{"NAME", "REVISION", "PACKAGE", "NEWEST", "MEMBERS", "ROLLOUT", "AGE"}}
	for _, g := range list {
		newest, rollout := "", ""
		if g.LatestRevision != g.Revision {
			newest = fmt.Sprintf("%d %s", g.LatestRevision, g.LatestConfig.Package)
		}
		if g.Rollout != nil {
			rollout = g.Rollout.State
		}
		t = append(t, []string{g.Name, fmt.Sprint(g.Revision), g.Config.Package, newest, fmt.Sprint(g.Members), rollout, a.age(g.CreatedAt)})
	}
	return t.String()
}

func (a *app) revisionTable(list []client.GroupRevision) string {
	t := table{{"REVISION", "PACKAGE", "MEMORY", "CPUS", "ENVIRONMENT", "UNVERIFIABLE", "AGE"}}
	for _, r := range list {
		memory, cpus := configSize(r.Config)
		t = append(t, []string{fmt.Sprint(r.Revision), r.Config.Package, memory, cpus, joined(r.Config.Env), r.Config.Unverifiable, a.age(r.CreatedAt)})
	}
	return t.String()
}

// configSize writes what a group sets of the size; "" where it leaves it to the members.
func configSize(c client.GroupConfig) (memory, cpus string) {
	if c.MemoryMiB != 0 {
		memory = showMiB(int64(c.MemoryMiB))
	}
	if c.VCPUs != 0 {
		cpus = fmt.Sprint(c.VCPUs)
	}
	return memory, cpus
}

func (a *app) groupSheet(g client.Group) string {
	var s sheet
	s.add("Name", g.Name)
	s.add("ID", g.ID)
	s.list("Labels", keyValues(g.Labels))
	s.list(fmt.Sprintf("Revision %d", g.Revision), configLines(g.Config))
	if g.LatestRevision != g.Revision {
		s.list(fmt.Sprintf("Newest, %d", g.LatestRevision), configLines(g.LatestConfig))
	}
	members := fmt.Sprint(g.Members)
	for i, m := range g.MembersByRevision {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		members += fmt.Sprintf("%s%d on revision %d", sep, m.Members, m.Revision)
	}
	s.add("Members", members)
	if r := g.Rollout; r != nil {
		s.add("Rollout", fmt.Sprintf("%s to revision %d, %s%s", r.ID, r.ToRevision, r.State, inBrackets(r.Reason, r.Detail)))
	}
	s.add("Version", fmt.Sprint(g.Version))
	s.add("Created", a.ago(g.CreatedAt))
	return s.String()
}

func configLines(c client.GroupConfig) []string {
	lines := []string{c.Package}
	memory, cpus := configSize(c)
	if memory != "" {
		lines = append(lines, memory+" memory")
	}
	if cpus != "" {
		lines = append(lines, cpus+" CPU")
	}
	lines = append(lines, keyValues(c.Env)...)
	lines = append(append(lines, idleLines(c.Idle)...), wakeLines(c.Wake)...)
	if c.Unverifiable == "move" {
		lines = append(lines, "sleepers that can't be verified are moved all the same")
	}
	return lines
}
