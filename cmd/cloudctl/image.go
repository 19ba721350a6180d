package main

import (
	"context"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"dormouse/client"
)

func (a *app) imageCommand() *cobra.Command {
	cmd := newGroup("image", "What packages are built into, on the host of the server", "images", "img")
	cmd.Long = `Images are what packages are built into: one for a package and a kernel, however
many installations are made of it. IMAGE is an image's ID, the first 8 or more
digits of one, or NAME@VERSION of a package, which stands for the image that it
has now.`
	cmd.AddCommand(a.imageList(), a.imageGet(), a.imageBuild(), a.imageLs(), a.imageCat(), a.imageDiff(), a.imageProvenance(), a.imageBill(), a.imageExport(), a.imageDelete())
	return cmd
}

func (a *app) imageList() *cobra.Command {
	var l limits
	cmd := &cobra.Command{
		Use: "list", Short: "List images, those being built and those that failed lately too", Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			limit, err := l.of(0)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			list, more, err := collect(c.Images.All(ctx, client.ListPage{Limit: pageSize(limit)}), limit)
			if err != nil {
				return err
			}
			return a.listed(list, more, func() string { return a.imageTable(list) })
		}),
	}
	l.flags(cmd, "list at most `N` (all)")
	return cmd
}

// onImage is a command on one image.
func (a *app) onImage(cmd *cobra.Command, f func(ctx context.Context, c *client.Client, image string) error) *cobra.Command {
	cmd.Args = one("IMAGE")
	cmd.ValidArgsFunction = a.complete(imageNames)
	cmd.RunE = a.run(func(ctx context.Context, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		return f(ctx, c, args[0])
	})
	return cmd
}

func (a *app) imageGet() *cobra.Command {
	return a.onImage(&cobra.Command{Use: "get IMAGE", Short: "Show an image, how far its build is, and the build's log"},
		func(ctx context.Context, c *client.Client, image string) error {
			i, err := c.Images.Get(ctx, image)
			if err != nil {
				return err
			}
			return a.printImage(i)
		})
}

func (a *app) imageBuild() *cobra.Command {
	return &cobra.Command{
		Use: "build NAME[@VERSION]", Short: "Build the image of a package, unless it is there, and wait for it", Args: one("NAME[@VERSION]"),
		Long: `Build the image of a package. Creating an installation does the same where it is
needed; this is for having it done before.

However many ask at once, it is built once. Ctrl-C leaves the build to go on.`,
		Example:           "  cloudctl image build workspace@1.1",
		ValidArgsFunction: a.complete(packageNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			i, err := c.Images.Build(ctx, client.BuildImage{Package: args[0]})
			if err != nil {
				return err
			}
			return a.printImage(i)
		}),
	}
}

func (a *app) imageLs() *cobra.Command {
	var digests bool
	cmd := &cobra.Command{
		Use: "ls IMAGE [PATH]", Short: "List what an image holds at a path and below", Args: cobra.RangeArgs(1, 2),
		Example:           "  cloudctl image ls workspace@1.1 /etc",
		ValidArgsFunction: a.complete(imageNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			o := client.FileOptions{Digests: digests}
			if len(args) == 2 {
				o.Path = args[1]
			}
			list, _, err := collect(c.Images.Files(ctx, args[0], o), 0)
			if err != nil {
				return err
			}
			return a.print(list, func() string { return fileTable(list) })
		}),
	}
	cmd.Flags().BoolVar(&digests, "digests", false, "the SHA-256 of every file too")
	return cmd
}

func (a *app) imageCat() *cobra.Command {
	return &cobra.Command{
		Use: "cat IMAGE PATH", Short: "Write a file of an image to standard output", Args: cobra.ExactArgs(2),
		Example:           "  cloudctl image cat workspace@1.1 /etc/passwd",
		ValidArgsFunction: a.complete(imageNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			body, err := c.Images.Content(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			defer func() { _ = body.Close() }() // it was only read
			return a.copyLogs(body, !a.stdoutTTY)
		}),
	}
}

func (a *app) imageDiff() *cobra.Command {
	return &cobra.Command{
		Use: "diff IMAGE IMAGE", Short: "Show in what files two images differ", Args: cobra.ExactArgs(2),
		Long: `Show in what files two images differ, a line each: - is only in the first, + only
in the second, ~ in both, but not the same. Without a difference nothing is shown.`,
		Example:           "  cloudctl image diff workspace@1.0 workspace@1.1",
		ValidArgsFunction: a.complete(imageNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			var lists [2][]client.ImageFile
			for n := range lists {
				if lists[n], _, err = collect(c.Images.Files(ctx, args[n], client.FileOptions{Digests: true}), 0); err != nil {
					return err
				}
			}
			differences := differ(lists[0], lists[1])
			return a.print(differences, func() string {
				var b strings.Builder
				for _, d := range differences {
					fmt.Fprintf(&b, "%s %s%s\n", d.Change, clean(d.Path), d.how())
				}
				return b.String()
			})
		}),
	}
}

