package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"dormouse/client"
)

func (a *app) packageCommand() *cobra.Command {
	cmd := newGroup("package", "The applications that installations run", "packages", "pkg")
	cmd.AddCommand(a.packageCreate(), a.packageList(), a.packageGet(), a.packageDelete())
	return cmd
}

func (a *app) packageCreate() *cobra.Command {
	var in client.NewPackage
	cmd := &cobra.Command{
		Use: "create PATH", Short: "Upload a package from a directory or a .tar.gz", Args: one("PATH"),
		Long: `Upload a package. PATH is a directory that holds a package.manifest, or such a
directory as a .tar.gz (or .tgz), which is sent as it is.

A directory is packed so that the same files always give the same package: in
order of their names, without owners and times. Uploading the same package
twice changes nothing; other content under the same name and version is refused.`,
		Example: `  cloudctl package create ./examples/workspace
  cloudctl package create workspace-1.1.tar.gz --name workspace --version 1.1`,
		RunE: a.run(func(ctx context.Context, args []string) error {
			open, err := packageSource(args[0])
			if err != nil {
				return err
			}
			in.Reopen = open.open
			c, err := a.connect()
			if err != nil {
				return err
			}
			p, err := c.Packages.Create(ctx, in)
			if local := open.failed(); local != nil {
				return usagef("packing %s: %w", args[0], local)
			}
			if err != nil {
				return err
			}
			for _, warning := range p.Warnings {
				a.note("warning: %s", warning)
			}
			return a.printPackage(p)
		}),
	}
	cmd.Flags().StringVar(&in.Name, "name", "", "`NAME` of the package (as its manifest says)")
	cmd.Flags().StringVar(&in.Version, "version", "", "`VERSION` of the package (as its manifest says)")
	return cmd
}

func (a *app) packageList() *cobra.Command {
	var l limits
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List packages", Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			limit, err := l.of(0)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			list, more, err := collect(c.Packages.All(ctx, client.ListPage{Limit: pageSize(limit)}), limit)
			if err != nil {
				return err
			}
			return a.listed(list, more, func() string { return a.packageTable(list) })
		}),
	}
	l.flags(cmd, "list at most `N` (all)")
	return cmd
}

func (a *app) packageGet() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME[@VERSION]", Short: "Show a package", Args: one("NAME[@VERSION]"),
		ValidArgsFunction: a.complete(packageNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			p, err := c.Packages.Get(ctx, args[0])
			if err != nil {
				return err
			}
			return a.printPackage(p)
		}),
	}
}

func (a *app) packageDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME@VERSION", Aliases: []string{"rm"}, Short: "Remove a package; refused while an installation wants or runs it", Args: one("NAME@VERSION"),
		ValidArgsFunction: a.complete(packageNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			// Read first: the result names what is gone.
			p, err := c.Packages.Get(ctx, args[0])
			if err != nil {
				return err
			}
			// Elsewhere a bare name is the newest version; a deletion must not guess.
			if args[0] != p.ID && !strings.Contains(args[0], "@") {
				return &usageError{err: fmt.Errorf("%s does not say which version to delete", args[0]),
					advice: "to delete the newest: " + a.command("package delete "+p.Name+"@"+p.Version)}
			}
			if err := c.Packages.Delete(ctx, p.ID); err != nil {
				return err
			}
			return a.print(p, func() string { return fmt.Sprintf("deleted %s\n", clean(p.Name+"@"+p.Version)) })
		}),
	}
}

func (a *app) printPackage(p client.Package) error {
	return a.print(p, func() string {
		var s sheet
		s.add("Name", p.Name)
		s.add("Version", p.Version)
		s.add("ID", p.ID)
		s.add("Digest", p.Digest)
		s.add("Size", showBytes(p.SizeBytes))
		s.add("Kernel", p.Kernel)
		s.add("Program", p.Program)
		s.list("Warnings", p.Warnings)
		s.add("Created", a.ago(p.CreatedAt))
		return s.String()
	})
}

func (a *app) packageTable(list []client.Package) string {
	t := table{{"NAME", "VERSION", "SIZE", "KERNEL", "PROGRAM", "AGE", "DIGEST"}}
	for _, p := range list {
		t = append(t, []string{p.Name, p.Version, showBytes(p.SizeBytes), p.Kernel, p.Program, a.age(p.CreatedAt), strings.TrimSpace(p.Digest)})
	}
	return t.String()
}
