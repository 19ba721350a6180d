package releases

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"

	"dormouse/internal/fleet"
)

// needed are the files without which a release of a kind is none.
func needed(kind fleet.KernelKind) []string {
	if kind == fleet.KernelNanos {
		return []string{"boot.img", "kernel.img"}
	}
	return nil
}

// fileName is the name of a file of a release.
var fileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Add fetches a release by its address (http or https), checks its SHA-256 and
// makes it the current one. One that is here already is not fetched again.
// KindInvalid: what is asked for, or what came, is wrong; KindUnavailable: it
// can't be fetched now; KindCapacity: the disk is full. Nothing is kept where it fails.
func (s *Store) Add(ctx context.Context, kind fleet.KernelKind, address, digest string) (r fleet.KernelRelease, err error) {
	switch {
	case needed(kind) == nil:
		return r, fleet.InvalidField("kind", "kernels of the kind %q are not fetched: only nanos is", kind)
	case !digestPattern.MatchString(digest):
		return r, fleet.InvalidField("sha256", "%q is no SHA-256: give its 64 hexadecimal digits in lower case", digest)
	}
	u, err := url.Parse(address)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
		return r, fleet.InvalidField("url", "%q is no address of an archive: give an http or https URL without a password", address)
	}
	r = fleet.KernelRelease{Kind: kind, SHA256: digest, URL: address, Current: true, CreatedAt: time.Now().UTC()}
	dir := filepath.Join(s.o.Dir, string(kind))
	if _, err := os.Stat(filepath.Join(dir, digest)); errors.Is(err, fs.ErrNotExist) {
		if err := s.fetch(ctx, r, dir); err != nil {
			return r, full(err)
		}
	} else if err != nil {
		return r, err
	}
	return r, full(s.Use(kind, digest))
}

func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fleet.Errorf(fleet.KindCapacity, "keeping the kernel release: the disk is full, free some space in the data directory: %w", err)
	}
	return err
}

// fetch brings the release into its place.
func (s *Store) fetch(ctx context.Context, r fleet.KernelRelease, dir string) (err error) {
	temp, err := os.MkdirTemp(s.o.Dir, "tmp-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	archive, err := os.Create(filepath.Join(temp, "archive"))
	if err != nil {
		return err
	}
	defer archive.Close()
	if err := s.download(ctx, r, archive); err != nil {
		return err
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return err
	}
	unpacked := filepath.Join(temp, "release")
	if err := os.Mkdir(unpacked, 0o755); err != nil {
		return err
	}
	if err := unpack(archive, unpacked, s.o.MaxBytes); err != nil {
		return err
	}
	for _, name := range needed(r.Kind) {
		if _, err := os.Stat(filepath.Join(unpacked, name)); err != nil {
			return fleet.Errorf(fleet.KindInvalid, "the archive holds no %s: it is no release of the kernel %s", name, r.Kind)
		}
	}
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(dir, r.SHA256+".json"), append(body, '\n')); err != nil {
		return err
	}
	err = os.Rename(unpacked, filepath.Join(dir, r.SHA256))
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil // another was faster, with the same content
	}
	return err
}

// download writes the archive to f and checks its digest.
func (s *Store) download(ctx context.Context, r fleet.KernelRelease, f *os.File) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL, nil)
	if err != nil {
		return fleet.InvalidField("url", "fetching the kernel release: %w", err)
	}
	answer, err := s.o.HTTP.Do(request)
	if err != nil {
		return fleet.Errorf(fleet.KindUnavailable, "fetching the kernel release: %w", err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fleet.InvalidField("url", "fetching the kernel release: the server answered %s", answer.Status)
	}
	hash := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, hash), io.LimitReader(answer.Body, s.o.MaxBytes+1))
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return err
	case err != nil:
		return fleet.Errorf(fleet.KindUnavailable, "fetching the kernel release: %w", err)
	case n > s.o.MaxBytes:
		return fleet.InvalidField("url", "the archive is larger than %d MiB: it is no kernel release", s.o.MaxBytes>>20)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != r.SHA256 {
		return fleet.InvalidField("sha256", "the archive at %s has the SHA-256 %s, not %s: check where the digest is from before you trust it", r.URL, got, r.SHA256)
	}
	return f.Sync()
}

// unpack keeps the files of a release and nothing else.
func unpack(archive io.Reader, dir string, limit int64) error {
	zr, err := gzip.NewReader(archive)
	if err != nil {
		return fleet.Errorf(fleet.KindInvalid, "the archive is no tar.gz: %w", err)
	}
	var written int64
	// What is passed over takes time too.
	for tr := tar.NewReader(io.LimitReader(zr, 4*limit)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fleet.Errorf(fleet.KindInvalid, "reading the archive: %w", err)
		}
		to, ok := placeOf(h)
		if !ok {
			continue
		}
		if written += h.Size; h.Size < 0 || written > limit {
			return fleet.Errorf(fleet.KindInvalid, "the archive holds more than %d MiB: it is no kernel release", limit>>20)
		}
		to = filepath.Join(dir, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := write(to, tr); err != nil {
			return err
		}
	}
}

// placeOf returns where in the release a member belongs: at its top, or in klibs.
func placeOf(h *tar.Header) (string, bool) {
	if h.Typeflag != tar.TypeReg {
		return "", false
	}
	dir, name := path.Split(path.Clean(h.Name))
	if !fileName.MatchString(name) {
		return "", false
	}
	if path.Base(dir) == "klibs" {
		return "klibs/" + name, true
	}
	return name, slices.Contains([]string{"boot.img", "kernel.img", "bootx64.efi", "bootaa64.efi"}, name)
}

func write(to string, from io.Reader) error {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return fleet.Errorf(fleet.KindInvalid, "the archive holds %s twice: it is no kernel release", filepath.Base(to))
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		err = fleet.Errorf(fleet.KindInvalid, "reading the archive: %w", err)
	}
	return err
}