func (a *app) imageProvenance() *cobra.Command {
	return a.onImage(&cobra.Command{Use: "provenance IMAGE", Short: "Show how an image came about: an in-toto statement (SLSA provenance) in JSON"},
		func(ctx context.Context, c *client.Client, image string) error {
			body, err := c.Images.Provenance(ctx, image)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.stdout, "%s\n", body)
			return err
		})
}

func (a *app) imageDelete() *cobra.Command {
	return a.onImage(&cobra.Command{Use: "delete IMAGE", Aliases: []string{"rm"}, Short: "Delete an image that no instance is made of; it is built again where it is needed"},
		func(ctx context.Context, c *client.Client, image string) error {
			i, err := c.Images.Get(ctx, image)
			if err != nil {
				return err
			}
			if err := c.Images.Delete(ctx, i.ID); err != nil {
				return err
			}
			return a.print(i, func() string { return fmt.Sprintf("deleted %s\n", i.ID) })
		})
}

// packageOf names what an image was built of.
func packageOf(i client.Image) string {
	if i.PackageName == "" {
		return ""
	}
	return i.PackageName + "@" + i.PackageVersion
}

// stateOf is the state, and how far a build is.
func stateOf(i client.Image) string {
	if i.State == "building" && i.TotalBytes > 0 {
		return fmt.Sprintf("building, %d %%", min(100, i.DoneBytes*100/i.TotalBytes))
	}
	return i.State
}

const shortID = 12

func (a *app) imageTable(list []client.Image) string {
	t := table{{"IMAGE", "PACKAGE", "KERNEL", "STATE", "SIZE", "AGE", "USED"}}
	for _, i := range list {
		size := ""
		if i.SizeBytes > 0 {
			size = showBytes(i.SizeBytes)
		}
		t = append(t, []string{i.ID[:min(len(i.ID), shortID)], packageOf(i), i.Kernel, stateOf(i), size, a.age(i.CreatedAt), a.ago(i.UsedAt)})
	}
	return t.String()
}

func (a *app) printImage(i client.Image) error {
	return a.print(i, func() string {
		var s sheet
		s.add("ID", i.ID)
		s.add("Package", packageOf(i))
		s.add("Kernel", i.Kernel)
		s.add("State", stateOf(i))
		s.add("Detail", i.Detail)
		if i.SizeBytes > 0 {
			s.add("Size", showBytes(i.SizeBytes))
		}
		s.add("Digests", digestsOf(i))
		s.add("Built", a.ago(i.CreatedAt))
		s.add("Used", a.ago(i.UsedAt))
		if !i.StartedAt.IsZero() {
			s.add("Begun", a.ago(i.StartedAt))
		}
		s.list("Log", i.Log)
		return s.String()
	})
}

func digestsOf(i client.Image) string {
	if i.PackageDigest == "" {
		return ""
	}
	return fmt.Sprintf("package %.12s, kernel %.12s, builder %s", i.PackageDigest, i.KernelDigest, i.BuilderVersion)
}

func fileTable(list []client.ImageFile) string {
	var t table
	for _, f := range list {
		name, size := f.Path, fmt.Sprint(f.SizeBytes)
		switch f.Kind {
		case "symlink":
			name += " -> " + f.Target
			size = ""
		case "directory":
			size = ""
		}
		row := []string{modeOf(f), size, name}
		if f.SHA256 != "" {
			row = append(row, f.SHA256)
		}
		t = append(t, row)
	}
	return t.String()
}

// modeOf writes a mode as ls does.
func modeOf(f client.ImageFile) string {
	kind := map[string]string{"directory": "d", "symlink": "l"}[f.Kind]
	if kind == "" {
		kind = "-"
	}
	bits := []byte(fs.FileMode(f.Mode & 0o777).String()[1:])
	for _, special := range []struct {
		bit    uint32
		at     int
		letter byte
	}{{0o4000, 2, 's'}, {0o2000, 5, 's'}, {0o1000, 8, 't'}} {
		switch {
		case f.Mode&special.bit == 0:
		case bits[special.at] == 'x':
			bits[special.at] = special.letter
		default:
			bits[special.at] = special.letter - 'a' + 'A'
		}
	}
	return kind + string(bits)
}
