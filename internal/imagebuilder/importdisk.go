package imagebuilder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/diskimport"
	"dormouse/internal/imagebuilder/qemuimg"
	"dormouse/internal/imagebuilder/source"
)

// ImportDisk does as Import does with a disk that exists already (see package
// diskimport), to be booted as it is: the package is for fleet.KernelDisk. Of
// o.Overlay only the keys count; o.Kernel must be empty or that.
func (b *Builder) ImportDisk(ctx context.Context, r io.Reader, o ImportOptions) (fleet.Package, error) {
	r = b.trust.watch(&o, r)
	return b.importPackage(ctx, o, func(so source.Options) (*source.Package, error) {
		return source.FromDisk(ctx, func(ctx context.Context, path string) (string, error) {
			return layDisk(ctx, r, path, b.limits)
		}, so)
	})
}

// layDisk spools the disk beside path, and packs it there: it comes in any
// format, and is kept in one.
func layDisk(ctx context.Context, r io.Reader, path string, limits source.Limits) (string, error) {
	upload, raw := filepath.Join(filepath.Dir(path), "upload"), filepath.Join(filepath.Dir(path), "raw")
	if limits.Bytes <= 0 {
		limits.Bytes = source.DefaultBytes
	}
	digest, err := spool(ctx, r, upload, limits.Bytes)
	if err != nil {
		return "", storageError("taking the disk", err)
	}
	if _, err := diskimport.Import(ctx, upload, raw, diskimport.Options{WorkDir: filepath.Dir(path)}); err != nil {
		return "", storageError("taking the disk", err)
	}
	if err := os.Remove(upload); err != nil { // it may be large
		return "", storageError("taking the disk", err)
	}
	if err := qemuimg.Pack(ctx, qemuimg.Source{Path: raw, Driver: "raw"}, path); err != nil {
		return "", storageError("packing the disk", err)
	}
	return digest, storageError("packing the disk", os.Remove(raw))
}

// spool writes what is read to a new file, at most limit bytes, and returns its SHA-256.
func spool(ctx context.Context, r io.Reader, path string, limit int64) (_ string, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(f, h), struct{ io.Reader }{io.LimitReader(contextReader{ctx, r}, limit+1)}, make([]byte, 256<<10))
	if err != nil {
		return "", err
	}
	if n > limit {
		return "", fleet.Errorf(fleet.KindInvalid, "the disk has more than %d MiB as a file: compress it with `qemu-img convert -c -O qcow2`", limit>>20)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
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
