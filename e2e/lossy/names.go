package lossy

import (
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// files answers the kernel.
type files struct {
	fuse.RawFileSystem
	d *Disk
}

// forever is how long the kernel may rely on a name: it makes every change itself.
const forever = time.Hour

// change begins a call that may change names.
func (f *files) change(id uint64) (*inode, func(), fuse.Status) {
	f.d.mu.Lock()
	return f.begin(id, f.d.mu.Unlock)
}

// look begins any other.
func (f *files) look(id uint64) (*inode, func(), fuse.Status) {
	f.d.mu.RLock()
	return f.begin(id, f.d.mu.RUnlock)
}

func (f *files) begin(id uint64, end func()) (*inode, func(), fuse.Status) {
	n := f.d.inodes[id]
	switch {
	case f.d.cut:
		end()
		return nil, nil, fuse.EIO
	case n == nil:
		end()
		return nil, nil, fuse.Status(syscall.ESTALE)
	}
	return n, end, fuse.OK
}

// known gives an inode to the kernel. Needs d.mu.
func (f *files) known(n *inode, out *fuse.EntryOut) fuse.Status {
	if err := n.fill(&out.Attr); err != nil {
		return fuse.ToStatus(err)
	}
	n.lookups++
	f.d.inodes[n.id] = n
	out.NodeId, out.Generation = n.id, 1
	out.SetEntryTimeout(forever)
	return fuse.OK
}

// Lookup implements fuse.RawFileSystem, as does all that follows.
func (f *files) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir, end, status := f.change(header.NodeId)
	if !status.Ok() {
		return status
	}
	defer end()
	n := dir.entries[name]
	if n == nil {
		return fuse.ENOENT
	}
	return f.known(n, out)
}

func (f *files) Forget(id, lookups uint64) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	n := f.d.inodes[id]
	if n == nil || n == f.d.root {
		return
	}
	n.lookups -= min(lookups, n.lookups)
	if n.lookups == 0 {
		delete(f.d.inodes, id)
		f.d.drop(n)
	}
}

// make makes an inode with a name, and gives it to the kernel.
func (f *files) make(header *fuse.InHeader, name string, mode, rdev uint32, target string, out *fuse.EntryOut) (*inode, fuse.Status) {
	dir, end, status := f.change(header.NodeId)
	if !status.Ok() {
		return nil, status
	}
	defer end()
	if dir.entries[name] != nil {
		return nil, fuse.Status(syscall.EEXIST)
	}
	n, err := f.d.newInode(mode, rdev, header.Caller)
	if err != nil {
		return nil, fuse.ToStatus(err)
	}
	n.target = target
	dir.put(name, n)
	return n, f.known(n, out)
}

// put gives an inode a name that is free. Needs d.mu.
func (n *inode) put(name string, child *inode) {
	n.entries[name] = child
	child.links++
	if child.entries != nil {
		child.parent, child.name = n, name
	}
	n.seen.modified = time.Now()
}

// take takes a name away. Needs d.mu.
func (n *inode) take(name string) *inode {
	child := n.entries[name]
	delete(n.entries, name)
	child.links--
	if child.entries != nil {
		child.parent, child.name = nil, ""
	}
	n.seen.modified = time.Now()
	return child
}

func (f *files) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	_, status := f.make(&in.InHeader, name, syscall.S_IFDIR|in.Mode&0o7777, 0, "", out)
	return status
}

func (f *files) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	_, status := f.make(&in.InHeader, name, in.Mode, in.Rdev, "", out)
	return status
}

func (f *files) Symlink(_ <-chan struct{}, header *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	_, status := f.make(header, name, syscall.S_IFLNK|0o777, 0, target, out)
	return status
}

func (f *files) Readlink(_ <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	n, end, status := f.look(header.NodeId)
	if !status.Ok() {
		return nil, status
	}
	defer end()
	return []byte(n.target), fuse.OK
}

func (f *files) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	_, status := f.make(&in.InHeader, name, syscall.S_IFREG|in.Mode&0o7777, 0, "", &out.EntryOut)
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return status
}

func (f *files) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, end, status := f.change(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer end()
	n := f.d.inodes[in.Oldnodeid]
	switch {
	case n == nil:
		return fuse.Status(syscall.ESTALE)
	case dir.entries[name] != nil:
		return fuse.Status(syscall.EEXIST)
	}
	dir.put(name, n)
	return f.known(n, out)
}

func (f *files) Unlink(_ <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	dir, end, status := f.change(header.NodeId)
	if !status.Ok() {
		return status
	}
	defer end()
	if dir.entries[name] == nil {
		return fuse.ENOENT
	}
	f.d.drop(dir.take(name))
	return fuse.OK
}

func (f *files) Rmdir(_ <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	dir, end, status := f.change(header.NodeId)
	if !status.Ok() {
		return status
	}
	defer end()
	switch n := dir.entries[name]; {
	case n == nil:
		return fuse.ENOENT
	case len(n.entries) > 0:
		return fuse.Status(syscall.ENOTEMPTY)
	}
	f.d.drop(dir.take(name))
	return fuse.OK
}

func (f *files) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	dir, end, status := f.change(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer end()
	into := f.d.inodes[in.Newdir]
	switch {
	case into == nil:
		return fuse.Status(syscall.ESTALE)
	case dir.entries[from] == nil:
		return fuse.ENOENT
	case in.Flags&^unix.RENAME_NOREPLACE != 0:
		return fuse.EINVAL
	}
	old := into.entries[to]
	switch {
	case old == dir.entries[from]:
		return fuse.OK
	case old != nil && in.Flags&unix.RENAME_NOREPLACE != 0:
		return fuse.Status(syscall.EEXIST)
	case old != nil && len(old.entries) > 0:
		return fuse.Status(syscall.ENOTEMPTY)
	case old != nil:
		f.d.drop(into.take(to))
	}
	into.put(to, dir.take(from))
	return fuse.OK
}

func (f *files) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	_, end, status := f.look(in.NodeId)
	if status.Ok() {
		end()
	}
	return status
}

func (f *files) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	dir, end, status := f.look(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer end()
	// A name's offset is its inode's number, so that one that is removed meanwhile is no gap.
	type entry struct {
		name string
		n    *inode
	}
	var all []entry
	for name, n := range dir.entries {
		if n.id > in.Offset {
			all = append(all, entry{name, n})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return int(a.n.id) - int(b.n.id) })
	for _, e := range all {
		if !out.AddDirEntry(fuse.DirEntry{Name: e.name, Ino: e.n.id, Mode: e.n.kind(), Off: e.n.id}) {
			break
		}
	}
	return fuse.OK
}

func (f *files) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	dir, end, status := f.change(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer end()
	f.d.keepNames(dir)
	f.d.syncs.Add(1)
	return fuse.OK
}
