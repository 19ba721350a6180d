package releases

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

var digestPattern = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Options configure a Store.
type Options struct {
	// Dir is where releases are kept; made if missing.
	Dir string
	// HTTP fetches; a client with a time limit of its own where nil.
	HTTP *http.Client
	// MaxBytes bounds an archive, and what it holds unpacked; 0 is DefaultMaxBytes.
	MaxBytes int64
}

// DefaultMaxBytes bounds a release where Options does not say.
const DefaultMaxBytes = 256 << 20

// fetchTimeout bounds the fetch of one release.
const fetchTimeout = 10 * time.Minute

// Store keeps releases. It is safe for concurrent use, also by several
// processes on one directory.
type Store struct{ o Options }

// Open makes the directory and removes what a fetch that was cut has left.
func Open(o Options) (*Store, error) {
	if o.HTTP == nil {
		o.HTTP = &http.Client{Timeout: fetchTimeout}
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening the kernels' directory: %w", err)
	}
	left, err := filepath.Glob(filepath.Join(o.Dir, "tmp-*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range left {
		// One that another process is at is younger than any fetch may last.
		if info, err := os.Stat(dir); err != nil || time.Since(info.ModTime()) < 2*fetchTimeout {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("removing what a fetch has left: %w", err)
		}
	}
	return &Store{o: o}, nil
}

// List returns the releases that are here, by kind and digest.
func (s *Store) List() ([]fleet.KernelRelease, error) {
	files, err := filepath.Glob(filepath.Join(s.o.Dir, "*", "*.json"))
	if err != nil {
		return nil, err
	}
	all := []fleet.KernelRelease{}
	for _, f := range files {
		var r fleet.KernelRelease
		body, err := os.ReadFile(f)
		if err == nil {
			err = json.Unmarshal(body, &r)
		}
		if err != nil {
			return nil, fleet.Errorf(fleet.KindInternal, "reading what is known of a kernel release: %w", err)
		}
		r.Current = s.current(r.Kind) == r.SHA256
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b fleet.KernelRelease) int {
		return strings.Compare(string(a.Kind)+a.SHA256, string(b.Kind)+b.SHA256)
	})
	return all, nil
}

// Dir returns the directory of the release that new images of that kind are
// built with; empty where there is none.
func (s *Store) Dir(kind fleet.KernelKind) string {
	digest := s.current(kind)
	if digest == "" {
		return ""
	}
	return filepath.Join(s.o.Dir, string(kind), digest)
}

func (s *Store) current(kind fleet.KernelKind) string {
	body, err := os.ReadFile(filepath.Join(s.o.Dir, string(kind), "current"))
	digest := strings.TrimSpace(string(body))
	if err != nil || !digestPattern.MatchString(digest) {
		return ""
	}
	return digest
}

// Use makes a release that is here the current one; KindNotFound where it is not.
func (s *Store) Use(kind fleet.KernelKind, digest string) error {
	if !digestPattern.MatchString(digest) {
		return fleet.InvalidField("sha256", "%q is no SHA-256: give its 64 hexadecimal digits", digest)
	}
	dir := filepath.Join(s.o.Dir, string(kind))
	if _, err := os.Stat(filepath.Join(dir, digest)); errors.Is(err, fs.ErrNotExist) {
		return fleet.Errorf(fleet.KindNotFound, "there is no release %s of the kernel %s here: add it", digest, kind)
	}
	return replaceFile(filepath.Join(dir, "current"), []byte(digest+"\n"))
}

// replaceFile leaves the old file or the new one, whatever happens.
func replaceFile(path string, body []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(body)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
