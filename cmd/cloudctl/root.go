package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

const standardServer = "http://127.0.0.1:8075"

func (a *app) defaultServer() string {
	if server := a.getenv("DORMOUSE_SERVER"); server != "" {
		return server
	}
	return standardServer
}

// root builds the whole command line.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "cloudctl",
		Short: "Give each tenant a virtual machine of their own",
		Long: `cloudctl is the command line of Dormouse, which gives each tenant of an
application a small virtual machine of their own and lets idle ones sleep.

Results go to standard output; progress, notes and errors to standard error.
"cloudctl help exit-codes" lists the exit codes that scripts can rely on.`,
		Example: `  cloudctl cluster create local --provider kvm --wait
  cloudctl package create ./examples/workspace
  cloudctl installation create acme --owner alice --package workspace --wait
  cloudctl installation list --owner alice -o json`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE:          group,

		SuggestionsMinimumDistance: 2,
	}
	a.output = formatTable
	root.PersistentFlags().StringVar(&a.server, "server", a.defaultServer(), "`URL` of the server, also in DORMOUSE_SERVER")
	root.PersistentFlags().VarP(&a.output, "output", "o", "how results are written: `table|json|yaml`")
	completeWith(root, "output", "table", "json", "yaml")
	root.AddCommand(a.clusterCommand(), a.packageCommand(), a.installationCommand(), a.groupCommand(), a.rolloutCommand(),
		a.hostCommand(), a.operationCommand(), a.imageCommand(), a.instanceCommand(), a.kernelCommand(), a.topCommand(),
		&cobra.Command{
			Use: "version", Short: "Print the version of cloudctl", Args: cobra.NoArgs,
			RunE: a.run(func(context.Context, []string) error {
				v := version()
				return a.print(v, func() string { return fmt.Sprintf("cloudctl %s (%s, %s)\n", v.Version, v.Revision, v.Go) })
			}),
		},
		&cobra.Command{Use: "exit-codes", Short: "The exit codes that scripts can rely on", Long: exitCodesHelp},
		&cobra.Command{Use: "simulator", Short: "What a simulated cluster and its releases can be told", Long: simulatorHelp},
	)
	return root
}

// one takes exactly one argument, and says which where it is not there.
func one(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 && args[0] != "" {
			return nil
		}
		return &usageError{err: fmt.Errorf("%s needs one %s, and got %d", cmd.CommandPath(), what, len(args)),
			advice: "see the help: " + cmd.CommandPath() + " --help"}
	}
}

// group is what a command that only holds others does: it says so.
func group(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		if !cmd.HasParent() {
			return cmd.Help()
		}
		return &usageError{err: fmt.Errorf("%s needs a command: %s", cmd.CommandPath(), strings.Join(names(cmd), ", ")),
			advice: "see the help: " + cmd.CommandPath() + " --help"}
	}
	text := fmt.Sprintf("%s has no command %q", cmd.CommandPath(), args[0])
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return &usageError{err: errors.New(text), advice: "see the help: " + cmd.CommandPath() + " --help"}
}

func newGroup(use, short string, aliases ...string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Aliases: aliases, Args: cobra.ArbitraryArgs, RunE: group, SuggestionsMinimumDistance: 2}
}

func names(cmd *cobra.Command) []string {
	var list []string
	for _, c := range cmd.Commands() {
		list = append(list, c.Name())
	}
	return list
}

// run makes a command's function one that cobra takes, and remembers that the
// command line was understood.
func (a *app) run(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.started = true
		return f(cmd.Context(), args)
	}
}

// completeWith offers fixed values for a flag. It fails only for a flag that
// is not there, which the tests would show.
func completeWith(cmd *cobra.Command, flag string, values ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	})
}

// build is what this binary was built from.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision"`
	Go       string `json:"go"`
}

func version() build {
	b := build{Version: "devel", Revision: "unknown", Go: runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if v := strings.Trim(info.Main.Version, "()"); v != "" {
		b.Version = v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Revision = s.Value
		}
	}
	return b
}
