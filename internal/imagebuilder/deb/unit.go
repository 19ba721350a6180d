package deb

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// unit is a service of systemd (systemd.service(5), systemd.exec(5)), as far as it can be followed here.
type unit struct {
	name string
	// keys are the values of its Service section, in the order given.
	keys map[string][]string
}

func (u unit) last(key string) string {
	if v := u.keys[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// maxUnit bounds what is read of a file that says how something runs.
const maxUnit = 256 << 10

// units reads the services of the whole packages, by name.
func (s *selection) units() []unit {
	const dir = "usr/lib/systemd/system"
	names, err := s.tree.ReadDir(dir)
	if err != nil {
		return nil
	}
	var units []unit
	for _, name := range names {
		if !strings.HasSuffix(name, ".service") || strings.Contains(name, "@") {
			continue
		}
		if text, ok := s.text(dir + "/" + name); ok {
			units = append(units, unit{strings.TrimSuffix(name, ".service"), readUnit(text)})
		}
	}
	return units
}

// text reads a small file of a whole package.
func (s *selection) text(name string) (string, bool) {
	p := s.tree.file(name)
	if p == "" || s.tree.nodes[p].from == nil || !slices.Contains(s.whole, s.tree.nodes[p].from) {
		return "", false
	}
	r, err := s.tree.Open(p)
	if err != nil || r.Size() > maxUnit {
		return "", false
	}
	body := make([]byte, r.Size())
	if _, err := r.ReadAt(body, 0); err != nil && r.Size() > 0 {
		return "", false
	}
	return string(body), true
}

func readUnit(text string) map[string][]string {
	keys := map[string][]string{}
	section := ""
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			section = line
		case section == "[Service]":
			key, value, _ := strings.Cut(line, "=")
			key, value = strings.TrimSpace(key), strings.TrimSpace(value)
			if value == "" {
				delete(keys, key) // as systemd: an empty value takes back
				continue
			}
			keys[key] = append(keys[key], value)
		}
	}
	return keys
}

// plainWord is what systemd would pass on as it is: no variables, specifiers, quotes or separators.
var plainWord = regexp.MustCompile(`^[^$%"'\\;]+$`)

// program returns what the first unit runs whose ExecStart is a plain command of
// the named package's and stays in the foreground; else the program that is called
// as the package is; else nothing.
func (s *selection) program(units []unit) (program string, args []string, user string) {
	var mine []*record // the first package, then those of its source
	for _, r := range s.whole {
		if r.source == s.whole[0].source {
			mine = append(mine, r)
		}
	}
	for _, r := range mine {
		for _, u := range units {
			if u.name != r.name {
				continue
			}
			if words := u.command(); len(words) > 0 && s.isProgram(words[0], mine) {
				return words[0], words[1:], u.last("User")
			}
		}
	}
	for _, r := range mine {
		for _, dir := range []string{"/usr/sbin/", "/usr/bin/", "/usr/games/"} {
			if s.isProgram(dir+r.name, mine) {
				return dir + r.name, nil, ""
			}
		}
	}
	return "", nil, ""
}

// command returns what the unit starts; nil where that can't be taken as it is.
func (u unit) command() []string {
	starts := u.keys["ExecStart"]
	if len(starts) != 1 || u.last("Type") == "forking" || u.last("Type") == "oneshot" {
		return nil
	}
	words := strings.Fields(strings.TrimLeft(starts[0], "-:"))
	if slices.ContainsFunc(words, func(w string) bool { return !plainWord.MatchString(w) }) {
		return nil
	}
	return words
}

// isProgram tells whether name is an ELF file that can be started, of one of the packages.
func (s *selection) isProgram(name string, of []*record) bool {
	if !path.IsAbs(name) || path.Clean(name) != name {
		return false
	}
	p := s.tree.file(name)
	if p == "" {
		return false
	}
	n := s.tree.nodes[p]
	is, err := s.tree.elfMagic(p)
	return err == nil && is && n.mode&0o111 != 0 && slices.Contains(of, n.from)
}

// directories makes those that units and tmpfiles.d would have made at a start.
func (s *selection) directories(units []unit) error {
	for _, u := range units {
		for key, base := range map[string]string{"RuntimeDirectory": "run", "StateDirectory": "var/lib", "CacheDirectory": "var/cache", "LogsDirectory": "var/log", "ConfigurationDirectory": "etc"} {
			for _, value := range u.keys[key] {
				for _, name := range strings.Fields(value) {
					name, _, _ = strings.Cut(name, ":")
					if err := s.directory(path.Join(base, name), 0o755); err != nil {
						return err
					}
				}
			}
		}
	}
	names, err := s.tree.ReadDir("usr/lib/tmpfiles.d")
	if err != nil {
		return nil
	}
	for _, name := range names {
		text, _ := s.text("usr/lib/tmpfiles.d/" + name)
		for line := range strings.Lines(text) {
			words := strings.Fields(line)
			if len(words) < 2 || strings.TrimRight(words[0], "+!-=~^") != "d" {
				continue
			}
			mode := uint64(0o755)
			if len(words) > 2 {
				if m, err := strconv.ParseUint(strings.TrimLeft(words[2], "~:"), 8, 12); err == nil {
					mode = m
				}
			}
			if err := s.directory(words[1], uint32(mode)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *selection) directory(name string, mode uint32) error {
	name = path.Clean("/" + name)
	if !plainWord.MatchString(name) || len(name) > 255 || name == "/" {
		return nil
	}
	if p, err := s.tree.resolve(name); err != nil || s.tree.nodes[p] != nil {
		return nil // it is there, or a link leads nowhere
	}
	return s.tree.makeDir(name[1:], mode)
}
