package main

import (
	"context"
	"fmt"
	"net/url"
	"path"

	"github.com/spf13/cobra"

	"dormouse/client"
)

func (a *app) kernelCommand() *cobra.Command {
	cmd := newGroup("kernel", "Releases of kernels that come as archives", "kernels")
	cmd.AddCommand(a.kernelAdd(), a.kernelList())
	return cmd
}

func (a *app) kernelAdd() *cobra.Command {
	in := client.AddKernel{}
	cmd := &cobra.Command{
		Use: "add KIND --url URL --sha256 DIGEST", Short: "Have the server fetch a kernel's release and build new images with it", Args: one("KIND"),
		Long: `Have the server fetch a kernel's release, a tar.gz with boot.img, kernel.img and
klibs/, and build new images with it. KIND is nanos. The digest is what makes you
sure of what you get: take it from where you trust, not from the same server.

Images that are there keep the kernel that they were built with.`,
		Example:   "  cloudctl kernel add nanos --url https://example.com/nanos-release-linux-0.1.54.tar.gz --sha256 DIGEST",
		ValidArgs: []string{"nanos"},
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			in.Kind = args[0]
			k, err := c.Kernels.Add(ctx, in)
			if err != nil {
				return err
			}
			return a.print(k, func() string { return fmt.Sprintf("%s %.12s: new images are built with it\n", clean(k.Kind), k.SHA256) })
		}),
	}
	cmd.Flags().StringVar(&in.URL, "url", "", "`URL` of the archive, http or https")
	cmd.Flags().StringVar(&in.SHA256, "sha256", "", "the SHA-256 `DIGEST` that the archive must have")
	// Fail only for flags that are not there.
	_ = cmd.MarkFlagRequired("url")
	_ = cmd.MarkFlagRequired("sha256")
	return cmd
}

func (a *app) kernelList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the releases that were fetched", Args: cobra.NoArgs,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			list, err := c.Kernels.List(ctx)
			if err != nil {
				return err
			}
			return a.print(list.Items, func() string { return a.kernelTable(list.Items) })
		}),
	}
}

func (a *app) kernelTable(list []client.Kernel) string {
	t := table{{"KERNEL", "SHA256", "FILE", "CURRENT", "AGE"}}
	for _, k := range list {
		file, current := k.URL, "no"
		if u, err := url.Parse(k.URL); err == nil {
			file = path.Base(u.Path)
		}
		if k.Current {
			current = "yes"
		}
		t = append(t, []string{k.Kind, fmt.Sprintf("%.12s", k.SHA256), file, current, a.age(k.CreatedAt)})
	}
	return t.String()
}
