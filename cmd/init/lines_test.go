package main

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/guest"
)

func feedAll(l *lineReader, parts ...string) []string {
	var got []string
	for _, p := range parts {
		l.feed([]byte(p), func(b []byte) {
			if b == nil {
				got = append(got, "TOO LONG")
				return
			}
			got = append(got, string(b))
		})
	}
	return got
}

func TestLineReader(t *testing.T) {
	t.Parallel()
	var l lineReader
	require.Equal(t, []string{"one", "two", "three"}, feedAll(&l, "o", "ne\ntwo\n\nth", "ree", "\nrest"))
	l.reset()
	require.Equal(t, []string{"four"}, feedAll(&l, "four\n"))
}

func TestLineReaderTooLong(t *testing.T) {
	t.Parallel()
	var l lineReader
	whole := string(bytes.Repeat([]byte("x"), guest.MaxLine))
	require.Equal(t, []string{whole, "TOO LONG", "next"}, feedAll(&l, whole, "\n", whole, "x", "xx", "\nnext\n"))
}

func TestOutboxKeepsTheLatest(t *testing.T) {
	t.Parallel()
	var o outbox
	o.push([]byte("first\n"))
	taken := 3
	o.flush(func(b []byte) int { n := taken; taken = 0; return n })
	for i := range outboxLines + 5 {
		o.push(fmt.Appendf(nil, "%d\n", i))
	}
	var out bytes.Buffer
	o.flush(func(b []byte) int { n, _ := out.Write(b); return n })
	require.True(t, o.empty())
	require.Contains(t, out.String(), "st\n6\n7\n", "what was begun is finished, then the oldest are missing")
	require.Contains(t, out.String(), fmt.Sprintf("\n%d\n", outboxLines+4))
	require.Equal(t, outboxLines, bytes.Count(out.Bytes(), []byte("\n")))
}
