package source

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"dormouse/internal/fleet"
)

// canonicalManifest is package.manifest in canonical form, in the order of its
// keys. ParseManifest reads back what it was made from.
type canonicalManifest struct {
	Name      string
	Version   string
	Program   string
	Args      []string
	Env       map[string]string `json:",omitempty"`
	Dir       string            `json:",omitempty"`
	Ports     []canonicalPort   `json:",omitempty"`
	Health    canonicalHealth
	Persist   []string `json:",omitempty"`
	Restart   fleet.RestartPolicy
	MinMemory string `json:",omitempty"`
	// The keys below came later: where they are absent, the bytes are as before.
	Kernel              fleet.KernelKind `json:",omitempty"`
	User                string           `json:",omitempty"`
	NameServers         []string         `json:",omitempty"`
	BaseVolumeSz        string           `json:",omitempty"`
	Klibs               []string         `json:",omitempty"`
	ManifestPassthrough map[string]any   `json:",omitempty"`
}

type canonicalPort struct {
	Number   int
	Protocol fleet.Protocol
	Name     string `json:",omitempty"`
}

type canonicalHealth struct {
	Type    fleet.HealthType
	Port    int    `json:",omitempty"`
	Path    string `json:",omitempty"`
	Timeout string `json:",omitempty"`
}

// canonicalJSON returns the manifest in canonical form. Name and version are
// part of it, so that two releases never share a digest.
func (p *Package) canonicalJSON() ([]byte, error) {
	m := p.Manifest
	c := canonicalManifest{
		Name: p.Name, Version: p.Version, Program: m.Program,
		Args: append([]string{m.Program}, m.Args...), // argv[0] first, as in OPS's packages
		Env:  m.Env, Dir: m.Dir, Persist: m.Persist, Restart: m.Restart,
		Health: canonicalHealth{Type: m.Health.Type, Port: m.Health.Port, Path: m.Health.Path},
		Kernel: p.Kernel, User: m.User, NameServers: m.NameServers, Klibs: m.Klibs, ManifestPassthrough: m.Passthrough,
	}
	if p.Kernel == fleet.KernelDisk {
		c.Args, c.Persist = nil, nil // there is no program, and settleDisk says what persists
	}
	if m.Health.Timeout != 0 {
		c.Health.Timeout = m.Health.Timeout.String()
	}
	if m.MinMemoryMiB != 0 {
		c.MinMemory = fmt.Sprintf("%dMiB", m.MinMemoryMiB)
	}
	if m.RootBytes != 0 {
		c.BaseVolumeSz = strconv.FormatInt(m.RootBytes, 10)
	}
	for _, port := range m.Ports {
		c.Ports = append(c.Ports, canonicalPort(port))
	}
	return json.MarshalIndent(c, "", "  ")
}

// WriteCanonical writes the canonical form and returns its lower-case hex
// SHA-256, which names the package's content, and its length in bytes.
func (p *Package) WriteCanonical(ctx context.Context, w io.Writer) (digest string, size int64, err error) {
	hash := sha256.New()
	counter := &countingWriter{w: io.MultiWriter(w, hash)}
	tw := tar.NewWriter(counter)
	manifest, err := p.canonicalJSON()
	if err != nil {
		return "", 0, fmt.Errorf("writing the canonical manifest: %w", err)
	}
	origins, err := p.canonicalOrigins()
	if err != nil {
		return "", 0, fmt.Errorf("writing the origins of files: %w", err)
	}
	for _, member := range []struct {
		name string
		body []byte
	}{{originsName, origins}, {ManifestName, manifest}} {
		if member.body == nil {
			continue
		}
		if err := tw.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: member.name, Size: int64(len(member.body)), Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
		}); err != nil {
			return "", 0, err
		}
		if _, err := tw.Write(member.body); err != nil {
			return "", 0, err
		}
	}
	if err := p.Tree.writeTar(ctx, tw, sysroot+"/"); err != nil {
		return "", 0, err
	}
	if err := tw.Close(); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(hash.Sum(nil)), counter.n, nil
}

// WriteTar writes the tree as an uncompressed tar: sorted by path, all of
// root's and of the year 1970, so that equal trees give equal bytes. The root
// directory itself is left out.
func (t *Tree) WriteTar(ctx context.Context, w io.Writer) error {
	tw := tar.NewWriter(w)
	if err := t.writeTar(ctx, tw, ""); err != nil {
		return err
	}
	return tw.Close()
}

func (t *Tree) writeTar(ctx context.Context, tw *tar.Writer, prefix string) error {
	return t.Walk(func(e Entry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		h := tar.Header{Name: prefix + e.Path, Mode: int64(e.Mode), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		switch e.Kind {
		case Directory:
			h.Typeflag = tar.TypeDir
			if h.Name == "" {
				return nil // the root: most readers of tar have no use for it
			}
			if e.Path != "" {
				h.Name += "/"
			}
		case Symlink:
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.Target
		case File:
			h.Typeflag, h.Size = tar.TypeReg, e.Size
		}
		if err := tw.WriteHeader(&h); err != nil {
			return err
		}
		if e.Kind != File {
			return nil
		}
		_, err := io.Copy(tw, t.Content(e))
		return err
	})
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
