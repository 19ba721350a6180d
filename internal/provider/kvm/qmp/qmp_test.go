package qmp_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"dormouse/internal/provider/kvm/qmp"
)

// serve answers as QEMU does: a greeting, then answer(command) for each command.
func serve(t *testing.T, answer func(name string, id int64) string) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = theirs.Close() })
	go func() {
		fmt.Fprintln(theirs, `{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}}`)
		lines := bufio.NewScanner(theirs)
		for lines.Scan() {
			var c struct {
				Execute string
				ID      int64
			}
			_ = json.Unmarshal(lines.Bytes(), &c)
			if c.Execute == "qmp_capabilities" {
				fmt.Fprintf(theirs, `{"return": {}, "id": %d}`+"\n", c.ID)
				continue
			}
			if a := answer(c.Execute, c.ID); a != "" {
				fmt.Fprintln(theirs, a)
			} else {
				_ = theirs.Close()
			}
		}
	}()
	return ours
}

func TestExecute(t *testing.T) {
	t.Parallel()
	events := make(chan qmp.Event, 1)
	conn := serve(t, func(name string, id int64) string {
		switch name {
		case "query-name":
			return fmt.Sprintf(`{"event": "SHUTDOWN", "data": {"guest": true}, "timestamp": {"seconds": 5, "microseconds": 7}}`+"\n"+
				`{"return": {"name": "x"}, "id": %d}`, id)
		case "quit":
			return ""
		case "slow":
			return `{"return": {}, "id": 999}`
		default:
			return fmt.Sprintf(`{"error": {"class": "CommandNotFound", "desc": "no such command"}, "id": %d}`, id)
		}
	})
	c, err := qmp.New(t.Context(), conn, func(e qmp.Event) { events <- e })
	require.NoError(t, err)

	var name struct{ Name string }
	require.NoError(t, c.Execute(t.Context(), "query-name", nil, &name))
	require.Equal(t, "x", name.Name)
	event := <-events
	require.Equal(t, "SHUTDOWN", event.Name)
	require.JSONEq(t, `{"guest": true}`, string(event.Data))
	require.Equal(t, time.Unix(5, 7000), event.At)

	var refused *qmp.Error
	require.ErrorAs(t, c.Execute(t.Context(), "nonsense", nil, nil), &refused)
	require.Equal(t, "CommandNotFound", refused.Class)

	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, c.Execute(short, "slow", nil, nil), context.DeadlineExceeded)

	require.ErrorIs(t, c.Execute(t.Context(), "quit", nil, nil), qmp.ErrClosed)
	<-c.Done()
	require.ErrorIs(t, c.Execute(t.Context(), "query-name", nil, nil), qmp.ErrClosed)
	require.NoError(t, c.Close())
}

func TestNewGivesUp(t *testing.T) {
	t.Parallel()
	t.Run("NoGreeting", func(t *testing.T) {
		t.Parallel()
		ours, theirs := net.Pipe()
		defer theirs.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := qmp.New(ctx, ours, nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	t.Run("NotQMP", func(t *testing.T) {
		t.Parallel()
		ours, theirs := net.Pipe()
		defer theirs.Close()
		go fmt.Fprintln(theirs, `{"hello": 1}`)
		_, err := qmp.New(t.Context(), ours, nil)
		require.ErrorContains(t, err, "no QMP greeting")
	})
	t.Run("Gone", func(t *testing.T) {
		t.Parallel()
		ours, theirs := net.Pipe()
		_ = theirs.Close()
		_, err := qmp.New(t.Context(), ours, nil)
		require.ErrorIs(t, err, qmp.ErrClosed)
	})
}

func TestExecuteWithFile(t *testing.T) {
	t.Parallel()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	end := func(fd int) *net.UnixConn {
		f := os.NewFile(uintptr(fd), "socket")
		conn, err := net.FileConn(f)
		require.NoError(t, errors.Join(err, f.Close()))
		return conn.(*net.UnixConn)
	}
	ours, theirs := end(pair[0]), end(pair[1])
	got := make(chan string, 1)
	go func() {
		defer theirs.Close()
		fmt.Fprintln(theirs, `{"QMP": {}}`)
		buf, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
		_, _, _, _, _ = theirs.ReadMsgUnix(buf, rights) // qmp_capabilities
		fmt.Fprintln(theirs, `{"return": {}, "id": 1}`)
		_, n, _, _, _ := theirs.ReadMsgUnix(buf, rights)
		messages, err := unix.ParseSocketControlMessage(rights[:n])
		if err != nil || len(messages) != 1 {
			got <- fmt.Sprint("no file came: ", err)
			return
		}
		fds, _ := unix.ParseUnixRights(&messages[0])
		f := os.NewFile(uintptr(fds[0]), "got")
		body, _ := io.ReadAll(f)
		_ = f.Close()
		got <- string(body)
		fmt.Fprintln(theirs, `{"return": {}, "id": 2}`)
	}()
	c, err := qmp.New(t.Context(), ours, nil)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(path, []byte("content"), 0o600))
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, c.ExecuteWith(t.Context(), f, "getfd", map[string]any{"fdname": "x"}, nil))
	require.Equal(t, "content", <-got)
	require.NoError(t, c.Close())

	piped, err := qmp.New(t.Context(), serve(t, func(string, int64) string { return "{}" }), nil)
	require.NoError(t, err)
	require.ErrorContains(t, piped.ExecuteWith(t.Context(), f, "getfd", nil, nil), "unix sockets only")
	require.NoError(t, piped.Close())
}
