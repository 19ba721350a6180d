package fat32

import (
	"context"
	"errors"
	"fmt"
	"io"

	"dormouse/internal/fleet"
)

// The volume's geometry, in sectors.
const (
	sectorSize = 512
	reserved   = 32 // boot sector, FSInfo and their copies; what every other formatter takes too
	tables     = 2
	// minClusters is above the 65,525 of the format by what firmware that counts
	// less exactly has been seen to want.
	minClusters = 66208
	// maxClusters keeps cluster numbers below the format's special ones.
	maxClusters  = 0x0ffffff5 - firstCluster
	firstCluster = 2
	infoSector   = 1
	backupSector = 6
)

const (
	// maxFiles bounds the volume's files: it is for boot loaders, not for trees.
	maxFiles = 1024
	// maxFileSize is the format's: sizes are 32 bits.
	maxFileSize = 1<<32 - 1
)

// File is one file of a volume. The directories that lead to it are made.
type File struct {
	// Path is relative and slash-separated; each name is 8.3 in upper case, as in EFI/BOOT/BOOTX64.EFI.
	Path string
	// Size is Content's length in bytes; another length is an error.
	Size    int64
	Content io.Reader
}

// Options are what a volume has besides its files.
type Options struct {
	// Label is up to 11 characters of those that names may have; empty is NO NAME.
	Label string
	// ID is the volume's serial number.
	ID uint32
}

// Size returns how many bytes the volume of those files has. Contents are not
// read and may be nil. It fails as Write does.
func Size(files []File) (int64, error) {
	v, err := plan(files, Options{})
	if err != nil {
		return 0, err
	}
	return v.size(), nil
}

// Write writes the volume at off, which is a multiple of 512 and, for a volume in
// a partition, the partition's place on its disk. It returns the volume's size,
// which is what Size says. What w has there must read as zeros: only the rest is written.
//
// Files that the volume can't hold are KindInvalid; a Content that ends before
// or after its Size is an error, as is one of w's.
func Write(ctx context.Context, w io.WriterAt, off int64, files []File, o Options) (int64, error) {
	if off < 0 || off%sectorSize != 0 || off/sectorSize >= 1<<32 {
		return 0, fmt.Errorf("writing a FAT32 volume: it can't begin at byte %d", off)
	}
	v, err := plan(files, o)
	if err != nil {
		return 0, err
	}
	v.w, v.off = w, off
	for _, write := range []func(context.Context) error{v.writeHead, v.writeTables, v.writeDirectories, v.writeFiles} {
		if err := write(ctx); err != nil {
			return 0, fmt.Errorf("writing a FAT32 volume: %w", err)
		}
	}
	return v.size(), nil
}

// volume is the plan of a volume: where everything lies.
type volume struct {
	o Options
	// nodes are directories, the root first, and files; each a chain of clusters
	// side by side, in this order.
	nodes    []*node
	used     int64 // clusters of all nodes
	clusters int64 // of the volume
	table    int64 // sectors of one allocation table

	w   io.WriterAt
	off int64
}

// node is a directory or a file.
type node struct {
	name     [11]byte
	parent   *node
	children []*node // of a directory, in the order of their names
	dir      bool
	file     File
	first    int64 // cluster; 0 for an empty file
	count    int64 // clusters
}

func (v *volume) size() int64 { return (v.dataSector() + v.clusters) * sectorSize }

func (v *volume) dataSector() int64 { return reserved + tables*v.table }

// at is where a cluster's bytes lie in w.
func (v *volume) at(cluster int64) int64 {
	return v.off + (v.dataSector()+cluster-firstCluster)*sectorSize
}

func plan(files []File, o Options) (*volume, error) {
	v := &volume{o: o}
	root, err := grow(files)
	if err != nil {
		return nil, err
	}
	if _, err := labelName(o.Label); err != nil {
		return nil, err
	}
	v.place(root)
	v.clusters = max(minClusters, v.used)
	if v.clusters > maxClusters {
		return nil, invalid("its files have more than %d bytes", int64(maxClusters)*sectorSize)
	}
	v.table = sectors((v.clusters + firstCluster) * 4)
	return v, nil
}

// place gives clusters to all directories first, each before what it holds, and
// then to the files.
func (v *volume) place(root *node) {
	next := int64(firstCluster)
	take := func(n *node, bytes int64) {
		if n.count = sectors(bytes); n.count > 0 {
			n.first = next
			next += n.count
		}
		v.nodes = append(v.nodes, n)
	}
	var leaves []*node
	for queue := []*node{root}; len(queue) > 0; queue = queue[1:] {
		d := queue[0]
		take(d, max(1, int64(len(v.entries(d)))*entrySize)) // also an empty root has a cluster
		for _, c := range d.children {
			if c.dir {
				queue = append(queue, c)
			} else {
				leaves = append(leaves, c)
			}
		}
	}
	for _, n := range leaves {
		take(n, n.file.Size)
	}
	v.used = next - firstCluster
}

func sectors(bytes int64) int64 { return (bytes + sectorSize - 1) / sectorSize }

func (v *volume) writeDirectories(ctx context.Context) error {
	for _, n := range v.nodes {
		if !n.dir {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var content []byte
		for _, e := range v.entries(n) {
			content = append(content, e[:]...)
		}
		if _, err := v.w.WriteAt(content, v.at(n.first)); err != nil {
			return err
		}
	}
	return nil
}

func (v *volume) writeFiles(ctx context.Context) error {
	buf := make([]byte, 256<<10)
	for _, n := range v.nodes {
		if n.dir {
			continue
		}
		if err := v.writeFile(ctx, n, buf); err != nil {
			return fmt.Errorf("adding %s: %w", n.file.Path, err)
		}
	}
	return nil
}

func (v *volume) writeFile(ctx context.Context, n *node, buf []byte) error {
	for done := int64(0); done < n.file.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := buf[:min(int64(len(buf)), n.file.Size-done)]
		if _, err := io.ReadFull(n.file.Content, b); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return fmt.Errorf("it has fewer than the %d bytes that were said", n.file.Size)
			}
			return err
		}
		if _, err := v.w.WriteAt(b, v.at(n.first)+done); err != nil {
			return err
		}
		done += int64(len(b))
	}
	if n.file.Content == nil {
		return nil
	}
	switch _, err := io.ReadFull(n.file.Content, buf[:1]); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("it has more than the %d bytes that were said", n.file.Size)
}

func invalid(format string, args ...any) error {
	return fleet.Errorf(fleet.KindInvalid, "laying a FAT32 volume out: "+format, args...)
}
