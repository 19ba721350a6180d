package stock

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"dormouse/internal/fleet"
)

// walkDeb calls visit for every regular file of a Debian package's data, with its
// path relative to the root ("lib/modules/…"). The format is deb(5): an ar
// archive whose member data.tar.* holds the files.
func walkDeb(ctx context.Context, debPath string, visit func(name string, r io.Reader) error) error {
	f, err := os.Open(debPath)
	if err != nil {
		return fmt.Errorf("opening the kernel's package: %w", err)
	}
	defer f.Close()
	data, err := dataMember(bufio.NewReaderSize(f, 1<<20))
	if err == nil {
		err = walkTar(ctx, data, visit)
	}
	var own *fleet.Error
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &own):
		return err
	default:
		return fleet.Errorf(fleet.KindInvalid, "reading the kernel's package %s: %w: fetch it again", debPath, err)
	}
}

// dataMember finds data.tar.* in an ar archive (ar(5): 8 bytes of magic, then
// per member a header of 60 bytes and the content, padded to an even length).
func dataMember(r *bufio.Reader) (io.Reader, error) {
	magic := make([]byte, 8)
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "!<arch>\n" {
		return nil, errors.New("it is no Debian package")
	}
	head := make([]byte, 60)
	for {
		if _, err := io.ReadFull(r, head); err != nil {
			return nil, fmt.Errorf("it has no data: %w", err)
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(head[48:58])), 10, 64)
		if err != nil || size < 0 || string(head[58:60]) != "`\n" {
			return nil, errors.New("a member of the archive has a broken header")
		}
		name := strings.TrimSuffix(strings.TrimSpace(string(head[:16])), "/")
		if strings.HasPrefix(name, "data.tar") {
			return decompressed(name, io.LimitReader(r, size))
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
	}
}

// decompressed unpacks what r holds by the ending of its name.
func decompressed(name string, r io.Reader) (io.Reader, error) {
	switch path.Ext(name) {
	case ".xz":
		return xz.NewReader(r)
	case ".zst":
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case ".gz":
		return gzip.NewReader(r)
	case ".tar", ".ko":
		return r, nil
	default:
		return nil, fmt.Errorf("%s is compressed in a way that is not known here (xz, zst and gz are)", name)
	}
}

func walkTar(ctx context.Context, r io.Reader, visit func(string, io.Reader) error) error {
	t := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			// What follows holds the checksums: a package that is cut there is refused too.
			_, err := io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		// Distributions with merged directories ship usr/lib/modules.
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if err := visit(strings.TrimPrefix(name, "usr/"), t); err != nil {
			return err
		}
	}
}

// maxFile bounds what one file of a package may unpack to: far above any kernel
// or module, far below what would fill a disk.
const maxFile = 256 << 20

// readModule reads a module and takes its compression off.
func readModule(name string, r io.Reader) ([]byte, error) {
	r, err := decompressed(name, r)
	if err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", name, err)
	}
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("unpacking %s: %w", name, err)
	}
	if n > maxFile {
		return nil, fmt.Errorf("unpacking %s: it is larger than %d MiB", name, maxFile>>20)
	}
	return b.Bytes(), nil
}
