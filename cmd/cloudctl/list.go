package main

import (
	"iter"

	"github.com/spf13/cobra"
)

// maxPage is how many are asked for at once.
const maxPage = 100

// limits are the flags of a list.
type limits struct {
	limit int
	all   bool
}

func (l *limits) flags(cmd *cobra.Command, usage string) {
	cmd.Flags().IntVar(&l.limit, "limit", 0, usage)
	cmd.Flags().BoolVarP(&l.all, "all", "A", false, "list all")
	cmd.MarkFlagsMutuallyExclusive("limit", "all")
}

// of returns how many to list; 0 is all.
func (l *limits) of(standard int) (int, error) {
	switch {
	case l.limit < 0:
		return 0, usagef("--limit %d: give a number above 0, or --all", l.limit)
	case l.all:
		return 0, nil
	case l.limit == 0:
		return standard, nil
	}
	return l.limit, nil
}

// pageSize asks for no more at once than is to be shown, and one that tells whether there are more.
func pageSize(limit int) int {
	if limit == 0 || limit >= maxPage {
		return maxPage
	}
	return limit + 1
}

// collect takes up to limit items (0 is all), and tells whether there are more.
// The list is never nil: an empty one is written as [].
func collect[T any](items iter.Seq2[T, error], limit int) (list []T, more bool, err error) {
	list = []T{}
	for item, err := range items {
		if err != nil {
			return nil, false, err
		}
		if limit > 0 && len(list) == limit {
			return list, true, nil
		}
		list = append(list, item)
	}
	return list, false, nil
}
