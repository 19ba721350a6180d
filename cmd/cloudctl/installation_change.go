package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"dormouse/client"
)

const valuesHelp = `Sizes are whole numbers with a unit: 128MiB, 1GiB, 512M, 1G (all powers of 1024).

--env is shown by get and stored as it is. Secrets go into --secret: they are
encrypted and never returned. To keep them out of the list of processes and the
shell's history, take them from a file (KEY=@FILE, as it is, a final line feed
included) or from standard input (KEY=-, asked for without echo on a terminal).
A value that begins with @ is written KEY=@@VALUE.`

// settings are the flags that create and update have in common.
type settings struct {
	pkg                  string
	memory, disk         sizeFlag
	cpus                 int
	env, secrets, labels []string
	sleep                sleepFlags
}

func (s *settings) flags(cmd *cobra.Command, memory, disk, cpus string) {
	cmd.Flags().StringVar(&s.pkg, "package", "", "the package to run, as `NAME[@VERSION]`; the newest without a version")
	cmd.Flags().Var(&s.memory, "memory", "memory"+memory)
	cmd.Flags().Var(&s.disk, "disk", "size of the volume"+disk)
	cmd.Flags().IntVar(&s.cpus, "cpus", 0, "`number` of virtual CPUs"+cpus)
	cmd.Flags().StringArrayVar(&s.env, "env", nil, "environment variable, as `KEY=VALUE`; may be repeated")
	cmd.Flags().StringArrayVar(&s.secrets, "secret", nil, "secret environment variable, as `KEY=VALUE`, KEY=@FILE or KEY=-; may be repeated")
	cmd.Flags().StringArrayVar(&s.labels, "label", nil, "label, as `KEY=VALUE`; may be repeated")
	s.sleep.flags(cmd)
	s.sleep.dnsFlag(cmd)
}

// maps reads the flags that hold pairs. Nothing is read from standard input
// before the rest is known to be right.
func (s *settings) maps(a *app) (env, secrets, labels map[string]string, err error) {
	if s.cpus < 0 {
		return nil, nil, nil, usagef("--cpus %d: give a number above 0", s.cpus)
	}
	if env, err = pairs("env", s.env); err != nil {
		return nil, nil, nil, err
	}
	if labels, err = pairs("label", s.labels); err != nil {
		return nil, nil, nil, err
	}
	secrets, err = a.secrets(s.secrets)
	for key := range secrets {
		if _, both := env[key]; both && err == nil {
			err = usagef("--env and --secret: %s is in both", key)
		}
	}
	return env, secrets, labels, err
}

func (a *app) installationCreate() *cobra.Command {
	var w waiting
	var s settings
	var g membership
	var owner, cluster, ifFull string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create an installation: a virtual machine for a tenant", Args: one("NAME"),
		Long: `Create an installation. NAME is a DNS label: the tenant's users reach it at
http://NAME.localhost:8065 or wherever the server's gateway is.

` + valuesHelp + "\n\n" + sleepHelp,
		Example: `  cloudctl installation create acme --owner alice --package workspace --wait
  cloudctl installation create shop --owner bob --package shop@2.1 --cluster local \
      --memory 256MiB --disk 2GiB --env LOG=debug --secret DB_PASSWORD=@password.txt
  cloudctl installation create shop --owner bob --package shop --dns-name shop.example \
      --idle-after 15m --schedule '0 22 * * *;Europe/Berlin;hibernate' --no-wake-path /healthz
  cloudctl installation create shop --owner bob --group shops
  cloudctl installation create shop --owner bob --package shop --if-full refuse || [ $? -eq 7 ]`,
		RunE: a.run(func(ctx context.Context, args []string) error {
			if ifFull != "" && ifFull != "wait" && ifFull != "refuse" {
				return usagef("--if-full %q: give wait or refuse", ifFull)
			}
			in := client.CreateInstallation{Name: args[0], Owner: owner, Package: s.pkg, Cluster: cluster,
				MemoryMiB: s.memory.mib, DiskMiB: s.disk.mib, VCPUs: s.cpus, WhenFull: ifFull}
			var err error
			if in.DNSNames, in.Idle, in.Wake, err = s.sleep.whole(); err != nil {
				return err
			}
			if in.Group, in.GroupMatch, err = g.join(); err != nil {
				return err
			}
			if s.pkg == "" && in.Group == "" && in.GroupMatch == nil {
				return usagef(`required flag "package" not set: give it, or --group or --group-match to leave it to a group`)
			}
			if in.Env, in.Secrets, in.Labels, err = s.maps(a); err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			accepted, err := c.Installations.Create(ctx, in)
			if err != nil {
				return err
			}
			return a.settleInstallation(ctx, c, accepted, w)
		}),
	}
	cmd.Flags().StringVar(&owner, "owner", "", "the `OWNER` whose it is (required)")
	cmd.Flags().StringVar(&cluster, "cluster", "", "the cluster, by `NAME`, where it runs (not needed where there is one)")
	s.flags(cmd, " (its group's, or 128MiB)", " (1GiB)", " (its group's, or 1)")
	cmd.Flags().StringVar(&ifFull, "if-full", "", "what to do without room for it: `wait|refuse` (wait)")
	g.flags(cmd)
	// Fails only for a flag that is not there.
	_ = cmd.MarkFlagRequired("owner")
	completeWith(cmd, "if-full", "wait", "refuse")
	w.flags(cmd)
	return cmd
}

