package main

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"dormouse/client"
)

func (a *app) installationHibernate() *cobra.Command {
	cold := false
	cmd := a.installationRequest("hibernate", "Put it to sleep: no virtual machine, its data kept",
		func(s *client.Installations, ctx context.Context, name string, options ...client.RequestOption) (client.Installation, error) {
			if cold {
				return s.HibernateCold(ctx, name, options...)
			}
			return s.Hibernate(ctx, name, options...)
		})
	cmd.Long = `Put an installation to sleep. Its memory is kept where the cluster can do that,
and its program goes on where it was. It stays awake where somebody is there.`
	cmd.Flags().BoolVar(&cold, "cold", false, "stop the program cleanly and keep the disk only: the next wake is a boot")
	return cmd
}

func (a *app) installationOpen() *cobra.Command {
	var only bool
	cmd := &cobra.Command{
		Use: "open NAME", Short: "Open an installation in the browser", Args: one("NAME"),
		Long: `Open an installation's address in the browser, or print it, where there is none
or standard output is no terminal. One that sleeps wakes when it is visited.`,
		Example:           "  cloudctl installation open acme\n  curl \"$(cloudctl installation open acme --print)\"",
		ValidArgsFunction: a.complete(installationNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			in, err := c.Installations.Get(ctx, args[0])
			if err != nil {
				return err
			}
			if !only && a.stdoutTTY {
				if err := a.openURL(ctx, in.URL); err == nil {
					return nil
				}
				a.note("no browser could be started; here is the address:")
			}
			return a.print(map[string]string{"url": in.URL}, func() string { return clean(in.URL) + "\n" })
		}),
	}
	cmd.Flags().BoolVar(&only, "print", false, "print the address only")
	return cmd
}

// openURL starts the desktop's own program for URLs.
func openURL(ctx context.Context, url string) error {
	name, args := "xdg-open", []string{url}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", url}
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := exec.CommandContext(ctx, name, args...).Run(); err != nil {
		return fmt.Errorf("starting %s: %w", name, err)
	}
	return nil
}

func (a *app) installationTraffic() *cobra.Command {
	return &cobra.Command{
		Use: "traffic NAME", Short: "Show an installation's visitors, and what keeps it awake", Args: one("NAME"),
		Long:              "Show what the gateway has seen of an installation's visitors, up to a minute ago, and what keeps it awake.",
		ValidArgsFunction: a.complete(installationNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			c, err := a.connect()
			if err != nil {
				return err
			}
			t, err := c.Installations.Traffic(ctx, args[0])
			if err != nil {
				return err
			}
			return a.print(t, func() string { return a.trafficSheet(t) })
		}),
	}
}

func (a *app) trafficSheet(t client.Traffic) string {
	var s sheet
	s.add("Name", t.Name)
	s.add("State", t.State)
	s.add("Requests", fmt.Sprint(t.Requests))
	open := fmt.Sprint(t.Open)
	if !t.ToldAt.IsZero() {
		open += ", " + a.ago(t.ToldAt)
	}
	s.add("Open", open)
	s.add("Bytes", showBytes(t.BytesIn)+" in, "+showBytes(t.BytesOut)+" out")
	last := "never"
	if !t.LastActiveAt.IsZero() {
		last = a.ago(t.LastActiveAt)
	}
	s.add("Last visit", last)
	s.add("Wakes", fmt.Sprint(t.Wakes))
	if !t.AsleepSince.IsZero() {
		s.add("Asleep", "for "+a.age(t.AsleepSince))
	}
	if !t.AwakeSince.IsZero() {
		s.add("Awake", "for "+a.age(t.AwakeSince))
		keeps := t.KeepsAwake
		if len(keeps) == 0 {
			keeps = []string{"nothing: it is put to sleep within a minute"}
		}
		s.list("Kept awake", keeps)
	}
	if t.SleepsAt.After(a.now()) {
		s.add("Sleeps", "in "+span(t.SleepsAt.Sub(a.now()))+", if nobody comes")
	}
	if n := t.NextSchedule; n != nil {
		s.add("Next", n.Do+" at "+n.At.Format(time.RFC3339))
	}
	return s.String()
}

// trafficTable shows rates where before holds the same installations' counts, so long ago.
func (a *app) trafficTable(list []client.Traffic, before map[string]client.Traffic, ago time.Duration) table {
	t := table{{"NAME", "STATE", "OPEN", "REQ/S", "IN/S", "OUT/S", "REQUESTS", "LAST VISIT", "KEPT AWAKE"}}
	for _, x := range list {
		rates := []string{"", "", ""}
		if b, ok := before[x.InstallationID]; ok && ago > 0 {
			per := func(now, then int64) float64 { return float64(max(0, now-then)) / ago.Seconds() }
			rates = []string{fmt.Sprintf("%.1f", per(x.Requests, b.Requests)), showBytes(int64(per(x.BytesIn, b.BytesIn))), showBytes(int64(per(x.BytesOut, b.BytesOut)))}
		}
		t = append(t, []string{x.Name, x.State, fmt.Sprint(x.Open), rates[0], rates[1], rates[2], fmt.Sprint(x.Requests), a.ago(x.LastActiveAt), strings.Join(x.KeepsAwake, "; ")})
	}
	return t
}
