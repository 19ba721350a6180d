package source

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"

	"dormouse/internal/fleet"
)

// Open reads a package back from a file that WriteCanonical wrote, without
// copying its contents. A file whose SHA-256 is not digest is KindPermanent; one that
// is not there is KindNotFound. The caller closes the Package.
func Open(path, digest string, limits Limits) (*Package, error) {
	p, verified, err := OpenUnverified(path, digest, limits)
	if e := verified(); e != nil && err == nil {
		return nil, errors.Join(e, p.Close())
	}
	return p, err
}

// OpenUnverified does as Open, and leaves the digest to verified, which it has
// begun to work on and which is to be called in any case, before Close: until it has
// returned nil, the contents may be anything.
func OpenUnverified(path, digest string, limits Limits) (p *Package, verified func() error, err error) {
	none := func() error { return nil }
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, none, fleet.Errorf(fleet.KindNotFound, "opening the package: %w", err)
	}
	if err != nil {
		return nil, none, fleet.Errorf(fleet.KindInternal, "opening the package: %w", err)
	}
	result := make(chan error, 1)
	go func() { result <- verify(f, digest) }()
	if p, err = index(f, limits); err != nil {
		<-result
		return nil, none, errors.Join(err, f.Close())
	}
	return p, func() error { return <-result }, nil
}

func damaged(f *os.File, err error) error {
	return fleet.Errorf(fleet.KindPermanent, "the stored package %s is damaged, create it again: %w", f.Name(), err)
}

// verify compares a stored package's digest.
func verify(f *os.File, digest string) error {
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{io.NewSectionReader(f, 0, 1<<62)}, make([]byte, 256<<10)); err != nil {
		return damaged(f, err)
	}
	if hex.EncodeToString(h.Sum(nil)) != digest {
		return damaged(f, errors.New("its digest differs"))
	}
	return nil
}

// index finds out what a stored package holds, and passes over contents.
func index(f *os.File, limits Limits) (*Package, error) {
	o := Options{Limits: limits.withDefaults()}
	// Origins came on top of what the limits allowed.
	o.Limits.Bytes += o.Limits.NameBytes*4 + o.Limits.ManifestBytes
	o.Limits.Members += 3
	c := newCollector(&spool{f: f}, o.Limits)
	// tar.Reader reads a member's header and not a byte more, and seeks over the content.
	here := func(_ io.Reader, size int64) (int64, error) {
		if size > c.limits.Bytes-c.written {
			return 0, tooManyBytes(c.limits.Bytes)
		}
		c.written += size
		return f.Seek(0, io.SeekCurrent)
	}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = c.addMember(h, tr, here)
		}
		if err != nil {
			return nil, damaged(f, err)
		}
	}
	tree, err := c.finish()
	if err != nil {
		return nil, damaged(f, err)
	}
	p, err := assemble(tree, o)
	if err == nil {
		err = p.takeOrigins(tree)
	}
	if err != nil {
		return nil, damaged(f, err)
	}
	p.spool = f
	return p, nil
}
