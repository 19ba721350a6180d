package source

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCompare(t *testing.T) {
	t.Parallel()
	data := strings.Repeat("0123456789", 100_000)
	tree := newTree(strings.NewReader(data))
	tree.put(&Entry{Path: "a", Kind: Directory, Mode: 0o755})
	tree.put(&Entry{Path: "a/f", Kind: File, Mode: 0o644, Size: int64(len(data))})
	tree.put(&Entry{Path: "a/l", Kind: Symlink, Mode: 0o777, Target: "f"})
	tree.put(&Entry{Path: "e", Kind: File, Mode: 0o600})
	// run compares with what change makes of each entry and content.
	run := func(change func(*Entry, []byte) []byte) error {
		c := tree.Compare()
		err := tree.Walk(func(e Entry) error {
			var content []byte
			if e.Kind == File {
				content, _ = io.ReadAll(tree.Content(e))
			}
			if content = change(&e, content); e.Path == "dropped" {
				return nil
			}
			return c.Visit(e, bytes.NewReader(content))
		})
		return errors.Join(err, c.End())
	}
	on := func(path string, f func(*Entry, []byte) []byte) func(*Entry, []byte) []byte {
		return func(e *Entry, content []byte) []byte {
			if e.Path == path {
				return f(e, content)
			}
			return content
		}
	}
	require.NoError(t, run(func(_ *Entry, c []byte) []byte { return c }))
	for says, change := range map[string]func(*Entry, []byte) []byte{
		"/a/f has another content":                on("a/f", func(_ *Entry, c []byte) []byte { c[len(c)-1]++; return c }),
		"reading /a/f back":                       on("a/f", func(_ *Entry, c []byte) []byte { return c[:len(c)-1] }),
		"/a/f has 5 bytes":                        on("a/f", func(e *Entry, c []byte) []byte { e.Size = 5; return c }),
		"/a/l points to \"g\"":                    on("a/l", func(e *Entry, c []byte) []byte { e.Target = "g"; return c }),
		"/e has the mode 644 and should have 600": on("e", func(e *Entry, c []byte) []byte { e.Mode = 0o644; return c }),
		"/a is a file and should be a directory":  on("a", func(e *Entry, c []byte) []byte { e.Kind = File; return c }),
		"/e is there where /a/l should be":        on("a/l", func(e *Entry, c []byte) []byte { e.Path = "dropped"; return c }),
		"/e is missing":                           on("e", func(e *Entry, c []byte) []byte { e.Path = "dropped"; return c }),
	} {
		require.ErrorContains(t, run(change), says)
	}
	c := tree.Compare()
	require.NoError(t, tree.Walk(func(e Entry) error { return c.Visit(e, tree.Content(e)) }))
	require.ErrorContains(t, c.Visit(Entry{Path: "z"}, nil), "/z should not be there")
}
