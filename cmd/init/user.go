package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// identity is who the program runs as.
type identity struct {
	uid, gid int
	// groups are the supplementary ones.
	groups []uint32
	// home is empty where the image's /etc/passwd does not know the user.
	home string
}

// root runs a program for which the configuration names nobody.
func (i *identity) root() bool { return i == nil || i.uid == 0 }

// Bounds on what is read of the image's account files, in bytes and groups (limits.h: NGROUPS_MAX).
const (
	maxAccounts = 4 << 20
	maxGroups   = 65536
)

// findUser looks up USER or USER:GROUP, each a name or a number, in the image's
// account files in the directory etc. It follows what container runtimes do: a
// number needs no entry, and has group 0 then; a named group stands alone, else
// the user has the groups that list it.
func findUser(spec, etc string) (*identity, error) {
	if spec == "" {
		return nil, nil
	}
	name, group, grouped := strings.Cut(spec, ":")
	users, err := readAccounts(path.Join(etc, "passwd"), 7)
	if err != nil {
		return nil, err
	}
	who := &identity{uid: -1}
	for _, fields := range users {
		if fields[0] != name && fields[2] != name {
			continue
		}
		if who.uid, err = accountID(fields[2]); err == nil {
			who.gid, err = accountID(fields[3])
		}
		if err != nil {
			return nil, fmt.Errorf("the user %q in the image's /etc/passwd: %w", name, err)
		}
		who.home, name = fields[5], fields[0]
		break
	}
	if who.uid < 0 {
		if who.uid, err = accountID(name); err != nil {
			return nil, fmt.Errorf("the image's /etc/passwd has no user %q: add one to the package, or name another", name)
		}
	}
	groups, err := readAccounts(path.Join(etc, "group"), 4)
	if err != nil {
		return nil, err
	}
	if grouped {
		who.gid, err = findGroup(group, groups)
		return who, err
	}
	for _, fields := range groups {
		if !slices.Contains(strings.Split(fields[3], ","), name) {
			continue
		}
		gid, err := accountID(fields[2])
		if err != nil {
			return nil, fmt.Errorf("the group %q in the image's /etc/group: %w", fields[0], err)
		}
		if who.groups = append(who.groups, uint32(gid)); len(who.groups) > maxGroups {
			return nil, fmt.Errorf("the user %q is in more than %d groups", name, maxGroups)
		}
	}
	return who, nil
}

func findGroup(name string, groups [][]string) (int, error) {
	for _, fields := range groups {
		if fields[0] == name {
			return accountID(fields[2])
		}
	}
	id, err := accountID(name)
	if err != nil {
		return 0, fmt.Errorf("the image's /etc/group has no group %q: add one to the package, or name another", name)
	}
	return id, nil
}

// accountID reads a number; the largest one means "nobody" to system calls.
func accountID(text string) (int, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil || id == 1<<32-1 {
		return 0, fmt.Errorf("%q is no number of a user or group", text)
	}
	return int(id), nil
}

// readAccounts reads the lines of a file like passwd(5) that have that many
// fields at least; a file that is not there has none.
func readAccounts(file string, fields int) ([][]string, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the image's accounts: %w", err)
	}
	defer f.Close()
	var all [][]string
	lines := bufio.NewScanner(io.LimitReader(f, maxAccounts))
	lines.Buffer(nil, maxAccounts)
	for lines.Scan() {
		if words := strings.Split(lines.Text(), ":"); len(words) >= fields {
			all = append(all, words)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading the image's accounts: %w", err)
	}
	return all, nil
}

// admit gives the program's user what root would have had: the console, which
// programs open again by way of /dev/stderr, and low port numbers.
func admit(who *identity) error {
	if who.root() {
		return nil
	}
	for _, fd := range []int{1, 2} {
		if err := syscall.Fchown(fd, who.uid, -1); err != nil {
			return fmt.Errorf("giving the console to user %d: %w", who.uid, err)
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte("0"), 0o644); err != nil {
		return fmt.Errorf("giving low ports to user %d: %w", who.uid, err)
	}
	return nil
}

// give makes the program's user the owner of a directory and of what in it was
// root's or the directory's owner's. Nothing is done where the directory is the
// user's already: it comes last, so that a cut is made up for.
func give(dir string, who *identity) error {
	if who.root() {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	before, _ := owner(info)
	if before == who.uid {
		return nil
	}
	return giveEntry(dir, before, who)
}

func giveEntry(p string, before int, who *identity) error {
	info, err := os.Lstat(p)
	if err != nil {
		return err
	}
	if info.IsDir() {
		if err := giveContent(p, before, who); err != nil {
			return err
		}
	}
	uid, _ := owner(info)
	if uid != 0 && uid != before {
		return nil
	}
	if err := os.Lchown(p, who.uid, who.gid); err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		return nil
	}
	return os.Chmod(p, info.Mode()) // a change of owner clears set-ID bits
}

// giveContent gives what lies in a directory, but not the directory.
func giveContent(dir string, before int, who *identity) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := giveEntry(dir+"/"+e.Name(), before, who); err != nil {
			return err
		}
	}
	return nil
}
