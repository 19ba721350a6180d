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
	cmd.AddCommand(a.packageCreate(), a.packageList(), a.packageGet(), a.packageTrace(), a.packageDelete())
	return cmd
}

func (a *app) packageCreate() *cobra.Command {
	var in client.NewPackage
	var key string
	var manifest, disk string
	var trace bool
	cmd := &cobra.Command{
		Use: "create [SOURCE]", Short: "Make a package of a program, a directory, a container image or Debian's packages", Args: cobra.ArbitraryArgs,
		Long: `Make a package. SOURCE is one of
  - a program for Linux on x86-64 (an ELF file);
  - a directory that holds a package.manifest, or such a directory as a tar,
    also compressed with gzip or zstd: packages of OPS are such tars, and one
    that OPS has fetched may be named as it names it, NAMESPACE/NAME:VERSION;
  - a container image as an archive: an OCI image layout, or what docker save
    writes.
Instead of SOURCE, --oci names an image in a registry, which the server pulls
without credentials, and --deb a package of Debian's, which it fetches with all
that it depends on. --disk names a disk that exists already (qcow2, vmdk, raw or
OVA), which is taken as it is and boots what is on it.

--manifest lays a package.manifest, or a directory with one, over any source:
its keys win, and its files (sysroot, Files, Dirs, MapDirs) are placed on top.

A directory is packed so that the same files always give the same package: in
order of their names, without owners and times. Making the same package
twice changes nothing; other content under the same name and version is refused.`,
		Example: `  cloudctl package create ./examples/workspace
  cloudctl package create workspace-1.1.tar.gz --name workspace --version 1.1
  cloudctl package create ./server --manifest server.manifest
  docker save web:1.4 | gzip > web.tar.gz && cloudctl package create web.tar.gz
  cloudctl package create --oci ghcr.io/example/web:1.4 --manifest ./web-settings
  cloudctl package create --disk debian-12-genericcloud-amd64.qcow2 --manifest debian.manifest
  cloudctl package create --deb mosquitto --manifest ./mosquitto-settings --kernel nanos`,
		RunE: a.run(func(ctx context.Context, args []string) error {
			var local []*source
			if err := oneSource(args, in, disk); err != nil {
				return err
			}
			if in.Disk = disk != ""; in.Disk {
				open, err := diskSource(disk)
				if err != nil {
					return err
				}
				in.Reopen, in.FileName = open.open, open.fileName
				local = append(local, open)
			}
			if len(args) == 1 {
				open, err := packageSource(args[0], a.opsHome())
				if err != nil {
					return err
				}
				in.Reopen, in.FileName = open.open, open.fileName
				local = append(local, open)
			}
			if manifest != "" {
				open, err := overlaySource(manifest)
				if err != nil {
					return err
				}
				in.Overlay = open.open
				local = append(local, open)
			}
			if key != "" {
				signature, err := sign(in, key)
				if err != nil {
					return err
				}
				in.Signature = signature
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			p, err := c.Packages.Create(ctx, in)
			for _, s := range local {
				if failed := s.failed(); failed != nil {
					return usagef("packing %s: %w", s.path, failed)
				}
			}
			if err != nil {
				return err
			}
			for _, warning := range p.Warnings {
				a.note("warning: %s", warning)
			}
			if trace {
				if err := a.trace(ctx, c, p.ID, client.TracePackage{}); err != nil {
					return err
				}
				if p, err = c.Packages.Get(ctx, p.ID); err != nil {
					return err
				}
			}
			return a.printPackage(p)
		}),
	}
	cmd.Flags().BoolVar(&trace, "trace", false, "boot it once with its kernel's trace of system calls, and say what was missing (kernel nanos)")
	cmd.Flags().StringVar(&in.Name, "name", "", "`NAME` of the package (as its manifest says)")
	cmd.Flags().StringVar(&in.Version, "version", "", "`VERSION` of the package (as its manifest says)")
	cmd.Flags().StringVar(&manifest, "manifest", "", "lay this package.manifest, or the directory that holds it, over the source: `FILE|DIR`")
	cmd.Flags().StringVar(&in.OCI, "oci", "", "make it of this image in a registry: `REF`, like registry/name:tag")
	cmd.Flags().StringArrayVar(&in.Deb, "deb", nil, "make it of this package of Debian's: `NAME` (may be repeated)")
	cmd.Flags().StringVar(&disk, "disk", "", "import this disk as it is: `FILE` (qcow2, vmdk, raw or OVA)")
	cmd.Flags().StringVar(&in.Kernel, "kernel", "", "`KERNEL` that its images boot: linux or nanos (as its manifest says, else linux)")
	cmd.Flags().StringVar(&key, "sign-key", "", "sign the source and what is laid over it with the private key in `FILE` (Ed25519, PEM), for servers that take signed sources only")
	cmd.Flags().BoolVar(&in.Force, "force", false, "take it even where the kernel surely can't run it; that is recorded as a warning")
	return cmd
}

// oneSource tells whether exactly one source is named.
func oneSource(args []string, in client.NewPackage, disk string) error {
	n := len(args)
	if disk != "" {
		n++
	}
	if in.OCI != "" {
		n++
	}
	if len(in.Deb) > 0 {
		n++
	}
	switch {
	case n == 0:
		return usagef("no source is named: give SOURCE, --oci REF, --deb NAME or --disk FILE")
	case n > 1:
		return usagef("a package has one source: give either SOURCE, --oci, --deb or --disk")
	}
	return nil
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
		s.list("Evidence", p.Evidence)
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
