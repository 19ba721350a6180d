package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"dormouse/client"
)

// groupSettings are the flags that creating and updating a group have in common.
type groupSettings struct {
	pkg, unverifiable string
	memory            sizeFlag
	cpus              int
	env, labels       []string
	sleep             sleepFlags
}

func (s *groupSettings) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.pkg, "package", "", "the package that members run, as `NAME[@VERSION]`; the newest without a version")
	cmd.Flags().Var(&s.memory, "memory", "memory of each member (left to the members)")
	cmd.Flags().IntVar(&s.cpus, "cpus", 0, "`number` of virtual CPUs of each member (left to the members)")
	cmd.Flags().StringArrayVar(&s.env, "env", nil, "environment variable, as `KEY=VALUE`; may be repeated")
	cmd.Flags().StringArrayVar(&s.labels, "label", nil, "label of the group, as `KEY=VALUE`; may be repeated")
	cmd.Flags().StringVar(&s.unverifiable, "unverifiable", "", "what rollouts do with sleepers that can't be verified: `keep|move` (keep)")
	completeWith(cmd, "unverifiable", "keep", "move")
	s.sleep.flags(cmd)
}

func (s *groupSettings) check() error {
	if s.cpus < 0 {
		return usagef("--cpus %d: give a number above 0", s.cpus)
	}
	if !slices.Contains([]string{"", "keep", "move"}, s.unverifiable) {
		return usagef("--unverifiable %q: give keep or move", s.unverifiable)
	}
	return nil
}

func (a *app) groupCreate() *cobra.Command {
	var s groupSettings
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create a group with its first revision", Args: one("NAME"),
		Long: `Create a group. What it says holds for all its members, but for what a member
sets itself. Labels let installations find the emptiest group that matches.

` + sleepHelp,
		Example: `  cloudctl group create web --package workspace --env MODE=fast --label tier=free
  cloudctl installation create acme --owner alice --group web --wait`,
		RunE: a.run(func(ctx context.Context, args []string) error {
			if err := s.check(); err != nil {
				return err
			}
			in := client.CreateGroup{Name: args[0], Package: s.pkg, MemoryMiB: s.memory.mib, VCPUs: s.cpus, Unverifiable: s.unverifiable}
			var err error
			if _, in.Idle, in.Wake, err = s.sleep.whole(); err != nil {
				return err
			}
			if in.Env, err = pairs("env", s.env); err != nil {
				return err
			}
			if in.Labels, err = pairs("label", s.labels); err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			g, err := c.Groups.Create(ctx, in)
			if err != nil {
				return err
			}
			return a.printGroup(g)
		}),
	}
	s.flags(cmd)
	// Fails only for a flag that is not there.
	_ = cmd.MarkFlagRequired("package")
	return cmd
}

func (a *app) groupUpdate() *cobra.Command {
	var s groupSettings
	var version int64
	var unsetEnv, unsetLabels, leave []string
	cmd := &cobra.Command{
		Use: "update NAME", Short: "Change a group's labels, or make a new revision of its configuration", Args: one("NAME"),
		Long: `Change a group. What is not named stays as it is. A change of the configuration
makes a new revision, which no member has until a rollout brings it there.

` + sleepHelp,
		Example: `  cloudctl group update web --package workspace@1.1
  cloudctl rollout create web --wait`,
		ValidArgsFunction: a.complete(groupNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			in, err := s.patch(unsetEnv, unsetLabels, leave)
			if err != nil {
				return err
			}
			c, err := a.connect()
			if err != nil {
				return err
			}
			g, err := c.Groups.Update(ctx, args[0], in, client.IfMatch(version))
			if err != nil {
				return err
			}
			if g.LatestRevision != g.Revision {
				a.note("revision %d is the newest; bring the members there with: %s", g.LatestRevision, a.command("rollout create "+g.Name))
			}
			return a.printGroup(g)
		}),
	}
	s.flags(cmd)
	cmd.Flags().StringArrayVar(&unsetEnv, "unset-env", nil, "remove the environment variable `KEY`; may be repeated")
	cmd.Flags().StringArrayVar(&unsetLabels, "unset-label", nil, "remove the label `KEY`; may be repeated")
	cmd.Flags().StringSliceVar(&leave, "leave-to-members", nil, "set no longer what is named, `memory,cpus`")
	completeWith(cmd, "leave-to-members", "memory", "cpus")
	ifVersion(cmd, &version)
	return cmd
}

// patch is what the flags of an update ask for.
func (s *groupSettings) patch(unsetEnv, unsetLabels, leave []string) (client.UpdateGroup, error) {
	in := client.UpdateGroup{Package: given(s.pkg), MemoryMiB: given(s.memory.mib), VCPUs: given(s.cpus), Unverifiable: given(s.unverifiable)}
	if err := s.check(); err != nil {
		return in, err
	}
	for _, what := range leave {
		field, set := &in.MemoryMiB, s.memory.mib
		switch what {
		case "memory":
		case "cpus":
			field, set = &in.VCPUs, s.cpus
		default:
			return in, usagef("--leave-to-members %q: give memory, cpus or both", what)
		}
		if set != 0 {
			return in, usagef("--leave-to-members: %s is set too", what)
		}
		*field = new(int)
	}
	var err error
	if _, in.Idle, in.Wake, err = s.sleep.patch(); err != nil {
		return in, err
	}
	env, err := pairs("env", s.env)
	if err != nil {
		return in, err
	}
	labels, err := pairs("label", s.labels)
	if err != nil {
		return in, err
	}
	if in.Env, err = changes("env", env, unsetEnv); err != nil {
		return in, err
	}
	if in.Labels, err = changes("label", labels, unsetLabels); err != nil {
		return in, err
	}
	if in.Package == nil && in.MemoryMiB == nil && in.VCPUs == nil && in.Unverifiable == nil && in.Env == nil && in.Labels == nil && in.Idle == nil && in.Wake == nil {
		return in, &usageError{err: fmt.Errorf("there is nothing to change"),
			advice: "give at least one of --package, --memory, --cpus, --env, --label, --unverifiable, --idle-after or another of the policy, --leave-to-members or --unset-…"}
	}
	return in, nil
}
