package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"dormouse/internal/devpg"
	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/linux/stock"
	"dormouse/internal/provider/kvm"
	"dormouse/internal/provider/kvm/hostnet"
)

func doctorCommand() *cobra.Command {
	var c config
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what this machine needs to run virtual machines, and say how to mend it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.checkDataDir(); err != nil {
				return err
			}
			items, err := diagnose(cmd.Context(), c)
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			bad := 0
			for _, i := range items {
				state := "ok"
				if !i.OK {
					state = "MISSING"
					bad++
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", state, i.Name, strings.ReplaceAll(i.Detail, "\n", " "))
				if i.Mend != "" && !i.OK {
					fmt.Fprintf(w, "\t\tmend it with: %s\n", i.Mend)
				}
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if bad > 0 {
				return fmt.Errorf("%d of %d needs are not met", bad, len(items))
			}
			return nil
		},
	}
	c.bindData(cmd.Flags())
	cmd.Flags().StringVar(&c.initPath, "init", "", "the init of linux guests (default: `init` beside this program)")
	return cmd
}

// diagnose looks at everything, and changes nothing that is in use: what the
// checks need is made in a directory of its own, on the same disk.
func diagnose(ctx context.Context, c config) ([]fleet.CheckItem, error) {
	items := []fleet.CheckItem{checkPostgres(ctx)}
	dir, err := os.MkdirTemp(existing(c.dataDir), ".doctor-")
	if err != nil {
		return append(items, fleet.CheckItem{Name: "data directory", Detail: err.Error(),
			Mend: "make " + c.dataDir + " writable, or name another with --data-dir"}), nil
	}
	defer os.RemoveAll(dir)
	log := logrus.New()
	log.SetOutput(io.Discard)
	network, err := hostnet.NewUser(hostnet.Options{StateDir: dir, Log: log})
	if err != nil {
		return nil, err
	}
	defer network.Close()
	p, err := kvm.New(ctx, kvm.Options{DataDir: dir, HostID: fleet.HostID(fleet.NewID()), Images: nothing{}, Network: network,
		Log: log, Accel: c.accel, QEMU: c.qemu})
	if err != nil {
		return nil, err
	}
	defer p.Close()
	report, err := p.Check(ctx, fleet.Cluster{ID: fleet.ClusterID(fleet.NewID()), Name: "doctor", Provider: fleet.ProviderKVM})
	if err != nil {
		return nil, err
	}
	for _, item := range report.Items {
		if item.Name != "network" && item.Name != "settings" {
			items = append(items, item)
		}
	}
	mode, detail := hostnet.Detect(ctx)
	items = append(items, fleet.CheckItem{Name: "network", OK: true, Detail: mode + ": " + detail})
	return append(items, checkKernel(c)), nil
}

// existing returns the deepest directory of path that is there.
func existing(path string) string {
	for path != "/" {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			break
		}
		path = filepath.Dir(path)
	}
	return path
}

func checkPostgres(ctx context.Context) fleet.CheckItem {
	item := fleet.CheckItem{Name: "postgres"}
	found, err := devpg.Find(ctx)
	if err != nil || len(found) == 0 {
		item.Detail, item.Mend = fmt.Sprint("no server of version 15 or newer: ", err), "apt-get install postgresql"
		return item
	}
	item.OK, item.Detail = true, fmt.Sprintf("version %v", found[0])
	return item
}

func checkKernel(c config) fleet.CheckItem {
	item := fleet.CheckItem{Name: "guest kernel", Mend: "scripts/fetch-kernel.sh DIR; provisioner server --kernel-packages DIR"}
	if k, err := stock.Find(filepath.Join(c.dataDir, "kernels")); err == nil {
		item.OK, item.Detail, item.Mend = true, k.Release, ""
		return item
	}
	debs, err := stock.FindPackages(c.kernelPackages)
	if c.kernelPackages == "" || err != nil {
		item.Detail = "none in " + filepath.Join(c.dataDir, "kernels") + ", and no package to take one from"
		return item
	}
	item.OK, item.Detail, item.Mend = true, "to be unpacked from "+filepath.Base(debs[0]), ""
	return item
}

// nothing has no images: the doctor starts no installation.
type nothing struct{}

var errNoImages = fleet.Errorf(fleet.KindNotFound, "the doctor has no images")

// Files implements kvm.Images.
func (nothing) Files(context.Context, fleet.ImageID) (fleet.ImageFiles, error) {
	return fleet.ImageFiles{}, errNoImages
}

// Specialise implements kvm.Images.
func (nothing) Specialise(context.Context, fleet.ImageID, fleet.Tenant, string) (fleet.TenantFiles, error) {
	return fleet.TenantFiles{}, errNoImages
}

// FormatVolume implements kvm.Images.
func (nothing) FormatVolume(context.Context, fleet.ImageID, []string, *os.File) error {
	return errNoImages
}
