package deb

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

// unpack has dpkg-deb decompress a package (deb(5)) and puts its files into the
// tree, less those that are dropped anyway. What another package brought stays.
func (t *tree) unpack(ctx context.Context, r *record) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", r.file)
	var said limited
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fleet.Errorf(fleet.KindUnavailable, "unpacking %s: %w: `apt-get install dpkg` brings dpkg-deb", r.name, err)
	}
	err = t.readTar(ctx, r, out)
	if err == nil {
		_, err = io.Copy(io.Discard, out) // the padding at the end
	} else {
		_ = cmd.Process.Kill() // it would wait for us to read on
	}
	if wait := cmd.Wait(); err == nil && wait != nil {
		err = fleet.Errorf(fleet.KindInvalid, "unpacking the Debian package %s %s: %w: %s", r.name, r.version, wait, strings.TrimSpace(said.String()))
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (t *tree) readTar(ctx context.Context, r *record, in io.Reader) error {
	reader := tar.NewReader(in)
	for {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fleet.Errorf(fleet.KindInvalid, "unpacking the Debian package %s %s: %w", r.name, r.version, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.add(r, h, reader); err != nil {
			return fmt.Errorf("unpacking the Debian package %s %s: %w", r.name, r.version, err)
		}
	}
}

// member is a member's name relative to the root, with the links at the top followed.
func member(name string) (string, error) {
	if !utf8.ValidString(name) || strings.ContainsRune(name, 0) || slices.Contains(strings.Split(name, "/"), "..") || len(name) > 4095 {
		return "", invalid("a file has the name %.100q, which no package should have", name)
	}
	return strings.TrimPrefix(path.Clean("/"+name), "/"), nil
}

func (t *tree) add(r *record, h *tar.Header, content io.Reader) error {
	name, err := member(h.Name)
	if err != nil || name == "" || dropped(name) {
		return err
	}
	p, err := t.place(name, r)
	if err != nil {
		return err
	}
	have := t.nodes[p]
	n := &node{mode: safeMode(h), from: r}
	switch h.Typeflag {
	case tar.TypeDir:
		n.kind = source.Directory
		if have != nil {
			if have.from == r && have.kind == source.Directory {
				have.mode = n.mode // until now it was only implied
			}
			return nil // or it is a link to where it belongs
		}
		err = t.root.Mkdir(p, 0o755)
	case tar.TypeSymlink:
		n.kind, n.mode, n.target = source.Symlink, 0o777, unmerged(name, h.Linkname)
		if have != nil {
			return nil
		}
		err = t.root.Symlink(n.target, p)
	case tar.TypeReg:
		n.kind = source.File
		if have != nil {
			return nil
		}
		err = t.write(p, h.Size, n.mode, content)
	case tar.TypeLink:
		from, err := member(h.Linkname)
		if err != nil || have != nil {
			return err
		}
		from = t.file(from)
		if from == "" {
			return invalid("%s is a link to %s, which is not there", name, h.Linkname)
		}
		linked := *t.nodes[from]
		t.nodes[p] = &linked
		return t.root.Link(from, p)
	default:
		return invalid("%s is a device or pipe: no image can hold one", name)
	}
	if err == nil {
		t.nodes[p] = n
	}
	return err
}

func (t *tree) write(p string, size int64, mode uint32, content io.Reader) error {
	if t.left -= size; t.left < 0 || size < 0 {
		return invalid("the packages are too large unpacked: name smaller ones")
	}
	f, err := t.root.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Chmod(fileMode(mode)), f.Close())
}

// safeMode is a member's mode in an image, where everything is root's: readable
// by its owner, and set-ID bits are only for what was root's before.
func safeMode(h *tar.Header) uint32 {
	mode := uint32(h.Mode) & 0o7777
	if h.Uid != 0 {
		mode &^= 0o4000
	}
	if h.Gid != 0 {
		mode &^= 0o2000
	}
	return mode | 0o400
}

// unmerged is a link's target. Packages count .. from where a file lay before
// /bin, /lib and /sbin were moved below /usr: such a target is written from the root.
func unmerged(name, target string) string {
	top, _, _ := strings.Cut(name, "/")
	if path.IsAbs(target) || !slices.Contains(mergedDirs(), top) {
		return target
	}
	to := path.Join("/", path.Dir(name), target)
	if strings.HasPrefix(to, "/"+top+"/") {
		return target
	}
	return to
}

// elfMagic tells whether a file of the tree begins as an ELF file does.
func (t *tree) elfMagic(p string) (bool, error) {
	var head [4]byte
	_, err := fileAt{t.root, p}.ReadAt(head[:], 0)
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return string(head[:]) == "\x7fELF", err
}
