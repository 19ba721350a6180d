package linux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/linux/squashfs"
	"dormouse/internal/imagebuilder/source"
)

var _ imagebuilder.Reader = (*Kernel)(nil)

// Read implements imagebuilder.Reader: what is in the image's squashfs, the mount
// points that Build added included. Memory does not grow with the image.
func (k *Kernel) Read(ctx context.Context, dir string, visit func(e source.Entry, content io.Reader) error) error {
	f, err := os.Open(filepath.Join(dir, rootName))
	if errors.Is(err, fs.ErrNotExist) {
		return fleet.Errorf(fleet.KindNotFound, "reading the image's root: %w: have the image built again", err)
	}
	if err != nil {
		return fmt.Errorf("reading the image's root: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("reading the image's root: %w", err)
	}
	r, err := squashfs.Open(f, info.Size())
	if err != nil {
		return err
	}
	return r.Walk(ctx, visit)
}
