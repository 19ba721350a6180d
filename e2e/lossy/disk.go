package lossy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Disk is a mounted disk. Its methods may be called concurrently.
type Disk struct {
	dir string

	// life is held by Restart, Close and nobody else.
	life   sync.Mutex
	server *fuse.Server
	// device is the mounted disk's, by which the kernel knows the connection.
	device uint64

	// mu guards what follows. A call that changes no name holds it for reading, so that
	// Cut comes before or after it.
	mu   sync.RWMutex
	cut  bool
	root *inode
	last uint64
	// inodes are those that the kernel knows.
	inodes map[uint64]*inode
	// syncs counts.
	syncs atomic.Uint64
}

// Usable says what is missing for a disk on this machine; nil where nothing is.
func Usable() error {
	if os.Geteuid() != 0 {
		return errors.New("mounting a disk that loses its power: run the test as root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return fmt.Errorf("mounting a disk that loses its power: %w: modprobe fuse", err)
	}
	return nil
}

// New makes an empty disk and mounts it at dir, which must be there.
func New(dir string) (*Disk, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("mounting a disk: %w", err)
	}
	d := &Disk{dir: dir, inodes: map[uint64]*inode{}, last: fuse.FUSE_ROOT_ID}
	d.root = &inode{id: fuse.FUSE_ROOT_ID, entries: map[string]*inode{}, keptEntries: map[string]*inode{}, links: 1, keptLinks: 1}
	d.root.seen = attributes{mode: syscall.S_IFDIR | 0o755, modified: time.Now()}
	d.root.kept = d.root.seen
	d.inodes[d.root.id] = d.root
	return d, d.mount()
}

// mount needs d.life, or that nobody has the disk yet.
func (d *Disk) mount() error {
	// The library's descriptor is not to reach processes that are started meanwhile: as
	// long as anybody has it, whoever waits for a disk whose server has died waits on.
	syscall.ForkLock.RLock()
	server, err := fuse.NewServer(&files{RawFileSystem: fuse.NewDefaultRawFileSystem(), d: d}, d.dir, &fuse.MountOptions{
		AllowOther: true, Options: []string{"default_permissions"}, DirectMountStrict: true, FsName: "lossy", Name: "lossy",
		DisableXAttrs: true, ExplicitDataCacheControl: true, DisableReadDirPlus: true, DisableSplice: true, MaxWrite: 1 << 20,
	})
	keepDescriptors()
	syscall.ForkLock.RUnlock()
	if err != nil {
		return fmt.Errorf("mounting a disk at %s: %w: it needs root and /dev/fuse", d.dir, err)
	}
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		return errors.Join(fmt.Errorf("mounting a disk at %s: %w", d.dir, err), server.Unmount())
	}
	d.server = server
	var st unix.Stat_t
	if err := unix.Stat(d.dir, &st); err != nil {
		return errors.Join(fmt.Errorf("looking at the disk at %s: %w", d.dir, err), d.unmount())
	}
	d.device = st.Dev
	d.unbridle()
	return nil
}

// keepDescriptors has the kernel close every open /dev/fuse in processes that this one starts.
func keepDescriptors() {
	const own = "/proc/self/fd"
	entries, _ := os.ReadDir(own)
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		target, linkErr := os.Readlink(filepath.Join(own, entry.Name()))
		if err == nil && linkErr == nil && target == "/dev/fuse" {
			unix.CloseOnExec(fd)
		}
	}
}

// unbridle lets mapped files have as many unwritten pages as those of any other
// disk; without it a machine whose memory they are crawls. Where it can't be, it crawls.
func (d *Disk) unbridle() {
	bdi := fmt.Sprintf("/sys/class/bdi/%d:%d/", unix.Major(d.device), unix.Minor(d.device))
	_ = os.WriteFile(bdi+"strict_limit", []byte("0"), 0)
	_ = os.WriteFile(bdi+"max_ratio", []byte("100"), 0)
}

// Cut takes the power away: what was not synced is gone, and every call fails
// with EIO until Restart. It may be called again.
func (d *Disk) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut = true
}

// Restart gives a disk its power back after Cut, with what was kept.
func (d *Disk) Restart() error {
	d.life.Lock()
	defer d.life.Unlock()
	d.mu.RLock()
	on := !d.cut
	d.mu.RUnlock()
	if on {
		return errors.New("restarting a disk: its power was not cut")
	}
	if err := d.unmount(); err != nil {
		return err
	}
	d.mu.Lock()
	err := d.restore()
	d.cut = err != nil
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("restarting a disk: %w", err)
	}
	return d.mount()
}

// Syncs returns how often a file or a directory was synced.
func (d *Disk) Syncs() uint64 { return d.syncs.Load() }

// Close unmounts the disk and forgets what is on it.
func (d *Disk) Close() error {
	d.life.Lock()
	defer d.life.Unlock()
	d.Cut()
	return d.unmount()
}

// unmount ends every connection, whoever still has a file open. Needs d.life.
func (d *Disk) unmount() error {
	if d.server == nil {
		return nil
	}
	// First, while the number is this disk's.
	if err := abort(d.device); err != nil {
		return fmt.Errorf("ending the connection of the disk at %s: %w", d.dir, err)
	}
	if err := unix.Unmount(d.dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmounting the disk at %s: %w", d.dir, err)
	}
	d.server.Wait()
	d.server = nil
	return nil
}

// abort ends a connection, which somebody's open file, or a mount in somebody
// else's namespace, would keep open.
func abort(device uint64) (err error) {
	control, err := os.MkdirTemp("", "lossy-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(control)) }()
	if err := unix.Mount("fusectl", control, "fusectl", 0, ""); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Unmount(control, unix.MNT_DETACH)) }()
	return os.WriteFile(fmt.Sprintf("%s/%d/abort", control, unix.Minor(device)), []byte("1"), 0)
}
