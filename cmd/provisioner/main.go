// Command provisioner is the control plane of Dormouse in one binary: the REST
// API, the supervisors that work operations off, the image builder, the host
// agent that runs virtual machines, and the gateway. Everything is joined
// here; no other package knows more than its own room.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"dormouse/internal/fleet"
)

// version is set by the Makefile (-ldflags -X main.version=…).
var version = "development"

// gcPercent lets the heap, which is a few dozen MiB, grow to five times what is
// live before it is collected: worth about a tenth of the rate of creates and
// updates (bench). GOGC in the environment takes precedence.
const gcPercent = 400

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if err := root().ExecuteContext(context.Background()); err != nil {
		if !errors.Is(err, errSilent) {
			fmt.Fprintf(os.Stderr, "provisioner: %v\n", err)
		}
		if fleet.KindOf(err) == fleet.KindInvalid {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

// errSilent ends a command whose output has said everything.
var errSilent = errors.New("failed")

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "provisioner",
		Short:         "Gives every tenant a virtual machine of their own, and lets idle ones sleep",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.AddCommand(serverCommand(), migrateCommand(), adoptKeyCommand(), doctorCommand(), simulatorCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version) },
	})
	cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return fromEnvironment(cmd.Flags()) }
	return cmd
}

// envPrefix begins the environment variable of every flag: --data-dir is DORMOUSE_DATA_DIR.
const envPrefix = "DORMOUSE_"

// fromEnvironment sets the flags that the command line left out.
func fromEnvironment(flags *pflag.FlagSet) error {
	var failed error
	flags.VisitAll(func(f *pflag.Flag) {
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := os.LookupEnv(name)
		if !ok || f.Changed || value == "" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil && failed == nil {
			failed = fleet.Errorf(fleet.KindInvalid, "reading %s from the environment: %w", name, err)
		}
	})
	return failed
}
