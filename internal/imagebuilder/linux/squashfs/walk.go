package squashfs

import (
	"container/heap"
	"context"
	"io"

	"dormouse/internal/imagebuilder/source"
)

// Walk calls visit for every entry in the order of whole paths, as
// source.Tree.Walk has it. content is nil but for files, and valid only during the
// visit; a visit need not read it. The first error ends it and is returned; damage is KindPermanent.
//
// In memory is what stands in the listings of the directories under way.
func (s *Reader) Walk(ctx context.Context, visit func(e source.Entry, content io.Reader) error) error {
	todo := &pending{{"", s.root}}
	seen := uint32(0)
	for todo.Len() > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		// What is pending has a greater path than all that was visited, because a
		// directory's path is less than those in it: so the least comes next.
		next := heap.Pop(todo).(named)
		if seen++; seen > s.inodes {
			return damaged("it has more entries than the %d that it says", s.inodes)
		}
		n, err := s.inode(next.ref)
		if err != nil {
			return err
		}
		if err := s.visit(ctx, next.path, n, visit); err != nil {
			return err
		}
		if n.kind != source.Directory {
			continue
		}
		// Hard links are no entries of images: so there are no more names than inodes.
		children, err := s.children(n, int(s.inodes-seen)-todo.Len())
		if err != nil {
			return err
		}
		prefix := next.path
		if prefix != "" {
			prefix += "/"
		}
		for _, c := range children {
			heap.Push(todo, named{prefix + c.name, c.ref})
		}
	}
	if seen != s.inodes {
		return damaged("it has %d entries and says that it has %d", seen, s.inodes)
	}
	return nil
}

func (s *Reader) visit(ctx context.Context, path string, n inode, visit func(e source.Entry, content io.Reader) error) error {
	e := source.Entry{Path: path, Kind: n.kind, Mode: n.mode, Target: n.target}
	if n.kind != source.File {
		return visit(e, nil)
	}
	e.Size = n.size
	return visit(e, &contextReader{ctx, &content{s: s, n: n, at: n.start, left: n.size}})
}

// contextReader ends when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// named is an entry whose turn has not come.
type named struct {
	path string
	ref  uint64
}

// pending implements heap.Interface by path.
type pending []named

func (p pending) Len() int           { return len(p) }
func (p pending) Less(i, j int) bool { return p[i].path < p[j].path }
func (p pending) Swap(i, j int)      { p[i], p[j] = p[j], p[i] }

// Push implements heap.Interface.
func (p *pending) Push(x any) { *p = append(*p, x.(named)) }

// Pop implements heap.Interface.
func (p *pending) Pop() any {
	last := (*p)[len(*p)-1]
	*p = (*p)[:len(*p)-1]
	return last
}
