package main

import (
	"os"
	"path/filepath"
	"regexp"
)

// opsReference is how OPS names a package: NAMESPACE/NAME:VERSION.
var opsReference = regexp.MustCompile(`^([0-9A-Za-z][0-9A-Za-z._-]*)/([0-9A-Za-z][0-9A-Za-z._+-]*):([0-9A-Za-z][0-9A-Za-z._+-]*)$`)

// opsHome is where OPS keeps what it has fetched.
func (a *app) opsHome() string {
	if home := a.getenv("OPS_HOME"); home != "" {
		return home
	}
	if home := a.getenv("HOME"); home != "" {
		return filepath.Join(home, ".ops")
	}
	return ""
}

// opsPackage finds a package that OPS has fetched: its tarball, or where that
// has been unpacked.
func opsPackage(home, ref string) (path string, found bool) {
	parts := opsReference.FindStringSubmatch(ref)
	if parts == nil || home == "" {
		return "", false
	}
	namespace, name := parts[1], parts[2]+"_"+parts[3]
	for _, path := range []string{
		filepath.Join(home, "packages", namespace, name, "amd64.tar.gz"),
		filepath.Join(home, "packages", "amd64", namespace, name),
		filepath.Join(home, "packages", namespace, name+".tar.gz"),
	} {
		if _, err := os.Stat(path); err == nil {
			return path, true
		}
	}
	return "", false
}
