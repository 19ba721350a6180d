package lossy

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// attributes are what is known of an inode besides its content. A regular file's
// size and times are its content's.
type attributes struct {
	mode, uid, gid, rdev uint32
	// modified is of anything but regular files, and of what is kept.
	modified time.Time
}

// inode is a file, a directory or something else, as it is seen and as it is kept.
type inode struct {
	id         uint64
	seen, kept attributes
	// lookups counts the kernel's references, links and keptLinks the names.
	lookups          uint64
	links, keptLinks int

	// content and keptContent are of regular files; the latter is nil until the
	// first sync. They may differ where unsynced says. syncing is held while they are made the same.
	content, keptContent *os.File
	unsynced             parts
	syncing              sync.Mutex

	// entries and keptEntries are of directories; where it lies itself is for the path to it.
	entries, keptEntries map[string]*inode
	parent, keptParent   *inode
	name, keptName       string

	// target is of symbolic links.
	target string
}

func (n *inode) kind() uint32 { return n.seen.mode & syscall.S_IFMT }

// newInode makes an inode with no name. Needs d.mu.
func (d *Disk) newInode(mode, rdev uint32, by fuse.Caller) (*inode, error) {
	d.last++
	n := &inode{id: d.last, seen: attributes{mode: mode, uid: by.Uid, gid: by.Gid, rdev: rdev, modified: time.Now()}}
	switch n.kind() {
	case syscall.S_IFREG:
		var err error
		if n.content, err = memory(); err != nil {
			return nil, err
		}
	case syscall.S_IFDIR:
		n.entries, n.keptEntries = map[string]*inode{}, map[string]*inode{}
	}
	return n, nil
}

// memory makes a file that is nowhere but in memory.
func memory() (*os.File, error) {
	fd, err := unix.MemfdCreate("lossy", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "lossy"), nil
}

// drop frees what nobody can reach any more. Needs d.mu.
func (d *Disk) drop(n *inode) {
	if n.lookups > 0 || n.links > 0 {
		return
	}
	delete(d.inodes, n.id)
	if n.content != nil {
		_ = n.content.Close()
		n.content = nil
	}
	if n.keptLinks == 0 && n.keptContent != nil {
		_ = n.keptContent.Close()
		n.keptContent = nil
	}
}

// fill writes what is seen of an inode into a. Needs d.mu for reading.
func (n *inode) fill(a *fuse.Attr) error {
	*a = fuse.Attr{Ino: n.id, Mode: n.seen.mode, Nlink: uint32(n.links), Rdev: n.seen.rdev, Blksize: 4096,
		Owner: fuse.Owner{Uid: n.seen.uid, Gid: n.seen.gid}, Size: uint64(len(n.target))}
	modified := n.seen.modified
	if n.content != nil {
		var st unix.Stat_t
		if err := unix.Fstat(int(n.content.Fd()), &st); err != nil {
			return err
		}
		a.Size, a.Blocks = uint64(st.Size), uint64(st.Blocks)
		modified = time.Unix(st.Mtim.Unix())
	}
	if n.entries != nil {
		a.Nlink = 2
	}
	a.SetTimes(&modified, &modified, &modified)
	return nil
}

// keep makes what is kept of a file what is seen of it; of its content and size
// only where that is all. Needs d.mu for reading.
func (n *inode) keep(contentOnly bool) error {
	n.syncing.Lock()
	defer n.syncing.Unlock()
	if n.content == nil {
		n.kept = n.seen
		return nil
	}
	if n.keptContent == nil {
		var err error
		if n.keptContent, err = memory(); err != nil {
			return err
		}
	}
	if err := n.keepParts(); err != nil {
		return err
	}
	if contentOnly && n.kept.mode != 0 {
		return nil
	}
	info, err := n.content.Stat()
	if err != nil {
		return err
	}
	n.kept = n.seen
	n.kept.modified = info.ModTime()
	return nil
}

// keepNames makes the names that are kept of a directory those that are seen, and
// keeps the path to it. Needs d.mu.
func (d *Disk) keepNames(dir *inode) {
	for name, n := range dir.keptEntries {
		if dir.entries[name] != n {
			d.unkeep(dir, name)
		}
	}
	for name, n := range dir.entries {
		d.keepName(dir, name, n)
	}
	dir.kept = dir.seen
	for n := dir; n.parent != nil; n = n.parent {
		d.keepName(n.parent, n.name, n)
	}
}

// keepName keeps one name of a directory. Needs d.mu.
func (d *Disk) keepName(dir *inode, name string, n *inode) {
	if dir.keptEntries[name] == n {
		return
	}
	d.unkeep(dir, name)
	if n.entries != nil { // a directory lies in one place
		if n.keptParent != nil {
			delete(n.keptParent.keptEntries, n.keptName)
			n.keptLinks--
		}
		n.keptParent, n.keptName = dir, name
	}
	if n.kept.mode == 0 {
		n.kept = n.seen
	}
	dir.keptEntries[name] = n
	n.keptLinks++
}

// unkeep keeps a name no more. Needs d.mu.
func (d *Disk) unkeep(dir *inode, name string) {
	n := dir.keptEntries[name]
	if n == nil {
		return
	}
	delete(dir.keptEntries, name)
	n.keptLinks--
	if n.entries != nil {
		n.keptParent, n.keptName = nil, ""
	}
	d.drop(n)
}

// restore makes what is seen what was kept, after all connections have ended.
// Needs d.mu.
func (d *Disk) restore() error {
	lost := d.inodes
	d.inodes = map[uint64]*inode{}
	kept := map[*inode]bool{}
	if err := d.root.restore(kept); err != nil {
		return err
	}
	for _, n := range lost {
		if !kept[n] {
			n.lookups, n.links = 0, 0
			d.drop(n)
		}
	}
	d.root.links, d.root.lookups = 1, 1
	d.inodes[d.root.id] = d.root
	return nil
}

// restore restores an inode and what lies below it. Needs d.mu.
func (n *inode) restore(seen map[*inode]bool) error {
	if seen[n] {
		return nil
	}
	seen[n] = true
	n.seen, n.lookups, n.links = n.kept, 0, n.keptLinks
	n.unsynced.take()
	if n.entries != nil {
		n.entries, n.parent, n.name = maps.Clone(n.keptEntries), n.keptParent, n.keptName
		for _, child := range n.entries {
			if err := child.restore(seen); err != nil {
				return err
			}
		}
		return nil
	}
	if n.kind() != syscall.S_IFREG {
		return nil
	}
	content, err := memory()
	if err != nil {
		return err
	}
	if n.keptContent != nil {
		err = copyContent(content, n.keptContent)
	}
	if err == nil {
		err = setModified(content, n.kept.modified)
	}
	if err != nil {
		return errors.Join(err, content.Close())
	}
	if n.content != nil {
		_ = n.content.Close()
	}
	n.content = content
	return nil
}

func setModified(f *os.File, at time.Time) error {
	ts := unix.NsecToTimespec(at.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), []unix.Timespec{ts, ts}, 0)
}
