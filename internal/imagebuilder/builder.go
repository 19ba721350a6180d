package imagebuilder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/sirupsen/logrus"
	"golang.org/x/sync/singleflight"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

// Version names the way in which images are built. It is part of every image's
// ID: raise it whenever equal inputs would give another image.
const Version = "1"

// DefaultMaxBuilds is how many images are built at once where Options does not say.
const DefaultMaxBuilds = 2

// Options configure a Builder.
type Options struct {
	// Dir is where packages and images are kept; made if missing, readable by all.
	Dir string
	// Kernels are what images can be built for, one of a kind.
	Kernels []Kernel
	// Log takes one line per import and build; required.
	Log logrus.FieldLogger
	// MaxBuilds bounds the builds at once in this process; 0 is DefaultMaxBuilds.
	MaxBuilds int
	// Limits bound what a package may hold; zero fields take source's defaults.
	Limits source.Limits
	// Trust has sources taken only that one of the keys has signed; empty takes all.
	Trust Trust
}

// Builder imports packages and builds images. It is safe for concurrent use,
// also by several processes on the same Dir.
type Builder struct {
	dir     string
	kernels map[fleet.KernelKind]Kernel
	log     logrus.FieldLogger
	limits  source.Limits
	trust   Trust
	tokens  chan struct{} // holds one per build under way
	builds  builds
	digests Digests // of images' files
	flights singleflight.Group

	life    context.Context // ends with Close
	end     context.CancelFunc
	closing sync.Mutex
	closed  bool
	running sync.WaitGroup // builds, which outlive those who asked
}

// New opens the directory, makes what is missing of it, and removes what
// processes that died have left half made.
func New(o Options) (*Builder, error) {
	b := &Builder{
		dir: o.Dir, kernels: map[fleet.KernelKind]Kernel{}, log: o.Log, limits: o.Limits, trust: o.Trust,
		builds: builds{byID: map[fleet.ImageID]*build{}},
	}
	if o.MaxBuilds <= 0 {
		o.MaxBuilds = DefaultMaxBuilds
	}
	b.tokens = make(chan struct{}, o.MaxBuilds)
	for _, k := range o.Kernels {
		if _, ok := b.kernels[k.Kind()]; ok {
			return nil, fmt.Errorf("opening the image builder: two kernels of the kind %s", k.Kind())
		}
		b.kernels[k.Kind()] = k
	}
	if !filepath.IsAbs(o.Dir) {
		return nil, fmt.Errorf("opening the image builder: the directory %q is not absolute", o.Dir)
	}
	// Instances run as users of their own and read images; packages are not theirs to see.
	for _, d := range []struct {
		name string
		mode os.FileMode
	}{{"", 0o755}, {"images", 0o755}, {"packages", 0o700}, {"tmp", 0o700}} {
		if err := makeDir(filepath.Join(o.Dir, d.name), d.mode); err != nil {
			return nil, storageError("opening the image builder", err)
		}
	}
	if err := b.removeLeftovers(); err != nil {
		return nil, storageError("removing what was left half made", err)
	}
	b.life, b.end = context.WithCancel(context.Background())
	return b, nil
}

// Close stops the builds under way, which leave nothing behind, and waits for them.
func (b *Builder) Close() {
	b.closing.Lock()
	b.closed = true
	b.closing.Unlock()
	b.end()
	b.running.Wait()
}

// begin counts a build in, unless the Builder is closed.
func (b *Builder) begin() bool {
	b.closing.Lock()
	defer b.closing.Unlock()
	if b.closed {
		return false
	}
	b.running.Add(1)
	return true
}

func (b *Builder) kernel(kind fleet.KernelKind) (Kernel, error) {
	if k, ok := b.kernels[kind]; ok {
		return k, nil
	}
	var have []string
	for k := range b.kernels {
		have = append(have, string(k))
	}
	slices.Sort(have)
	return nil, fleet.InvalidField("kernel", "there is no kernel %q here: use one of %s", kind, strings.Join(have, ", "))
}

// makeDir makes a directory with that mode, whatever the umask. One that is
// there keeps what it allows beyond that.
func makeDir(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm()&mode == mode {
		return err
	}
	return os.Chmod(dir, info.Mode().Perm()|mode)
}

// storageError gives a failure of our own directory its kind.
func storageError(doing string, err error) error {
	var typed *fleet.Error
	switch {
	case err == nil || errors.As(err, &typed) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fleet.Errorf(fleet.KindCapacity, "%s: the disk is full, free some space in the data directory: %w", doing, err)
	}
	return fleet.Errorf(fleet.KindInternal, "%s: %w", doing, err)
}

// syncTree writes a directory, and all in it, out to the disk, and makes it readable by all.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if d.IsDir() {
			mode = 0o755
		}
		if info, err := d.Info(); err != nil {
			return err
		} else if info.Mode().Perm() != mode {
			if err := os.Chmod(p, mode); err != nil {
				return err
			}
		}
		return syncPath(p)
	})
}

func syncPath(p string) error {
	f, err := os.Open(p)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
