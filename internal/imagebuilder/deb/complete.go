package deb

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"dormouse/internal/imagebuilder/source"
)

// complete makes what maintainer scripts would have made, as far as it is said
// anywhere, and drops what is read by then.
func (s *selection) complete(units []unit) error {
	if err := s.directories(units); err != nil {
		return err
	}
	if err := s.users(units); err != nil {
		return err
	}
	if err := s.certificates(); err != nil {
		return err
	}
	if err := s.tree.makeFile("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n"); err != nil {
		return err
	}
	for p, n := range s.tree.nodes {
		if isBelow(p, readDirs) {
			n.keep = false
		}
	}
	return nil
}

// accounts are the users and groups of an image. The fixed ones are Debian's own
// (base-passwd), of which programs have some built in.
type accounts struct {
	uid, gid map[string]int
	// primary is a user's group, home its home directory; members are by group.
	primary map[string]int
	home    map[string]string
	members map[string][]string
}

func newAccounts() accounts {
	a := accounts{
		uid:     map[string]int{"root": 0, "daemon": 1, "bin": 2, "sys": 3, "mail": 8, "proxy": 13, "www-data": 33, "backup": 34, "nobody": 65534},
		gid:     map[string]int{"adm": 4, "tty": 5, "disk": 6, "staff": 50, "shadow": 42, "utmp": 43, "users": 100, "nogroup": 65534},
		primary: map[string]int{}, members: map[string][]string{},
		home: map[string]string{"root": "/root", "www-data": "/var/www", "backup": "/var/backups"},
	}
	for name, id := range a.uid {
		a.primary[name] = id
		if name != "nobody" {
			a.gid[name] = id
		}
	}
	return a
}

// firstID is where Debian begins to number the users of packages.
const firstID = 100

var accountName = regexp.MustCompile(`^[a-z_][a-zA-Z0-9_-]{0,30}$`)

// free returns the first number that neither a user nor a group has.
func (a accounts) free() int {
	id := firstID + 1
	for slices.Contains(slices.Collect(maps.Values(a.uid)), id) || slices.Contains(slices.Collect(maps.Values(a.gid)), id) {
		id++
	}
	return id
}

func (a accounts) addGroup(name, id string) {
	if _, ok := a.gid[name]; ok || !accountName.MatchString(name) {
		return
	}
	n, err := strconv.Atoi(id)
	if err != nil || n < 0 || n > 65533 {
		n = a.free()
	}
	a.gid[name] = n
}

func (a accounts) addUser(name, id, home string) {
	if _, ok := a.uid[name]; ok || !accountName.MatchString(name) {
		return
	}
	a.addGroup(name, id)
	a.uid[name], a.primary[name] = a.gid[name], a.gid[name]
	if strings.HasPrefix(home, "/") && !strings.ContainsAny(home, ":\n") {
		a.home[name] = home
	}
}

// users writes /etc/passwd and /etc/group: Debian's own users, those of sysusers.d(5), and those
// that units run as. What only a maintainer script adds is for an overlay.
func (s *selection) users(units []unit) error {
	a := newAccounts()
	names, err := s.tree.ReadDir("usr/lib/sysusers.d")
	if err != nil {
		names = nil // there is none
	}
	for _, name := range names {
		text, _ := s.text("usr/lib/sysusers.d/" + name)
		for line := range strings.Lines(text) {
			words := sysusersWords(line)
			switch {
			case len(words) < 3:
			case words[0] == "g":
				a.addGroup(words[1], words[2])
			case strings.HasPrefix(words[0], "u"):
				id, _, _ := strings.Cut(words[2], ":")
				home := ""
				if len(words) > 4 {
					home = words[4]
				}
				a.addUser(words[1], id, home)
			case words[0] == "m" && accountName.MatchString(words[1]) && accountName.MatchString(words[2]):
				a.addGroup(words[2], "")
				a.members[words[2]] = append(a.members[words[2]], words[1])
			}
		}
	}
	for _, u := range units {
		if group := u.last("Group"); group != "" {
			a.addGroup(group, "")
		}
		if user := u.last("User"); user != "" {
			a.addUser(user, "", "")
		}
	}
	return a.write(s.tree)
}

// sysusersWords splits a line, in which a word may stand in quotes.
func sysusersWords(line string) []string {
	var words []string
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			words = append(words, part)
			continue
		}
		words = append(words, strings.Fields(part)...)
	}
	return words
}

func (a accounts) write(t *tree) error {
	var passwd, group strings.Builder
	byID := func(ids map[string]int) []string {
		names := slices.Sorted(maps.Keys(ids))
		slices.SortStableFunc(names, func(x, y string) int { return ids[x] - ids[y] })
		return names
	}
	for _, name := range byID(a.uid) {
		home, shell := a.home[name], "/usr/sbin/nologin"
		if home == "" {
			home = "/nonexistent"
		}
		if name == "root" {
			shell = "/bin/sh"
		}
		fmt.Fprintf(&passwd, "%s:x:%d:%d::%s:%s\n", name, a.uid[name], a.primary[name], home, shell)
	}
	for _, name := range byID(a.gid) {
		fmt.Fprintf(&group, "%s:x:%d:%s\n", name, a.gid[name], strings.Join(a.members[name], ","))
	}
	if err := t.makeFile("etc/passwd", passwd.String()); err != nil {
		return err
	}
	return t.makeFile("etc/group", group.String())
}

// certificates makes the one file that libraries read of ca-certificates.
func (s *selection) certificates() error {
	var all []byte
	for _, p := range s.tree.paths() {
		n := s.tree.nodes[p]
		if n.kind != source.File || !n.keep || !strings.HasPrefix(p, "usr/share/ca-certificates/") || !strings.HasSuffix(p, ".crt") {
			continue
		}
		r, err := s.tree.Open(p)
		if err != nil {
			return err
		}
		body := make([]byte, min(r.Size(), maxUnit))
		if _, err := r.ReadAt(body, 0); err != nil && len(body) > 0 {
			return err
		}
		all = append(append(all, body...), '\n')
	}
	if len(all) == 0 {
		return nil
	}
	return s.tree.makeFile("etc/ssl/certs/ca-certificates.crt", string(all))
}
