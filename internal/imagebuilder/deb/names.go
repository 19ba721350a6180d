package deb

import (
	"regexp"
	"slices"
	"strings"
)

// maxNames bounds what may be named at once.
const maxNames = 32

// want is a package as it was asked for.
type want struct {
	name, version string
}

func (w want) String() string {
	if w.version == "" {
		return w.name
	}
	return w.name + "=" + w.version
}

// Names and versions as Debian's policy has them (5.6.7, 5.6.12). apt itself would
// take patterns, and a minus at the end for "remove".
var (
	namePattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{0,99}[a-z0-9+.]$`)
	versionPattern = regexp.MustCompile(`^[0-9A-Za-z.+~:-]{1,128}$`)
)

func checkNames(names []string) ([]want, error) {
	if len(names) == 0 {
		return nil, invalid("no Debian package is named: name at least one, like mosquitto")
	}
	if len(names) > maxNames {
		return nil, invalid("%d Debian packages are named: name at most %d, what they depend on comes by itself", len(names), maxNames)
	}
	var wanted []want
	for _, given := range names {
		name, version, pinned := strings.Cut(given, "=")
		name, architecture, foreign := strings.Cut(name, ":")
		switch {
		case foreign && architecture != "amd64":
			return nil, invalid("%q is for the architecture %s: images are for amd64, name the package without it", given, architecture)
		case !namePattern.MatchString(name):
			return nil, invalid("%q is no name of a Debian package: it has a-z 0-9 + . -, like postgresql-15", given)
		case pinned && !versionPattern.MatchString(version):
			return nil, invalid("%q names no version of a Debian package: write name=version, like redis-server=5:7.0.15-1", given)
		}
		if slices.ContainsFunc(wanted, func(w want) bool { return w.name == name }) {
			return nil, invalid("the Debian package %s is named twice: keep one", name)
		}
		wanted = append(wanted, want{name, version})
	}
	return wanted, nil
}
