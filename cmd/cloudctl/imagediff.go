package main

import (
	"fmt"

	"dormouse/client"
)

// difference is one file in which two images differ.
type difference struct {
	// Change is - where only the first has it, + where only the second has, ~ where they differ.
	Change string `json:"change"`
	Path   string `json:"path"`
	// From and To are the file in each image; nil where it has none.
	From *client.ImageFile `json:"from,omitempty"`
	To   *client.ImageFile `json:"to,omitempty"`
}

// differ compares two lists, each in order. The result is never nil.
func differ(from, to []client.ImageFile) []difference {
	all := []difference{}
	for len(from) > 0 || len(to) > 0 {
		switch {
		case len(to) == 0 || len(from) > 0 && from[0].Path < to[0].Path:
			all = append(all, difference{Change: "-", Path: from[0].Path, From: &from[0]})
			from = from[1:]
		case len(from) == 0 || to[0].Path < from[0].Path:
			all = append(all, difference{Change: "+", Path: to[0].Path, To: &to[0]})
			to = to[1:]
		default:
			if from[0] != to[0] {
				all = append(all, difference{Change: "~", Path: to[0].Path, From: &from[0], To: &to[0]})
			}
			from, to = from[1:], to[1:]
		}
	}
	return all
}

// how says in what two files differ, in brackets.
func (d difference) how() string {
	if d.From == nil || d.To == nil {
		return ""
	}
	a, b := d.From, d.To
	switch {
	case a.Kind != b.Kind:
		return fmt.Sprintf(" (%s, then %s)", a.Kind, b.Kind)
	case a.Target != b.Target:
		return fmt.Sprintf(" (to %s, then %s)", clean(a.Target), clean(b.Target))
	case a.SizeBytes != b.SizeBytes:
		return fmt.Sprintf(" (%s, then %s)", showBytes(a.SizeBytes), showBytes(b.SizeBytes))
	case a.SHA256 != b.SHA256:
		return " (content)"
	}
	return fmt.Sprintf(" (mode %s, then %s)", modeOf(*a), modeOf(*b))
}
