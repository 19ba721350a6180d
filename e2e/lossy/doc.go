// Package lossy is a disk for tests that loses power: a FUSE file system on
// which everything is seen at once and nothing is kept but what was synced.
//
// # What a cut keeps
//
//   - Of a file, what it was at its last fsync. Of fdatasync, content and size only.
//     A file that was never synced is empty, if its name is kept.
//   - Of a directory, the names that it had at its last fsync: who creates, renames
//     or removes must sync the directory. With it the path to it is kept.
//   - Nothing else. One sync keeps nothing of other files or directories, as a disk with a
//     journal (ext4 with data=ordered) would do by the way: what survives here
//     survives there.
//
// A rename within a directory is whole or undone; a file that is renamed into another
// directory is in both, one or none of them, as they were synced. sync(2) and syncfs(2) keep
// nothing: FUSE is not told of them.
//
// # How
//
// The disk is in the memory of the process that serves it: a file has two contents,
// the one that is seen and the one that is kept, and a sync makes these the
// same. Cut makes every call fail with EIO; Restart mounts what was kept afresh, so that
// nothing lives on in the kernel's caches. Who had a file open before has lost it
// (ENOTCONN): a power cut leaves no process alive.
//
// Files may be mapped, also shared: what is written to them so reaches the disk
// when they are synced, or when the kernel likes. Locks are the kernel's own. There are
// no extended attributes, and there is no direct input and output. It needs root and /dev/fuse.
package lossy
