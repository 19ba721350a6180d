package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"dormouse/client"
)

// exportFormats are the formats, and what takes them.
var exportFormats = [][2]string{
	{"raw", "anything that takes a disk as it is"}, {"qcow2", "QEMU, KVM, OpenStack"}, {"vmdk", "VMware"}, {"vhd", "Azure"}, {"vhdx", "Hyper-V"},
	{"ova", "VMware, VirtualBox: a whole machine"}, {"gce-tar.gz", "Google Compute Engine"},
}

func (a *app) imageExport() *cobra.Command {
	var o client.ExportImage
	var memory, volume sizeFlag
	var out string
	var names []string
	long := `Export an image as a disk that boots by itself. It runs what its package says and
gets its address by DHCP. A disk of the kernel linux needs a machine that starts
by UEFI; one of the kernel nanos starts by BIOS, and with --uefi by UEFI too.

Formats:
`
	for _, f := range exportFormats {
		names = append(names, f[0])
		long += fmt.Sprintf("  %-12s %s\n", f[0], f[1])
	}
	cmd := &cobra.Command{
		Use: "export IMAGE --format FORMAT --out FILE", Short: "Export an image as a disk that boots on a hypervisor or cloud", Args: one("IMAGE"), Long: strings.TrimSpace(long),
		Example: `  cloudctl image export workspace@1.1 --format ova --memory 512MiB --out workspace.ova
  cloudctl image export workspace@1.1 --format gce-tar.gz --out workspace.tar.gz`,
		ValidArgsFunction: a.complete(imageNames),
		RunE: a.run(func(ctx context.Context, args []string) error {
			if !slices.Contains(names, o.Format) {
				return usagef("--format %q: use one of %s", o.Format, strings.Join(names, ", "))
			}
			o.MemoryMiB, o.VolumeMiB = memory.mib, volume.mib
			c, err := a.connect()
			if err != nil {
				return err
			}
			body, err := c.Images.Export(ctx, args[0], o)
			if err != nil {
				return err
			}
			defer func() { _ = body.Close() }() // it was only read
			if out == "-" {
				_, err := io.Copy(a.stdout, body)
				return err
			}
			n, err := writeWhole(out, body)
			if err != nil {
				return fmt.Errorf("exporting to %s: %w", out, err)
			}
			a.note("wrote %s (%s)", out, showBytes(n))
			return nil
		}),
	}
	cmd.Flags().StringVar(&o.Format, "format", "", "the `FORMAT`: "+strings.Join(names, ", "))
	cmd.Flags().StringVar(&out, "out", "", "the `FILE` to write, which is replaced; - is standard output")
	cmd.Flags().Var(&memory, "memory", "the machine's memory, where the format describes one (what the package asks for)")
	cmd.Flags().IntVar(&o.VCPUs, "cpus", 0, "its processors, likewise (1)")
	cmd.Flags().Var(&volume, "volume", "size of the file system for persistent directories, where the disk has one")
	cmd.Flags().BoolVar(&o.UEFI, "uefi", false, "have a disk of the kernel nanos start by UEFI too")
	// Fail only for flags that are not there.
	_ = cmd.MarkFlagRequired("format")
	_ = cmd.MarkFlagRequired("out")
	completeWith(cmd, "format", names...)
	return cmd
}

// writeWhole puts what comes into the file in one step, or leaves what was there.
func writeWhole(path string, from io.Reader) (n int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	n, err = io.Copy(f, from)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return n, err
	}
	return n, os.Rename(f.Name(), path)
}

func (a *app) imageBill() *cobra.Command {
	return a.onImage(&cobra.Command{Use: "sbom IMAGE", Short: "Show what an image is made of: a CycloneDX document in JSON"},
		func(ctx context.Context, c *client.Client, image string) error {
			body, err := c.Images.BillOfMaterials(ctx, image)
			if err != nil {
				return err
			}
			defer func() { _ = body.Close() }() // it was only read
			_, err = io.Copy(a.stdout, body)
			return err
		})
}
