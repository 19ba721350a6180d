package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/sirupsen/logrus"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/linux"
	"dormouse/internal/imagebuilder/linux/stock"
	"dormouse/internal/imagebuilder/nanos"
)

// guestKernel is the stock kernel with the init of our guests, or why there is none.
type guestKernel struct {
	kernel  *linux.Kernel
	release string
	err     error
}

// nanos is the kernel of that kind: the release directory that --nanos-dir names,
// or the one that was fetched last.
func (p *places) nanos(c config) *nanos.Kernel {
	return nanos.New(nanos.Options{Dir: c.nanosDir, Find: func() string { return p.releases.Dir(fleet.KernelNanos) }})
}

// findKernel unpacks the newest kernel package that is offered into the data
// directory, and makes the initrd that all images of this kernel share. A
// missing kernel stops no start: the cluster's check and every create say so.
func findKernel(ctx context.Context, d *dataDir, c config, log logrus.FieldLogger) guestKernel {
	paths, release, err := prepareKernel(ctx, d, c, log)
	if err != nil {
		log.WithError(err).Warn("there is no kernel for guests yet")
		missing := d.join("kernels", "missing")
		paths = linux.Options{KernelPath: missing, InitrdPath: missing}
	}
	// Unpacking takes far more memory than what comes after.
	debug.FreeOSMemory()
	paths.Cmdline = stock.Cmdline
	return guestKernel{kernel: linux.New(paths), release: release, err: err}
}

func prepareKernel(ctx context.Context, d *dataDir, c config, log logrus.FieldLogger) (linux.Options, string, error) {
	var none linux.Options
	init, err := readInit(c.initPath)
	if err != nil {
		return none, "", err
	}
	dir := d.join("kernels")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return none, "", fmt.Errorf("making the kernels' directory: %w", explainDisk(dir, err))
	}
	k, err := unpackKernel(ctx, dir, c, log)
	if err != nil {
		return none, "", err
	}
	initrd, err := makeInitrd(dir, "initrd-", k, init, stock.BuildInitrd)
	if err != nil {
		return none, "", err
	}
	disk := func(context.Context) (linux.DiskKernel, error) {
		// Made when the first disk is exported: most hosts export none.
		initrd, err := makeInitrd(dir, "initrd-disk-", k, init, stock.BuildDiskInitrd)
		return linux.DiskKernel{VmlinuzPath: k.VmlinuzPath(), InitrdPath: initrd, StubPath: stubPath(c), Cmdline: stock.DiskCmdline}, err
	}
	return linux.Options{KernelPath: k.BootPath(), InitrdPath: initrd, Disk: disk}, k.Release, nil
}

// unpackKernel returns the kernel image that --kernel-image names, or else the
// newest of the kernel packages.
func unpackKernel(ctx context.Context, dir string, c config, log logrus.FieldLogger) (stock.Kernel, error) {
	if c.kernelImage != "" {
		// In a directory of its own: the newest of the others is the stock kernel.
		return stock.UnpackImage(ctx, filepath.Join(dir, "images"), c.kernelImage)
	}
	if c.kernelPackages != "" {
		debs, err := stock.FindPackages(c.kernelPackages)
		if err == nil {
			_, err = stock.Unpack(ctx, dir, debs...)
		}
		if err != nil {
			log.WithError(err).Warn("the kernel packages could not be unpacked")
		}
	}
	k, err := stock.Find(dir)
	if err != nil {
		return k, fleet.Errorf(fleet.KindUnavailable,
			"there is no guest kernel in %s: run scripts/fetch-kernel.sh DIR and start the provisioner with --kernel-packages DIR", dir)
	}
	return k, nil
}

func readInit(path string) ([]byte, error) {
	if path == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("finding this program: %w", err)
		}
		path = filepath.Join(filepath.Dir(self), "init")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fleet.Errorf(fleet.KindUnavailable, "reading the guests' init: %w: build it with `make build`, or name it with --init", err)
	}
	return b, nil
}

// stubPath is where the EFI stub for exported disks is: as named, or where
// scripts/setup.sh puts it, beside the kernel packages.
func stubPath(c config) string {
	if c.efiStub != "" {
		return c.efiStub
	}
	return filepath.Join(filepath.Dir(c.kernelPackages), "efi", "linuxx64.efi.stub")
}

// makeInitrd writes an initrd of a kernel and an init once; its name tells both.
func makeInitrd(dir, prefix string, k stock.Kernel, init []byte, build func(io.Writer, string, []byte) error) (string, error) {
	sum := sha256.New()
	sum.Write([]byte(k.Digest))
	sum.Write(init)
	path := filepath.Join(dir, prefix+hex.EncodeToString(sum.Sum(nil))[:16])
	if _, err := os.Stat(path); err == nil {
		return path, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("looking for the initrd: %w", err)
	}
	var b bytes.Buffer
	if err := build(&b, k.Dir, init); err != nil {
		return "", err
	}
	return path, explainDisk(path, writeFile(path, b.Bytes(), 0o644))
}
