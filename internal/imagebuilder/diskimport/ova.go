package diskimport

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha1" // old packages have no better digests; these guard against damage, not against forgery
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

const (
	// maxMembers bounds what is in a package; real ones have three to five.
	maxMembers = 64
	// maxManifest bounds the manifest, in bytes.
	maxManifest = 1 << 20
)

// unpacked is what was found in an OVA.
type unpacked struct {
	disk string // where its disk was unpacked to
	name string // of the disk in the package
	sums map[string]string
	// manifest says which digest a member has: name → algorithm and digest.
	manifest map[string][2]string
}

// unpackOVA reads an OVF package in one file (DSP0243) and unpacks its only disk
// into work, under a name of ours. The descriptor's machine is not looked at: what
// an installation has, its owner says.
func unpackOVA(ctx context.Context, r io.Reader, work string, maxBytes int64) (unpacked, error) {
	u := unpacked{}
	tr := tar.NewReader(bufio.NewReaderSize(contextReader{ctx, r}, 128<<10))
	for members := 0; ; members++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		switch {
		case ctx.Err() != nil:
			return u, ctx.Err()
		case err != nil:
			return u, invalid("the OVA is damaged: %w", err)
		case members >= maxMembers:
			return u, invalid("the OVA has more than %d files", maxMembers)
		case h.Typeflag != tar.TypeReg:
			return u, invalid("the OVA holds %q, which is no regular file", h.Name)
		}
		switch strings.ToLower(filepath.Ext(h.Name)) {
		case ".vmdk":
			if u.disk != "" {
				return u, invalid("the OVA has several disks: export a machine with one")
			}
			u.disk, u.name = filepath.Join(work, "disk.vmdk"), h.Name
			if u.sums, err = unpackDisk(tr, u.disk, maxBytes); err != nil {
				return u, err
			}
		case ".mf":
			text, err := io.ReadAll(io.LimitReader(tr, maxManifest+1))
			if err != nil || len(text) > maxManifest {
				return u, invalid("the OVA's manifest is damaged or too large")
			}
			u.manifest = parseManifest(string(text))
		}
	}
	if u.disk == "" {
		return u, invalid("the archive holds no vmdk: it is no OVA of a machine with a disk")
	}
	return u, u.verify()
}

// unpackDisk writes a member to a new file and returns its digests by algorithm.
func unpackDisk(r io.Reader, path string, maxBytes int64) (_ map[string]string, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, storageError("unpacking the OVA", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hashes := map[string]hash.Hash{"SHA1": sha1.New(), "SHA256": sha256.New(), "SHA512": sha512.New()}
	// A vmdk that holds nothing but tables of its own is hardly larger than its disk.
	limit := maxBytes + maxBytes/8 + 1<<20
	n, err := io.CopyBuffer(io.MultiWriter(f, hashes["SHA1"], hashes["SHA256"], hashes["SHA512"]), io.LimitReader(r, limit+1), make([]byte, 128<<10))
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, invalid("the OVA is cut off")
	}
	if err != nil {
		return nil, storageError("unpacking the OVA", err)
	}
	if n > limit {
		return nil, invalid("the OVA's disk has more than %d bytes", limit)
	}
	sums := map[string]string{}
	for name, h := range hashes {
		sums[name] = hex.EncodeToString(h.Sum(nil))
	}
	return sums, nil
}

var manifestLine = regexp.MustCompile(`^(SHA1|SHA256|SHA512) ?\(([^()]*)\) ?= ?([0-9a-fA-F]+)\s*$`)

func parseManifest(text string) map[string][2]string {
	m := map[string][2]string{}
	for line := range strings.Lines(text) {
		if p := manifestLine.FindStringSubmatch(strings.TrimSpace(line)); p != nil {
			m[p[2]] = [2]string{p[1], strings.ToLower(p[3])}
		}
	}
	return m
}

// verify compares the disk with what the package's manifest says, if it has one.
func (u unpacked) verify() error {
	want, ok := u.manifest[u.name]
	if !ok && len(u.manifest) > 0 {
		return invalid("the OVA's manifest does not name its disk %q", u.name)
	}
	if ok && u.sums[want[0]] != want[1] {
		return invalid("the OVA is damaged: its disk does not have the %s of the manifest", want[0])
	}
	return nil
}

// lookPacked tells what the disk out of a package is.
func lookPacked(u unpacked) (disk, error) {
	f, err := os.Open(u.disk)
	if err != nil {
		return disk{}, fmt.Errorf("importing a disk: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return disk{}, fmt.Errorf("importing a disk: %w", err)
	}
	var magic [4]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil || string(magic[:]) != "KDMV" {
		return disk{}, invalid("the OVA's disk %q is no sparse vmdk, as packages have them", u.name)
	}
	size, err := lookVMDK(f, info.Size())
	return disk{OVA, u.disk, "vmdk", size}, err
}

// contextReader ends when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
