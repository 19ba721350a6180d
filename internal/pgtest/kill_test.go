package pgtest

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// envBase makes TestVictim a process that starts a server there and waits to be killed.
const envBase = "PGTEST_VICTIM_BASE"

// TestVictim is the process that the tests below kill.
func TestVictim(t *testing.T) {
	base := os.Getenv(envBase)
	if base == "" {
		return // it is a part of the tests below, and no test
	}
	s, err := start(t.Context(), base)
	require.NoError(t, err)
	_ = s.database(t, "")
	_, _ = os.Stdout.WriteString("up\n")
	select {} // until it is killed
}

func victim(t *testing.T, base string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestVictim$")
	cmd.Env = append(os.Environ(), envBase+"="+base)
	// A group of its own, to be killed whole.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	return cmd, bufio.NewScanner(out)
}

func TestKilledProcessLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, sig := range map[string]syscall.Signal{"SIGKILL": syscall.SIGKILL, "SIGQUIT": syscall.SIGQUIT, "SIGINT": syscall.SIGINT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := openDir(t)
			cmd, out := victim(t, base)
			for out.Scan() && out.Text() != "up" {
			}
			require.Equal(t, "up", out.Text())
			pids := postmasters(t, base)
			require.Len(t, pids, 1)
			require.NoError(t, syscall.Kill(-cmd.Process.Pid, sig))
			require.Eventually(t, empty(t, base), time.Minute, 20*time.Millisecond)
			require.ErrorIs(t, syscall.Kill(pids[0], 0), syscall.ESRCH)
		})
	}
}

// Killed in the middle of the start: as soon as the directory is there, as soon
// as initdb has begun in it, and as soon as the server has.
func TestKilledWhileStartingLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, pattern := range map[string]string{"directory": "*", "initdb": "*/data/PG_VERSION", "server": "*/data/postmaster.pid"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := openDir(t)
			cmd, _ := victim(t, base)
			require.Eventually(t, func() bool {
				found, err := filepath.Glob(filepath.Join(base, pattern))
				return err == nil && len(found) > 0
			}, time.Minute, time.Millisecond)
			require.NoError(t, cmd.Process.Kill())
			require.Eventually(t, empty(t, base), time.Minute, 20*time.Millisecond)
		})
	}
}

// postmasters reads the process IDs of the servers under base.
func postmasters(t *testing.T, base string) []int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(base, "*", "data", "postmaster.pid"))
	require.NoError(t, err)
	var pids []int
	for _, file := range files {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		first, _, _ := strings.Cut(string(b), "\n")
		pid, err := strconv.Atoi(first)
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	return pids
}
