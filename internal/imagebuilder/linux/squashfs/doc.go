// Package squashfs reads squashfs files as this builder has them made: version
// 4.0, compressed with lz4, holding directories, files and symbolic links. It
// reads a few blocks at a time, wherever they lie, so that one file of a large image is
// there at once and memory does not grow with the image.
//
// The format is the kernel's Documentation/filesystems/squashfs.rst and
// fs/squashfs/squashfs_fs.h. It has no checksums: damage shows where structures don't fit
// together, blocks don't unpack or have another length than they must, and
// where fewer or more inodes are found than the file says. Whatever is in the file,
// nothing panics, and all that is allocated is bounded.
//
// Why no tool and no library: unsquashfs has no stream of more than one file,
// and sqfs2tar (squashfs-tools-ng) has one in the order of directories,
// where the builder reads in the order of whole paths; both would have to unpack everything on
// the host first. sylabs/squashfs 1.0.6 takes lz4 for frames and so can't read
// these files, and sizes its buffers by what a damaged file says; go-diskfs loses files in large directories.
package squashfs
