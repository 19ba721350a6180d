package main

import (
	"slices"

	"github.com/spf13/cobra"

	"dormouse/client"
)

// membership are the flags that choose a group to join.
type membership struct {
	group string
	match []string
}

func (m *membership) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&m.group, "group", "", "join the group `NAME`, and leave to it what is not set here")
	cmd.Flags().StringArrayVar(&m.match, "group-match", nil, "join the emptiest group with this label, as `KEY=VALUE`; may be repeated, and all must be there")
	cmd.MarkFlagsMutuallyExclusive("group", "group-match")
}

func (m *membership) join() (group string, match map[string]string, err error) {
	match, err = pairs("group-match", m.match)
	return m.group, match, err
}

// leaving are the flags that change an installation's group.
type leaving struct {
	membership
	leave, keep bool
	fromGroup   []string
}

func (l *leaving) flags(cmd *cobra.Command) {
	l.membership.flags(cmd)
	cmd.Flags().BoolVar(&l.leave, "leave-group", false, "leave the group")
	cmd.Flags().BoolVar(&l.keep, "keep-configuration", false, "on leaving, what the group had set becomes its own")
	cmd.Flags().StringSliceVar(&l.fromGroup, "from-group", nil, "take the group's value again for what is named, `package,memory,cpus`")
	completeWith(cmd, "from-group", "package", "memory", "cpus")
	cmd.MarkFlagsMutuallyExclusive("group", "group-match", "leave-group")
}

// patch adds to a patch what the flags ask for.
func (l *leaving) patch(in *client.UpdateInstallation) error {
	group, match, err := l.join()
	if err != nil {
		return err
	}
	if l.keep && !l.leave {
		return usagef("--keep-configuration is for leaving a group: give it with --leave-group")
	}
	if in.GroupMatch = match; group != "" || l.leave {
		name := client.GroupName(group)
		in.Group = &name
	}
	in.KeepConfiguration = l.keep
	fields := map[string]string{"package": "package", "memory": "memory_mib", "cpus": "vcpus"}
	for _, flag := range l.fromGroup {
		field, ok := fields[flag]
		if !ok {
			return usagef("--from-group %q: give package, memory or cpus", flag)
		}
		if !slices.Contains(in.FromGroup, field) {
			in.FromGroup = append(in.FromGroup, field)
		}
	}
	return nil
}
