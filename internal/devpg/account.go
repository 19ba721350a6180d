package devpg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is who Postgres runs as.
type account struct {
	name     string
	uid, gid int
	// switched: we are root and become this account for every program that we run.
	switched bool
}

// chooseAccount picks the account for a data directory; see the package comment.
func chooseAccount(dataDir string) (account, error) {
	owner, group, err := ownerOf(dataDir)
	switch uid := os.Geteuid(); {
	case err != nil: // a new one
		return newAccount()
	case uid != 0 && owner != uid:
		return account{}, fmt.Errorf("starting Postgres: %s belongs to user %d and not to %s: "+
			"run as the user who made it, or name another --data-dir", dataDir, owner, userName(uid))
	case uid != 0:
		return newAccount()
	case owner == 0:
		return account{}, fmt.Errorf("starting Postgres: %s belongs to root, and Postgres does not run as root: "+
			"give it to another user with chown -R postgres %s", dataDir, dataDir)
	default:
		return account{name: userName(owner), uid: owner, gid: group, switched: true}, nil
	}
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "user " + strconv.Itoa(uid)
}

// newAccount picks the account for a data directory that is yet to be made.
func newAccount() (account, error) {
	if uid := os.Geteuid(); uid != 0 {
		return account{name: userName(uid), uid: uid, gid: os.Getegid()}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.Atoi(u.Uid)
		gid, errGID := strconv.Atoi(u.Gid)
		if errUID == nil && errGID == nil && uid != 0 {
			return account{name: name, uid: uid, gid: gid, switched: true}, nil
		}
	}
	return account{}, errors.New("starting Postgres: it does not run as root, and this machine has neither a user postgres nor a user nobody: " +
		"make one with: useradd --system postgres")
}

// AsServerAccount makes cmd run in dir as the account that Postgres runs as on
// this machine (see the package comment), with a clean environment. The error
// says which directory that account may not enter.
func AsServerAccount(cmd *exec.Cmd, dir string) error {
	a, err := newAccount()
	if err != nil {
		return err
	}
	if err := a.mayEnter(dir); err != nil {
		return err
	}
	a.prepare(cmd, dir)
	return nil
}

func ownerOf(path string) (uid, gid int, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, fmt.Errorf("reading the owner of %s: not known on this system", path)
	}
	return int(st.Uid), int(st.Gid), nil
}

// prepare makes cmd run as the account, with an environment of its own: the
// caller's PGDATA, PGPORT, PGOPTIONS and locale must not reach the server.
func (a account) prepare(cmd *exec.Cmd, dir string) {
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/"}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if a.switched {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
}

// own gives a path to the account.
func (a account) own(path string) error {
	if !a.switched {
		return nil
	}
	return os.Chown(path, a.uid, a.gid)
}

// mayEnter checks that the account can reach dir: every directory on the way
// must let it through. The error names the directory and the command that mends it.
func (a account) mayEnter(dir string) error {
	if !a.switched {
		return nil
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("starting Postgres: %w", err)
	}
	var closed error
	for d := dir; ; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil {
			return fmt.Errorf("starting Postgres: %w", err)
		}
		if !a.mayPass(info) {
			closed = fmt.Errorf("starting Postgres: it runs as user %s (it refuses root), who may not enter %s (mode %04o): "+
				"run chmod o+x %s, or name another --data-dir", a.name, d, info.Mode().Perm(), d)
		}
		if d == filepath.Dir(d) {
			return closed // the topmost one, which is to be mended first
		}
	}
}

func (a account) mayPass(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return true
	}
	switch mode := info.Mode().Perm(); {
	case int(st.Uid) == a.uid:
		return mode&0o100 != 0
	case int(st.Gid) == a.gid:
		return mode&0o010 != 0
	default:
		return mode&0o001 != 0
	}
}
