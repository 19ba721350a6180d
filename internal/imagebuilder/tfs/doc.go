// Package tfs writes and reads TFS, the file system of the Nanos unikernel
// (nanos.org), as its kernel's src/fs/tlog.c, src/fs/tfs.c and
// src/runtime/tuple.c define it.
//
// A TFS is a log that, replayed, gives one nested tuple: names and values.
// Directories and files are tuples in it, and a file's tuple says in which
// sectors its content lies. The log begins in sector 0 with an extent of one
// sector that only points to the next one; an extent that is full points to the
// next again.
//
// Writer makes a file system in one pass: contents are streamed to where they
// stay, and the log is written last, at the place that was left for it. What it
// holds in memory grows with the number of files, not with their sizes. Equal
// input gives equal bytes. Appender adds records to a log that a Writer made,
// which is how an image that many share becomes one tenant's.
//
// FS reads what Writer, the Nanos kernel or its tools made, in the current
// encoding (version 5) and the one before it (4). It trusts nothing: lengths are
// bounded, every range lies within the file system, a log can't lead in a
// circle, and a directory is visited once. What is wrong is ErrDamaged with what and
// where; nothing panics.
//
// The package knows nothing of disks, kernels and packages: that is package nanos.
package tfs
