package lossy

import (
	"errors"
	"io"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// file begins a call on a regular file's content.
func (f *files) file(id uint64) (*inode, func(), fuse.Status) {
	n, end, status := f.look(id)
	if status.Ok() && n.content == nil {
		end()
		return nil, nil, fuse.EINVAL
	}
	return n, end, status
}

func (f *files) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, end, status := f.look(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer end()
	return fuse.ToStatus(n.fill(&out.Attr))
}

func (f *files) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, end, status := f.change(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer end()
	if mode, ok := in.GetMode(); ok {
		n.seen.mode = n.kind() | mode&0o7777
	}
	if uid, ok := in.GetUID(); ok {
		n.seen.uid = uid
	}
	if gid, ok := in.GetGID(); ok {
		n.seen.gid = gid
	}
	if size, ok := in.GetSize(); ok && n.content != nil {
		n.unsynced.addAll()
		if err := n.content.Truncate(int64(size)); err != nil {
			return fuse.ToStatus(err)
		}
	}
	if at, ok := in.GetMTime(); ok {
		n.seen.modified = at
		if n.content != nil {
			if err := setModified(n.content, at); err != nil {
				return fuse.ToStatus(err)
			}
		}
	}
	return fuse.ToStatus(n.fill(&out.Attr))
}

func (f *files) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, end, status := f.file(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer end()
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	if in.Flags&syscall.O_TRUNC == 0 {
		return fuse.OK
	}
	n.unsynced.addAll()
	return fuse.ToStatus(n.content.Truncate(0))
}

func (f *files) Read(_ <-chan struct{}, in *fuse.ReadIn, buffer []byte) (fuse.ReadResult, fuse.Status) {
	n, end, status := f.file(in.NodeId)
	if !status.Ok() {
		return nil, status
	}
	defer end()
	size, err := n.content.ReadAt(buffer[:min(len(buffer), int(in.Size))], int64(in.Offset))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fuse.ToStatus(err)
	}
	return fuse.ReadResultData(buffer[:size]), fuse.OK
}

func (f *files) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n, end, status := f.file(in.NodeId)
	if !status.Ok() {
		return 0, status
	}
	defer end()
	size, err := n.content.WriteAt(data, int64(in.Offset))
	n.unsynced.add(int64(in.Offset), int64(size))
	if err == nil && in.Flags&syscall.O_DSYNC != 0 {
		err = n.keep(true)
		f.d.syncs.Add(1)
	}
	return uint32(size), fuse.ToStatus(err)
}

func (f *files) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	n, end, status := f.file(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer end()
	err := unix.Fallocate(int(n.content.Fd()), in.Mode, int64(in.Offset), int64(in.Length))
	n.unsynced.addAll()
	return fuse.ToStatus(err)
}

func (f *files) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	n, end, status := f.file(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer end()
	at, err := unix.Seek(int(n.content.Fd()), int64(in.Offset), int(in.Whence))
	out.Offset = uint64(max(at, 0))
	return fuse.ToStatus(err)
}

func (f *files) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	n, end, status := f.look(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer end()
	const dataOnly = 1 // FUSE_FSYNC_FDATASYNC
	f.d.syncs.Add(1)
	return fuse.ToStatus(n.keep(in.FsyncFlags&dataOnly != 0))
}

// StatFs shows a disk with a lot of room.
func (f *files) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	_, end, status := f.look(in.NodeId)
	if !status.Ok() {
		return status
	}
	defer end()
	const blocks = 64 << 30 / 4096
	*out = fuse.StatfsOut{Blocks: blocks, Bfree: blocks, Bavail: blocks, Files: 1 << 20, Ffree: 1 << 20, Bsize: 4096, Frsize: 4096, NameLen: 255}
	return fuse.OK
}
