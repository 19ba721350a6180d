package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
)

// User is who a guest's program runs as.
type User struct {
	UID, GID int
	// Groups are the supplementary ones.
	Groups []uint32
	// Home is empty where the image's passwd file does not know the user.
	Home string
}

// OpenAccounts opens passwd or group of an image's /etc, or returns fs.ErrNotExist.
type OpenAccounts func(name string) (io.ReadCloser, error)

// Bounds on what is read of an image's account files, in bytes and groups (limits.h: NGROUPS_MAX).
const (
	maxAccounts = 4 << 20
	maxGroups   = 65536
)

// FindUser looks up USER or USER:GROUP, each a name or a number, in an image's
// account files (passwd(5), group(5)). It follows what container runtimes do: a
// number needs no entry, and has group 0 then; a group that is named stands
// alone, else the user has the groups that list it. An error says what the image lacks.
func FindUser(spec string, open OpenAccounts) (User, error) {
	name, group, grouped := strings.Cut(spec, ":")
	who := User{UID: -1}
	err := eachAccount(open, "passwd", 7, func(fields []string) (done bool, err error) {
		if fields[0] != name && fields[2] != name {
			return false, nil
		}
		if who.UID, err = accountID(fields[2]); err == nil {
			who.GID, err = accountID(fields[3])
		}
		who.Home, name = fields[5], fields[0]
		return true, err
	})
	if err != nil {
		return User{}, err
	}
	if who.UID < 0 {
		if who.UID, err = accountID(name); err != nil {
			return User{}, fmt.Errorf("the image's /etc/passwd has no user %q: add one to the package, or name another", name)
		}
	}
	if grouped {
		who.GID, err = findGroup(group, open)
		return who, err
	}
	err = eachAccount(open, "group", 4, func(fields []string) (bool, error) {
		for member := range strings.SplitSeq(fields[3], ",") {
			if member != name {
				continue
			}
			gid, err := accountID(fields[2])
			if len(who.Groups) == maxGroups {
				err = fmt.Errorf("the user %q is in more than %d groups", name, maxGroups)
			}
			who.Groups = append(who.Groups, uint32(gid))
			return false, err
		}
		return false, nil
	})
	return who, err
}

func findGroup(name string, open OpenAccounts) (int, error) {
	gid := -1
	err := eachAccount(open, "group", 4, func(fields []string) (done bool, err error) {
		if done = fields[0] == name; done {
			gid, err = accountID(fields[2])
		}
		return done, err
	})
	if err != nil || gid >= 0 {
		return gid, err
	}
	if gid, err = accountID(name); err != nil {
		return 0, fmt.Errorf("the image's /etc/group has no group %q: add one to the package, or name another", name)
	}
	return gid, nil
}

// eachAccount visits the lines of a file like passwd(5) that have that many
// fields at least, until one is done; a file that is not there has none.
func eachAccount(open OpenAccounts, name string, fields int, visit func([]string) (done bool, err error)) error {
	f, err := open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the image's /etc/%s: %w", name, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, maxAccounts))
	lines.Buffer(nil, maxAccounts)
	for lines.Scan() {
		words := strings.SplitN(lines.Text(), ":", 8) // as many as passwd has, and what is too much
		if len(words) < fields {
			continue
		}
		if done, err := visit(words); err != nil {
			return fmt.Errorf("reading %q in the image's /etc/%s: %w", words[0], name, err)
		} else if done {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading the image's /etc/%s: %w", name, err)
	}
	return nil
}

// accountID reads a number; the largest one means "nobody" to system calls.
func accountID(text string) (int, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err != nil || id == 1<<32-1 {
		return 0, fmt.Errorf("%q is no number of a user or group", text)
	}
	return int(id), nil
}
