package kvm

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestConsoleTellsThatItGrewMoreAndMoreRarely(t *testing.T) {
	t.Parallel()
	c := newConsoleLog(t.TempDir(), 4096)
	now := time.Unix(0, 0)
	require.False(t, c.grew(now), "there is none")
	f, err := c.open("1")
	require.NoError(t, err)
	require.True(t, c.grew(now))
	require.False(t, c.grew(now.Add(time.Minute)), "nothing new")
	told := 0
	for range 24 * 3600 {
		now = now.Add(time.Second)
		_, err = f.WriteString("x")
		require.NoError(t, err)
		require.NoError(t, c.bound())
		if c.grew(now) {
			told++
		}
	}
	require.Equal(t, 11+22, told, "after 2 s, 4 s and so on up to an hour, then every hour")
	require.NoError(t, f.Close())
	f, err = c.open("2")
	require.NoError(t, err)
	require.True(t, c.grew(now), "another boot")
	require.NoError(t, f.Close())
}

func TestConsoleIsBounded(t *testing.T) {
	t.Parallel()
	c := newConsoleLog(t.TempDir(), 4096)
	f, err := c.open("1 at noon")
	require.NoError(t, err)
	for n := range 2000 {
		fmt.Fprintf(f, "line %d\n", n)
		if n%100 == 0 {
			require.NoError(t, c.bound())
		}
	}
	require.NoError(t, c.bound())
	body, _, err := c.all()
	require.NoError(t, err)
	require.LessOrEqual(t, len(body), 4096+100*len("line 1999\n"))
	require.Greater(t, len(body), 2000)
	require.True(t, strings.HasSuffix(string(body), "line 1998\nline 1999\n"))

	// One writer that nobody bounded for long: still only the tail is kept.
	_, err = f.WriteString(strings.Repeat("x", 100_000) + "\nend\n")
	require.NoError(t, err)
	require.NoError(t, c.bound())
	for _, path := range []string{c.live, c.old} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.LessOrEqual(t, info.Size(), int64(2048))
	}
	lines, err := c.lastBoot()
	require.NoError(t, err)
	require.Equal(t, "end", lines[len(lines)-1])

	// Opened anew, as after a restart.
	again, _, err := newConsoleLog(strings.TrimSuffix(c.live, "/console.log"), 4096).all()
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(string(again), "x\nend\n"))
	require.NoError(t, f.Close())
}

func TestConsoleFollowsOverTheCut(t *testing.T) {
	t.Parallel()
	c := newConsoleLog(t.TempDir(), 1000)
	f, err := c.open("1 at noon")
	require.NoError(t, err)
	fmt.Fprintln(f, "before")
	r, err := c.reader(t.Context(), 1, true)
	require.NoError(t, err)
	lines := bufio.NewScanner(r)
	require.True(t, lines.Scan())
	require.Equal(t, "before", lines.Text())
	for n := range 40 {
		fmt.Fprintf(f, "this is line number %d of many\n", n)
		require.NoError(t, c.bound())
		require.True(t, lines.Scan())
		require.Equal(t, fmt.Sprintf("this is line number %d of many", n), lines.Text())
	}
	c.close()
	require.False(t, lines.Scan(), "the instance is gone")
	require.NoError(t, lines.Err())
	require.NoError(t, r.Close())
}

func TestConsoleReaderEnds(t *testing.T) {
	t.Parallel()
	c := newConsoleLog(t.TempDir(), 1000)
	for _, end := range []string{"context", "close"} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		r, err := c.reader(ctx, 0, true)
		require.NoError(t, err)
		if end == "close" {
			require.NoError(t, r.Close())
		}
		_, err = r.Read(make([]byte, 10))
		require.ErrorIs(t, err, io.EOF)
		cancel()
	}
}

func TestConsoleLastBoot(t *testing.T) {
	t.Parallel()
	c := newConsoleLog(t.TempDir(), 1<<20)
	for n, said := range []string{"old words\n", "new\r\n\r\nwords"} {
		f, err := c.open(fmt.Sprintf("%d at noon", n+1))
		require.NoError(t, err)
		_, err = f.WriteString(said)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	lines, err := c.lastBoot()
	require.NoError(t, err)
	require.Equal(t, []string{"new", "words"}, lines)
}

func TestLastLines(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		body, want string
		n          int
	}{
		{"a\nb\nc\n", "c\n", 1}, {"a\nb\nc", "c", 1}, {"a\nb\nc\n", "b\nc\n", 2},
		{"a\nb\nc\n", "a\nb\nc\n", 3}, {"a\nb\nc\n", "a\nb\nc\n", 9}, {"", "", 1}, {"\n", "\n", 1},
	} {
		require.Equal(t, c.want, string(lastLines([]byte(c.body), c.n)), "%q %d", c.body, c.n)
	}
}
