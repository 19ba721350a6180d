package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"dormouse/internal/fleet"
	"dormouse/internal/provider/sim"
	"dormouse/internal/provider/sim/remote"
)

// simDir is the simulator's directory in a data directory.
const simDir = "sim"

// simLedger is how many calls a simulator that is served keeps.
const simLedger = 1 << 16

func simulatorCommand() *cobra.Command {
	var c config
	var listen string
	cmd := &cobra.Command{
		Use:   "simulator",
		Short: "Run a simulator that several control planes share",
		Long: `Run the simulator of machines by itself, so that several control planes share it
and it outlives them all: start each with

  provisioner server --simulator URL

State lies in the data directory, where a control plane that has the simulator to
itself keeps it too. "cloudctl help simulator" lists what its clusters can be told.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.checkDataDir(); err != nil {
				return err
			}
			return serveSimulator(cmd.Context(), c, listen)
		},
	}
	cmd.Flags().StringVar(&c.dataDir, "data-dir", defaultDataDir(), "directory for everything that is kept on this machine")
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8055", "loopback address and port, or unix:PATH")
	cmd.Flags().StringVar(&c.logLevel, "log-level", "info", "debug, info, warning or error")
	cmd.Flags().StringVar(&c.logFormat, "log-format", "text", "text or json")
	cmd.AddCommand(ledgerCommand())
	return cmd
}

func serveSimulator(ctx context.Context, c config, listen string) (err error) {
	log, err := newLogger(c)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	l, err := remote.Listen(listen)
	if err != nil {
		return err
	}
	s, err := remote.NewServer(sim.Options{Dir: filepath.Join(c.dataDir, simDir), Log: log, LedgerSize: simLedger})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	log.WithFields(logrus.Fields{"part": "simulator", "address": remote.URL(l), "data_dir": c.dataDir}).Info("listening")
	return errors.Join(s.Serve(ctx, l), s.Close())
}

func ledgerCommand() *cobra.Command {
	var url, output string
	cmd := &cobra.Command{
		Use:   "ledger",
		Short: "Show what a simulator has counted: calls, effects, faults, duplicates",
		Long: `Show what a simulator has counted.

Calls, effects, faults and errors are counted from the start of its process, the
rest over all its life. A duplicate is an instance that was created a second time
under the same ID, or one that went on while another one of the same installation
and role was not off.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fleet.Errorf(fleet.KindInvalid, "--output %q is neither text nor json", output)
			}
			if url == "" {
				return fleet.Errorf(fleet.KindInvalid, "name the simulator with --simulator http://127.0.0.1:PORT or unix:PATH")
			}
			c, err := remote.New(remote.Options{URL: url})
			if err != nil {
				return err
			}
			totals, err := c.Totals(cmd.Context())
			if err = errors.Join(err, c.Close()); err != nil {
				return err
			}
			if output == "json" {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(totals)
			}
			return writeTotals(cmd.OutOrStdout(), totals)
		},
	}
	cmd.Flags().StringVar(&url, "simulator", "", "URL of the simulator: http://127.0.0.1:PORT or unix:PATH")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// writeTotals writes a line for each figure that is not 0, and the duplicates in any case.
func writeTotals(out io.Writer, t sim.Totals) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	line := func(name string, n uint64) {
		if n > 0 {
			fmt.Fprintf(w, "%s\t%d\n", name, n)
		}
	}
	for _, call := range slices.Sorted(maps.Keys(t.ByCall)) {
		line("calls."+string(call), t.ByCall[call].Calls)
	}
	lines(line, "effects.", t.Effects)
	lines(line, "faults.", t.Faults)
	lines(line, "errors.", t.Errors)
	line("created.instances", t.Instances)
	line("created.clones", t.Clones)
	line("created.volumes", t.Volumes)
	line("deleted.instances", t.InstancesDeleted)
	line("deleted.volumes", t.VolumesDeleted)
	line("present.instances", uint64(t.Present.Instances))
	line("present.on", uint64(t.Present.On))
	line("present.clones", uint64(t.Present.Clones))
	line("present.volumes", uint64(t.Present.Volumes))
	fmt.Fprintf(w, "duplicates.recreated\t%d\nduplicates.on_at_once\t%d\n", t.Recreated, t.Doubles)
	return w.Flush()
}

func lines[K ~string](line func(string, uint64), prefix string, counts map[K]uint64) {
	for _, key := range slices.Sorted(maps.Keys(counts)) {
		line(prefix+string(key), counts[key])
	}
}