func (a *app) installationUpdate() *cobra.Command {
	var w waiting
	var s settings
	var g leaving
	var version int64
	var unsetEnv, unsetSecrets, unsetLabels []string
	cmd := &cobra.Command{
		Use: "update NAME", Short: "Change the package, the size or the configuration of an installation", Args: one("NAME"),
		Long: `Change an installation. What is not named stays as it is. The new instance
serves once it is healthy; if it does not become so, the old one comes back and
the update has failed. Labels, DNS names, idle policy and wake rules change
without a restart.

` + valuesHelp + "\n\n" + sleepHelp,
		Example: `  cloudctl installation update acme --package workspace@1.1 --wait
  cloudctl installation update acme --memory 256MiB --env LOG=info --unset-env DEBUG
  cloudctl installation update acme --from-group package    # what its group says, again
  cloudctl installation update acme --idle-after 30m --schedule ''    # and no schedule any more
  cloudctl installation update acme --leave-group --keep-configuration`,
		ValidArgsFunction: a.complete(installationNames),
	}
	cmd.RunE = a.run(func(ctx context.Context, args []string) error {
		env, secrets, labels, err := s.maps(a)
		if err != nil {
			return err
		}
		var in client.UpdateInstallation
		if in.Env, err = changes("env", env, unsetEnv); err != nil {
			return err
		}
		if in.Secrets, err = changes("secret", secrets, unsetSecrets); err != nil {
			return err
		}
		if in.Labels, err = changes("label", labels, unsetLabels); err != nil {
			return err
		}
		if in.DNSNames, in.Idle, in.Wake, err = s.sleep.patch(); err != nil {
			return err
		}
		if err := g.patch(&in); err != nil {
			return err
		}
		in.Package = given(s.pkg)
		in.MemoryMiB, in.DiskMiB, in.VCPUs = given(s.memory.mib), given(s.disk.mib), given(s.cpus)
		if in.Package == nil && in.MemoryMiB == nil && in.DiskMiB == nil && in.VCPUs == nil &&
			in.Env == nil && in.Secrets == nil && in.Labels == nil && in.Group == nil && in.GroupMatch == nil && in.FromGroup == nil &&
			in.DNSNames == nil && in.Idle == nil && in.Wake == nil {
			return &usageError{err: fmt.Errorf("there is nothing to change"),
				advice: "give at least one of --package, --memory, --disk, --cpus, --env, --secret, --label, --unset-…, --dns-name, --idle-after or another of its policy, --group or --from-group; to start it anew: cloudctl installation restart"}
		}
		c, err := a.connect()
		if err != nil {
			return err
		}
		accepted, err := c.Installations.Update(ctx, args[0], in, client.IfMatch(version))
		if err != nil {
			return err
		}
		return a.settleInstallation(ctx, c, accepted, w)
	})
	s.flags(cmd, "", " (it can't shrink)", "")
	g.flags(cmd)
	cmd.Flags().StringArrayVar(&unsetEnv, "unset-env", nil, "remove the environment variable `KEY`; may be repeated")
	cmd.Flags().StringArrayVar(&unsetSecrets, "unset-secret", nil, "remove the secret `KEY`; may be repeated")
	cmd.Flags().StringArrayVar(&unsetLabels, "unset-label", nil, "remove the label `KEY`; may be repeated")
	w.flags(cmd)
	ifVersion(cmd, &version)
	return cmd
}

// given is a pointer to a value that was given; nil for none.
func given[T comparable](value T) *T {
	var none T
	if value == none {
		return nil
	}
	return &value
}
