package api

import (
	"slices"

	"dormouse/client"
	"dormouse/internal/fleet"
)

// checkJoin validates the choice of a group: by its name, or by labels.
func checkJoin(name string, match map[string]string, m members) error {
	switch {
	case m.present["group"] && m.present["group_match"]:
		return fleet.InvalidField("group_match", "give a group or a group_match, not both")
	case m.present["group"] && !m.null["group"] && !isDNSLabel(name):
		return fleet.InvalidField("group", "group %s is not a group's name", printable(name))
	case m.present["group_match"] && len(match) == 0:
		return fleet.InvalidField("group_match", "group_match names no label: every group would match")
	case len(match) > maxLabels:
		return fleet.InvalidField("group_match", "there are %d labels, at most %d are allowed", len(match), maxLabels)
	}
	for key, value := range match {
		if err := checkLabel("group_match", key, value); err != nil {
			return err
		}
	}
	return nil
}

// checkMembership validates what a patch says about the group.
func checkMembership(in client.UpdateInstallation, m members) error {
	for _, field := range []string{"group_match", "keep_configuration", "from_group"} {
		if m.null[field] {
			return fleet.InvalidField(field, "%s must not be null: leave it out", field)
		}
	}
	for key := range in.GroupMatch {
		if m.null["group_match."+key] {
			return fleet.InvalidField("group_match."+printable(key), "group_match.%s must not be null: it is no patch", printable(key))
		}
	}
	name := ""
	if in.Group != nil {
		name = string(*in.Group)
	}
	if err := checkJoin(name, in.GroupMatch, m); err != nil {
		return err
	}
	if in.KeepConfiguration && !m.null["group"] {
		return fleet.InvalidField("keep_configuration", "keep_configuration is for leaving a group: give it with \"group\": null")
	}
	return checkFromGroup(in.FromGroup, m)
}

func checkFromGroup(fields []string, m members) error {
	known := []string{"package", "memory_mib", "vcpus"}
	if m.present["from_group"] && len(fields) == 0 {
		return fleet.InvalidField("from_group", "from_group is empty: name package, memory_mib or vcpus")
	}
	for i, field := range fields {
		switch {
		case !slices.Contains(known, field):
			return fleet.InvalidField("from_group", "from_group can hold package, memory_mib and vcpus, not %s", printable(field))
		case slices.Contains(fields[:i], field):
			return fleet.InvalidField("from_group", "from_group names %s twice", field)
		case m.present[field]:
			return fleet.InvalidField("from_group", "%s is given and left to the group: do one of the two", field)
		case m.null["group"]:
			return fleet.InvalidField("from_group", "an installation that leaves its group can take nothing from it")
		}
	}
	return nil
}

// membership is the change of group that a patch asks for; nil where it asks for none.
func membership(in client.UpdateInstallation, m members) *fleet.GroupMembership {
	if !m.present["group"] && !m.present["group_match"] {
		return nil
	}
	out := &fleet.GroupMembership{Match: in.GroupMatch, KeepConfiguration: in.KeepConfiguration}
	if in.Group != nil {
		out.Join = string(*in.Group)
	}
	return out
}
