package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"dormouse/internal/guest"
)

// partitionWait is how long a partition may take to appear: SCSI and NVMe look for
// their disks in the background, and some controllers take their time to start.
const partitionWait = 30 * time.Second

// bootsByItself tells whether the guest booted from a disk and not by a host of
// ours. It is the command line that says so, and not which disk turns up: a
// tenant's volume may hold any partitions, which are nobody's root.
func bootsByItself() bool {
	text, err := os.ReadFile("/proc/cmdline")
	return err == nil && slices.Contains(strings.Fields(string(text)), guest.CmdlineDisk)
}

// partition is a partition with a name.
type partition struct {
	device string // such as sda2
	disk   string // such as sda
	name   string
}

// findPartition returns the device of the partition that stands for the disk
// with that serial number. The configuration lies on the root's disk, the volume
// there or on another one; all that is elsewhere by these names is passed over or refused.
func findPartition(serial string) (string, error) {
	name := map[string]string{
		guest.DiskRoot: guest.PartitionRoot, guest.DiskConfig: guest.PartitionConfig, guest.DiskVolume: guest.PartitionVolume,
	}[serial]
	var found string
	var err error
	ok := await(partitionWait, func() bool {
		found, err = choosePartition(listPartitions("/sys/class/block"), name)
		return found != "" || err != nil
	})
	if err != nil {
		return "", err
	}
	if !ok {
		return "", fmt.Errorf("there is no partition named %s: attach the disk that has it, by a controller that this kernel has a driver for", name)
	}
	return "/dev/" + found, nil
}

// choosePartition returns the device of the partition of that name; "" while
// there is none.
func choosePartition(all []partition, name string) (string, error) {
	named := func(name string) (found []partition) {
		for _, p := range all {
			if p.name == name {
				found = append(found, p)
			}
		}
		return found
	}
	roots, found := named(guest.PartitionRoot), named(name)
	if len(roots) > 1 {
		return "", fmt.Errorf("%s and %s are both named %s: detach the disk that this guest does not boot from", roots[0].device, roots[1].device, guest.PartitionRoot)
	}
	if len(roots) == 0 || len(found) == 0 {
		return "", nil
	}
	for _, p := range found {
		if p.disk == roots[0].disk {
			return p.device, nil
		}
	}
	switch {
	case name != guest.PartitionVolume:
		return "", nil
	case len(found) > 1:
		return "", fmt.Errorf("%s and %s are both named %s: attach one volume", found[0].device, found[1].device, name)
	}
	return found[0].device, nil
}

// listPartitions reads what the kernel says of its block devices: each is a link
// to a directory, which for a partition lies in its disk's and has a file uevent with its name.
func listPartitions(dir string) []partition {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var all []partition
	for _, e := range entries {
		text, err := os.ReadFile(path.Join(dir, e.Name(), "uevent"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			name, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "PARTNAME=")
			if !ok {
				continue
			}
			if where, err := filepath.EvalSymlinks(path.Join(dir, e.Name())); err == nil {
				all = append(all, partition{device: e.Name(), disk: path.Base(path.Dir(where)), name: name})
			}
		}
	}
	return all
}
