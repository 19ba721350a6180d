package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"dormouse/client"
)

// completionTime bounds what a press of the tab key may take, and completionMax what it offers.
const (
	completionTime = 2 * time.Second
	completionMax  = 500
)

// complete offers names that the server knows. Without a server there are none.
func (a *app) complete(names func(context.Context, *client.Client) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		c, err := a.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := names(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}

func installationNames(ctx context.Context, c *client.Client) ([]string, error) {
	list, _, err := collect(c.Installations.All(ctx, client.ListInstallations{Limit: maxPage}), completionMax)
	var found []string
	for _, in := range list {
		found = append(found, clean(in.Name))
	}
	return found, err
}

func clusterNames(ctx context.Context, c *client.Client) ([]string, error) {
	list, _, err := collect(c.Clusters.All(ctx, client.ListPage{Limit: maxPage}), completionMax)
	var found []string
	for _, cluster := range list {
		found = append(found, clean(cluster.Name))
	}
	return found, err
}

func packageNames(ctx context.Context, c *client.Client) ([]string, error) {
	list, _, err := collect(c.Packages.All(ctx, client.ListPage{Limit: maxPage}), completionMax)
	var found []string
	for _, p := range list {
		found = append(found, clean(p.Name+"@"+p.Version))
	}
	return found, err
}

func groupNames(ctx context.Context, c *client.Client) ([]string, error) {
	list, _, err := collect(c.Groups.All(ctx, client.ListPage{Limit: maxPage}), completionMax)
	var found []string
	for _, g := range list {
		found = append(found, clean(g.Name))
	}
	return found, err
}

func imageNames(ctx context.Context, c *client.Client) ([]string, error) {
	list, _, err := collect(c.Images.All(ctx, client.ListPage{Limit: maxPage}), completionMax)
	var found []string
	for _, i := range list {
		if name := packageOf(i); name != "" {
			found = append(found, clean(name))
		}
	}
	return found, err
}
