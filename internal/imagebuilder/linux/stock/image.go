package stock

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"dormouse/internal/fleet"
)

// UnpackImage does as Unpack does with a kernel that is no package: a bzImage that
// has everything built in that a guest needs, as scripts/make-kernel.sh builds one. destDir
// should be another one than Unpack's, because Find takes the newest in a directory.
//
// A kernel that is no bzImage is KindInvalid. One that is there already stays as it is.
func UnpackImage(ctx context.Context, destDir, imagePath string) (Kernel, error) {
	var k Kernel
	packages, err := describe([]string{imagePath})
	if err != nil {
		return k, err
	}
	if err := os.MkdirAll(destDir, 0o755); err != nil {
		return k, fmt.Errorf("making the kernel's directory: %w", err)
	}
	work, err := os.MkdirTemp(destDir, ".unpack-*")
	if err != nil {
		return k, fmt.Errorf("making the kernel's directory: %w", err)
	}
	defer os.RemoveAll(work)
	p := &pack{vmlinuz: filepath.Join(work, vmlinuzFile)}
	if p.release, err = copyImage(imagePath, p.vmlinuz); err != nil {
		return k, err
	}
	if err := ctx.Err(); err != nil {
		return k, err
	}
	k = Kernel{Format: format, Packages: packages, Release: p.release, Modules: []Module{}}
	whole := filepath.Join(work, "whole")
	if err := p.write(&k, whole, nil); err != nil {
		return k, fmt.Errorf("unpacking kernel %s: %w", p.release, err)
	}
	k.Dir = filepath.Join(destDir, k.Release)
	return k, publish(k, whole)
}

// copyImage copies a bzImage and returns its release.
func copyImage(from, to string) (string, error) {
	f, err := os.Open(from)
	if err != nil {
		return "", fmt.Errorf("reading the kernel: %w", err)
	}
	defer f.Close()
	head := make([]byte, 64<<10)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", fleet.Errorf(fleet.KindInvalid, "reading the kernel %s: %w", from, err)
	}
	release, err := imageRelease(head[:n])
	if err != nil {
		return "", fleet.Errorf(fleet.KindInvalid, "reading the kernel %s: %w: give a bzImage", from, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("reading the kernel: %w", err)
	}
	return release, save(to, f)
}

// imageRelease reads what uname -r will say out of a bzImage's head: the first word
// of the text to which kernel_version (0x20e) leads (Documentation/arch/x86/boot.rst).
func imageRelease(head []byte) (string, error) {
	if len(head) < 0x210 || string(head[0x202:0x206]) != "HdrS" {
		return "", errors.New("it is no bzImage")
	}
	at := 0x200 + int(binary.LittleEndian.Uint16(head[0x20e:]))
	if at == 0x200 || at >= len(head) {
		return "", errors.New("it does not say its release")
	}
	text, _, ended := bytes.Cut(head[at:], []byte{0})
	release, _, _ := bytes.Cut(text, []byte(" "))
	if !ended || !validRelease(string(release)) {
		return "", fmt.Errorf("it says a strange release (%.40q)", release)
	}
	return string(release), nil
}
