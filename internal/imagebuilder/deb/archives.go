package deb

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"dormouse/internal/fleet"
)

// archives is a directory of .deb files, which only one Fetch at a time uses.
type archives struct {
	dir   string
	limit int64
	max   int64
	lock  *os.File
	held  bool
}

// openArchives opens the cache, or a directory of private where there is none.
func openArchives(o Options, private string) (*archives, error) {
	s := &archives{dir: o.CacheDir, limit: o.CacheBytes, max: maxBytes(o)}
	if s.limit <= 0 {
		s.limit = DefaultCacheBytes
	}
	if s.dir == "" {
		s.dir = filepath.Join(private, "archives")
	}
	dir, err := filepath.Abs(s.dir)
	if err == nil {
		s.dir = dir
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		s.lock, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	}
	if err != nil {
		return nil, storageError("opening the cache of Debian packages", err)
	}
	return s, nil
}

// acquire waits until no other Fetch uses the directory.
func (s *archives) acquire(ctx context.Context) error {
	for {
		err := syscall.Flock(int(s.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			s.held = true
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return storageError("locking the cache of Debian packages", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// download brings every package of the closure into the directory, checks it and
// notes where it lies. It keeps the directory locked until close, so that nobody
// takes away what is yet to be unpacked.
func (s *archives) download(ctx context.Context, a *apt, all *closure) error {
	if err := s.acquire(ctx); err != nil {
		return err
	}
	var total int64
	for _, r := range all.all {
		total += r.size
	}
	if total > s.max {
		return invalid("the named Debian packages have %d MiB with what they depend on, more than %d: name a smaller one", total>>20, s.max>>20)
	}
	// A file that was damaged in the cache is fetched once more.
	for range 2 {
		missing, err := s.find(all)
		if err != nil || len(missing) == 0 {
			return err
		}
		if err := os.MkdirAll(filepath.Join(s.dir, "partial"), 0o755); err != nil {
			return storageError("downloading Debian packages", err)
		}
		args := []string{"-o", "Dir::Cache::archives=" + s.dir + "/", "--download-only", "--assume-yes", "--quiet", "install"}
		for _, r := range all.all {
			args = append(args, r.name+"="+r.version)
		}
		if _, err := a.run(ctx, "apt-get", args...); err != nil {
			return downloadError(err)
		}
		if missing, err = s.find(all); err != nil || len(missing) == 0 {
			return err
		}
		if err := s.copyLocal(ctx, a, args); err != nil {
			return err
		}
	}
	missing, err := s.find(all)
	if err != nil || len(missing) == 0 {
		return err
	}
	return fleet.Errorf(fleet.KindUnavailable, "downloading Debian packages: %s did not come as the package lists say: run `apt-get update` and ask again", missing[0].name)
}

// localURI is a line of apt-get --print-uris for a package on this machine: URI, what
// apt calls the file, and its size.
var localURI = regexp.MustCompile(`(?m)^'file:([^']+)' (\S+\.deb) ([0-9]+)`)

// copyLocal copies what lies in an archive of this machine's (file:), which apt
// leaves where it is.
func (s *archives) copyLocal(ctx context.Context, a *apt, args []string) error {
	out, err := a.run(ctx, "apt-get", append([]string{"--print-uris"}, args...)...)
	if err != nil {
		return downloadError(err)
	}
	for _, line := range localURI.FindAllStringSubmatch(out, -1) {
		from, err := url.PathUnescape(line[1])
		if err != nil || filepath.Base(line[2]) != line[2] {
			continue // it is reported missing
		}
		if err := copyFile(from, filepath.Join(s.dir, line[2]), s.max); err != nil {
			return storageError("copying a Debian package", err)
		}
	}
	return nil
}

func copyFile(from, to string, limit int64) error {
	in, err := os.Open(from)
	if err != nil {
		return fleet.Errorf(fleet.KindUnavailable, "opening a Debian package of an archive on this machine: %w", err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(in, limit))
	return errors.Join(err, out.Close())
}

func downloadError(err error) error {
	failed := (*aptError)(nil)
	switch {
	case !errors.As(err, &failed):
		return err
	case strings.Contains(failed.said, "No space left") || strings.Contains(failed.said, "don't have enough free space"):
		return fleet.Errorf(fleet.KindCapacity, "downloading Debian packages: the disk is full, free some space in the data directory: %w", err)
	case strings.Contains(failed.said, "unauthenticated packages"):
		return fleet.Errorf(fleet.KindInvalid, "downloading Debian packages: their archive is not signed by a key that apt knows: %w", err)
	}
	return fleet.Errorf(fleet.KindUnavailable, "downloading Debian packages: %w: `apt-get update` renews the package lists", err)
}

// find notes the files that are there and right, and returns what is missing.
// A wrong file is removed.
func (s *archives) find(all *closure) (missing []*record, err error) {
	now := time.Now()
	for _, r := range all.all {
		if r.file != "" {
			continue
		}
		path := filepath.Join(s.dir, fileName(r))
		sum, err := digest(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, r)
		case err != nil:
			return nil, storageError("reading a downloaded Debian package", err)
		case sum != r.sha256:
			if err := os.Remove(path); err != nil {
				return nil, storageError("removing a damaged Debian package", err)
			}
			missing = append(missing, r)
		default:
			r.file = path
			// What was used last is kept longest.
			if err := os.Chtimes(path, now, now); err != nil {
				return nil, storageError("using a downloaded Debian package", err)
			}
		}
	}
	return missing, nil
}

// fileName is what apt calls a package's file (apt-pkg/acquire-item.cc: QuoteString with "_:").
func fileName(r *record) string {
	quote := strings.NewReplacer("_", "%5f", ":", "%3a")
	return quote.Replace(r.name) + "_" + quote.Replace(r.version) + "_" + quote.Replace(r.architecture) + ".deb"
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// close removes what was used longest ago until the directory is within its
// limit, and lets others in.
func (s *archives) close() error {
	var err error
	if s.held {
		err = s.trim()
	}
	return errors.Join(err, s.lock.Close())
}

func (s *archives) trim() error {
	// Half of a file is of use to nobody who does not hold the lock.
	if err := os.RemoveAll(filepath.Join(s.dir, "partial")); err != nil {
		return storageError("trimming the cache of Debian packages", err)
	}
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was a directory of this Fetch
	}
	if err != nil {
		return storageError("trimming the cache of Debian packages", err)
	}
	var files []fs.FileInfo
	var total int64
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && strings.HasSuffix(e.Name(), ".deb") {
			files = append(files, info)
			total += info.Size()
		}
	}
	slices.SortFunc(files, func(x, y fs.FileInfo) int {
		return cmp.Or(x.ModTime().Compare(y.ModTime()), strings.Compare(x.Name(), y.Name()))
	})
	for _, f := range files {
		if total <= s.limit {
			return nil
		}
		if err := os.Remove(filepath.Join(s.dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return storageError("trimming the cache of Debian packages", err)
		}
		total -= f.Size()
	}
	return nil
}
