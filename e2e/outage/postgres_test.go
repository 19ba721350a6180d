package outage

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// postgres is a server of the test's own, on a socket.
type postgres struct {
	bin, dir string
	who      *syscall.Credential
	cmd      *exec.Cmd
}

// newPostgres makes a database and starts the server, which ends with the test.
func newPostgres(t *testing.T) *postgres {
	t.Helper()
	dir, err := os.MkdirTemp("", "dormouse-outage-") // where another user may enter
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o755))
	p := &postgres{dir: dir}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	require.NoError(t, err)
	if path, err := exec.LookPath("postgres"); err == nil && len(found) == 0 {
		found = append(found, path)
	}
	require.NotEmpty(t, found, "there is no Postgres server: apt-get install postgresql")
	p.bin = filepath.Dir(slices.Max(found))
	if os.Geteuid() == 0 { // as whom it does not run
		u, err := user.Lookup("postgres")
		if err != nil {
			u, err = user.Lookup("nobody")
		}
		require.NoError(t, err)
		uid, err := strconv.Atoi(u.Uid)
		require.NoError(t, err)
		gid, err := strconv.Atoi(u.Gid)
		require.NoError(t, err)
		p.who = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		require.NoError(t, os.Chown(p.dir, uid, gid))
	}
	out, err := p.command("initdb", "--no-sync", "-A", "trust", "-U", "dormouse", "-D", p.dir+"/data").CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Cleanup(func() { p.stop(t) })
	p.start(t)
	out, err = p.command("createdb", "-h", p.dir, "-U", "dormouse", "dormouse").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return p
}

func (p *postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.Dir, cmd.Env = p.dir, []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "HOME=/"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.who, Pdeathsig: syscall.SIGQUIT}
	return cmd
}

func (p *postgres) url() string { return "postgres://dormouse@/dormouse?host=" + p.dir }

// start starts the server and waits until it answers.
func (p *postgres) start(t *testing.T) {
	t.Helper()
	p.cmd = p.command("postgres", "-D", p.dir+"/data", "-k", p.dir, "-c", "listen_addresses=")
	require.NoError(t, p.cmd.Start())
	require.Eventually(t, func() bool { return p.command("pg_isready", "-q", "-h", p.dir).Run() == nil }, soon, 50*time.Millisecond)
}

// stop stops it as for maintenance: sessions are ended.
func (p *postgres) stop(t *testing.T) {
	t.Helper()
	if p.cmd == nil {
		return
	}
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
	require.NoError(t, p.cmd.Wait())
	p.cmd = nil
}
