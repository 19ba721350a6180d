// Package qemuimg runs qemu-img, the well-kept tool that knows the disk formats of
// hypervisors. What a disk is, the caller says: qemu-img is never left to guess,
// because a raw disk's guest decides what its first bytes look like, and some
// formats name other files of this machine.
package qemuimg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"dormouse/internal/fleet"
)

// Source is a disk to read: a file and what it is.
type Source struct {
	// Path is absolute.
	Path string
	// Driver is QEMU's name of the format: raw, qcow2 or vmdk.
	Driver string
}

// name is the source as qemu-img takes it. No file besides Path is opened for
// it: backing is off even where the image names one.
func (s Source) name() (string, error) {
	if !filepath.IsAbs(s.Path) {
		return "", fmt.Errorf("the disk's path %q is not absolute", s.Path)
	}
	node := map[string]any{"driver": s.Driver, "file": map[string]any{"driver": "file", "filename": s.Path}}
	if s.Driver != "raw" {
		node["backing"] = nil
	}
	body, err := json.Marshal(node)
	return "json:" + string(body), err
}

// Convert writes the disk to the new file out in that format of QEMU's, with
// those options of the format. What is zeros takes no room where the format has holes.
//
// It ends when ctx does. What the tool can't read is KindInvalid, a full disk KindCapacity, a tool
// that is missing KindUnavailable. A file that was begun is left to the caller to remove.
func Convert(ctx context.Context, from Source, format, out string, options ...string) error {
	name, err := from.name()
	if err != nil {
		return err
	}
	if !filepath.IsAbs(out) {
		return fmt.Errorf("the new disk's path %q is not absolute", out)
	}
	args := []string{"convert", "-q", "-O", format}
	if len(options) > 0 {
		args = append(args, "-o", strings.Join(options, ","))
	}
	return run(ctx, append(args, name, out)...)
}

// Pack writes the disk to the new file out as a qcow2 image of its own, compressed.
// The same content gives the same bytes, as long as the tool is the same. It fails as Convert does.
func Pack(ctx context.Context, from Source, out string) error {
	name, err := from.name()
	if err != nil {
		return err
	}
	if !filepath.IsAbs(out) {
		return fmt.Errorf("the new disk's path %q is not absolute", out)
	}
	// One worker: clusters are packed in the order in which they are done.
	return run(ctx, "convert", "-q", "-m", "1", "-c", "-O", "qcow2", "-o", "compat=1.1,compression_type=zstd", name, out)
}

// ErrDiffers is what Compare returns of two disks with another content.
var ErrDiffers = errors.New("the disks differ")

// Compare tells whether two disks have the same content, one that
// ends early read as zeros from there on: ErrDiffers where they have not.
func Compare(ctx context.Context, a, b Source) error {
	first, err := a.name()
	if err != nil {
		return err
	}
	second, err := b.name()
	if err != nil {
		return err
	}
	err = run(ctx, "compare", "-q", first, second)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return ErrDiffers
	}
	return err
}

// Check has qemu-img look whether the tables of a qcow2 or vmdk fit together and
// lead to content that is there: one that is cut off would else be read as zeros.
// A damaged one is KindInvalid, a tool that is missing KindUnavailable.
func Check(ctx context.Context, s Source) error {
	name, err := s.name()
	if err != nil {
		return err
	}
	err = run(ctx, "check", "-q", name)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		return nil // Clusters that nothing uses: they take room and do no harm.
	}
	return err
}

// DataBytes tells how many bytes of the disk are more than a hole, unpacked, with
// some for the tables that lead to them: about what it takes on our disk. The
// content is not read. It fails as Convert does.
func DataBytes(ctx context.Context, s Source) (int64, error) {
	name, err := s.name()
	if err != nil {
		return 0, err
	}
	out, err := output(ctx, "measure", "--output=json", "-O", "qcow2", name)
	if err != nil {
		return 0, err
	}
	var m struct{ Required int64 }
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		return 0, fleet.Errorf(fleet.KindUnavailable, "reading what qemu-img says about the disk: %w", err)
	}
	return m.Required, nil
}

func run(ctx context.Context, args ...string) error {
	_, err := output(ctx, args...)
	return err
}

// output runs the tool and returns the beginning of what it says.
func output(ctx context.Context, args ...string) (string, error) {
	tool, err := exec.LookPath("qemu-img")
	if err == nil {
		tool, err = filepath.Abs(tool)
	}
	if err != nil {
		return "", fleet.Errorf(fleet.KindUnavailable, "finding qemu-img, which `apt-get install qemu-utils` brings: %w", err)
	}
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Env, cmd.Dir = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}, "/"
	cmd.WaitDelay = 10 * time.Second
	said := &limited{}
	cmd.Stdout, cmd.Stderr = said, said
	err = cmd.Run()
	words := strings.Join(strings.Fields(said.String()), " ")
	var exit *exec.ExitError
	switch {
	case err == nil:
		return said.String(), nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case strings.Contains(words, "No space left on device"), strings.Contains(words, "Disk quota exceeded"):
		return "", fleet.Errorf(fleet.KindCapacity, "converting the disk: the disk is full, free some space in the data directory")
	case errors.As(err, &exit) && exit.Exited():
		return "", fleet.Errorf(fleet.KindInvalid, "qemu-img could not read the disk (%w): %s", err, words)
	}
	return "", fleet.Errorf(fleet.KindUnavailable, "running qemu-img: %w: %s", err, words)
}

// limited keeps the beginning of what a command says.
type limited struct{ strings.Builder }

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	const most = 2048
	l.Builder.Write(p[:min(len(p), max(0, most-l.Len()))])
	return len(p), nil
}
