package nanos

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

// Where the volumes are mounted, and the labels by which the kernel finds them.
const (
	oursDir     = ".dormouse"
	dataDir     = oursDir + "/data"
	configDir   = oursDir + "/config"
	dataLabel   = "dormouse-data"
	configLabel = "dormouse-config"
)

// item is one member of the root file system. Paths are relative, as in package tfs.
type item struct {
	path   string
	kind   source.Kind
	target string
	size   int64
	open   func() io.Reader
}

// plan lists what the root file system holds: directories before what is in them.
type plan struct {
	items []item
	has   map[string]bool
	etc   string // where /etc is
}

func (p *plan) add(i item) {
	p.has[i.path] = true
	p.items = append(p.items, i)
}

func (p *plan) text(path, body string) {
	p.add(item{path: path, kind: source.File, size: int64(len(body)), open: func() io.Reader { return strings.NewReader(body) }})
}

// Directories that programs expect. The kernel makes /dev, /proc and /sys. There
// is no /dev/shm: every file system here has the same device number, from which
// MariaDB would conclude that its log lies in memory that needs no sync.
var expectedDirs = []string{"/tmp", "/run", "/etc", "/root", "/var/tmp"}

// planRoot puts together the package's files and what every program expects.
// The persistent directories become links to where the volume is mounted.
func planRoot(tree *source.Tree, m fleet.Manifest, name string) (*plan, error) {
	t := tree.Clone()
	p := &plan{has: map[string]bool{}}
	for _, d := range expectedDirs {
		at, err := t.EnsureDir(d, 0o755)
		if err != nil {
			return nil, err
		}
		if d == "/etc" {
			p.etc = at
		}
	}
	links, err := persistLinks(t, m.Persist)
	if err != nil {
		return nil, err
	}
	if p.etc == "" || underLink(links, p.etc) {
		return nil, errors.New("/etc can't persist: the kernel reads it before volumes are mounted")
	}
	if e, err := t.Lookup(oursDir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the package holds /" + oursDir + ", which is ours: rename " + e.Path)
	}
	err = t.Walk(func(e source.Entry) error {
		if e.Path == "" {
			return nil
		}
		for at, to := range links {
			if e.Path == at {
				p.add(item{path: at, kind: source.Symlink, target: "/" + to})
			}
			if e.Path == at || strings.HasPrefix(e.Path, at+"/") {
				e.Path = to + e.Path[len(at):]
				break
			}
		}
		i := item{path: e.Path, kind: e.Kind, target: e.Target, size: e.Size}
		if e.Kind == source.File {
			i.open = func() io.Reader { return t.Content(e) }
		}
		p.add(i)
		return nil
	})
	if err != nil {
		return nil, err
	}
	p.add(item{path: dataDir, kind: source.Directory})
	p.add(item{path: configDir, kind: source.Directory})
	p.addDefaults(m, name)
	if needsGuard(t) {
		return p, p.addGuard(t)
	}
	return p, nil
}

// persistLinks returns, by where a persistent directory is, where it is on the
// volume. One that lies in another one goes with it.
func persistLinks(t *source.Tree, persist []string) (map[string]string, error) {
	links := map[string]string{}
	for _, dir := range slices.Sorted(slices.Values(persist)) {
		at, err := t.EnsureDir(dir, 0o755)
		if err != nil {
			return nil, err
		}
		if at == "" {
			return nil, errors.New("the root directory can't persist: name the directories with data")
		}
		if !underLink(links, at) {
			links[at] = dataDir + dir
		}
	}
	for at := range links { // /a/b sorts before what leads to /a through a link
		for other := range links {
			if at != other && strings.HasPrefix(at, other+"/") {
				delete(links, at)
			}
		}
	}
	return links, nil
}

func underLink(links map[string]string, path string) bool {
	for at := range links {
		if path == at || strings.HasPrefix(path, at+"/") {
			return true
		}
	}
	return false
}

// What glibc and programs look for, where the package has no file of its own.
const (
	passwd   = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
	group    = "root:x:0:\nnogroup:x:65534:\n"
	nsswitch = "passwd: files\ngroup: files\nhosts: files dns\n"
	hosts    = "127.0.0.1 localhost\n::1 localhost\n"
)

func (p *plan) addDefaults(m fleet.Manifest, name string) {
	for _, f := range []struct{ name, body string }{{"passwd", passwd}, {"group", group}, {"nsswitch.conf", nsswitch}, {"hostname", name + "\n"}} {
		if path := p.etc + "/" + f.name; !p.has[path] && f.body != "\n" {
			p.text(path, f.body)
		}
	}
	// A tenant's own are on its configuration volume; without one, these are seen.
	for _, f := range []struct{ name, body string }{{"hosts", hosts}, {"resolv.conf", resolvConf(m.NameServers)}} {
		p.text(configDir+"/"+f.name, f.body)
		if path := p.etc + "/" + f.name; !p.has[path] {
			p.add(item{path: path, kind: source.Symlink, target: "/" + configDir + "/" + f.name})
		}
	}
}

// resolvConf is resolv.conf(5); glibc heeds the first three.
func resolvConf(servers []string) string {
	var b strings.Builder
	for _, s := range servers {
		b.WriteString("nameserver " + s + "\n")
	}
	return b.String()
}
