package source

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strings"
)

// OriginType is what kind of thing a file came from.
type OriginType string

// The types of origin.
const (
	// OriginDeb: a package of Debian's; Digest is the .deb file's.
	OriginDeb OriginType = "deb"
	// OriginOCI: a layer of a container image; Digest is the layer's as stored.
	OriginOCI OriginType = "oci"
	// OriginOPS: a package of OPS's.
	OriginOPS OriginType = "ops"
	// OriginFile: a file that was uploaded by itself.
	OriginFile OriginType = "file"
)

// Origin says what some of a package's files came from.
type Origin struct {
	Type OriginType `json:"type"`
	// Name and Version are as the origin's own world writes them.
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	// Digest is lower-case hex SHA-256, without a prefix; empty where unknown.
	Digest string `json:"digest,omitempty"`
}

func compareOrigins(a, b Origin) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Digest, b.Digest))
}

// originsName is the member of the canonical form that holds the origins; a
// package without any has none, and so the same bytes as before there were origins.
const originsName = "origins.json"

// originFiles is an origin with the files that came from it, as originsName holds it.
type originFiles struct {
	Origin
	// Files are paths relative to the image's root, in order.
	Files []string `json:"files"`
}

// canonicalOrigins returns the content of originsName: in order of origins, then
// of paths, without origins of which no file is left; nil where there are none.
func (p *Package) canonicalOrigins() ([]byte, error) {
	files := make([][]string, len(p.Origins))
	for _, name := range p.Tree.paths() {
		if e := p.Tree.entries[name]; e.Kind != Directory && e.Origin > 0 && e.Origin <= len(files) {
			files[e.Origin-1] = append(files[e.Origin-1], name)
		}
	}
	var all []originFiles
	for i, o := range p.Origins {
		if len(files[i]) > 0 {
			all = append(all, originFiles{Origin: o, Files: files[i]})
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	slices.SortFunc(all, func(a, b originFiles) int {
		return cmp.Or(compareOrigins(a.Origin, b.Origin), slices.Compare(a.Files, b.Files))
	})
	return json.Marshal(all)
}

// takeOrigins reads originsName of a stored package.
func (p *Package) takeOrigins(pkg *Tree) error {
	e, ok := pkg.entries[originsName]
	if !ok || e.Kind != File {
		return nil
	}
	d := json.NewDecoder(pkg.Content(*e))
	d.DisallowUnknownFields()
	var all []originFiles
	if err := d.Decode(&all); err != nil {
		return invalid("%s: %w", originsName, err)
	}
	for i, o := range all {
		p.Origins = append(p.Origins, o.Origin)
		for _, name := range o.Files {
			if f, ok := p.Tree.entries[name]; ok {
				f.Origin = i + 1
			}
		}
	}
	return nil
}

// Laid is what a source that lays files into a directory of this host
// knows about them.
type Laid struct {
	// Name and Version are what the package is called where neither Options nor
	// the overlay say; they are mended where they are no valid name or version.
	Name, Version string
	// Manifest is a package.manifest (JSON) with what the source knows about how
	// the program runs, Program as an absolute path in the image; keys of an
	// overlay win. Empty where the source knows nothing.
	Manifest []byte
	// Origins and Origin tell where files came from: Origin maps a path relative
	// to the directory, clean and slash-separated, to an index of Origins.
	Origins []Origin
	Origin  map[string]int
	// Warnings are passed on.
	Warnings []string
}

// MendName makes a DNS label of what another world calls a package; "" where nothing is left.
func MendName(s string) string {
	b := []byte(strings.ToLower(s))
	for i, c := range b {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			b[i] = '-'
		}
	}
	return string(bytes.Trim(b[:min(len(b), 63)], "-"))
}

// MendVersion makes a version of what another world calls one; "" where nothing is left.
func MendVersion(s string) string {
	b := []byte(s)
	for i, c := range b {
		if !versionPattern.Match([]byte{c}) {
			b[i] = '-'
		}
	}
	return string(bytes.Trim(b[:min(len(b), 64)], "-"))
}
