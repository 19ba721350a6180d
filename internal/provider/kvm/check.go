package kvm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"dormouse/internal/fleet"
)

// The settings of a KVM cluster.
const (
	// SettingMemoryMiB is how much memory installations may use on this host;
	// unset, 80 % of what was available when the provisioner began.
	SettingMemoryMiB = "memory_mib"
	// SettingDiskMiB is how much disk they may use; unset, 80 % of what is free
	// or used by their volumes and memories already.
	SettingDiskMiB = "disk_mib"
)

const (
	// minFreeMemoryMiB and minFreeDiskMiB are what a host must have to be of any use.
	minFreeMemoryMiB = 128
	minFreeDiskMiB   = 512
)

// Check looks whether this host can run instances: QEMU, the accelerator (a
// probe guest is really booted), tools, memory, disk, network and the cluster's
// settings. What is missing is in the report, with what mends it; the error is
// for a check that could not be made. The report names this host and its capacity.
func (p *Provider) Check(ctx context.Context, cluster fleet.Cluster) (fleet.CheckReport, error) {
	var report fleet.CheckReport
	add := func(item fleet.CheckItem) {
		item.OK = item.Mend == ""
		report.Items = append(report.Items, item)
	}
	add(p.checkQEMU(ctx))
	add(p.checkAccel(ctx))
	if err := ctx.Err(); err != nil {
		return fleet.CheckReport{}, fleet.Errorf(fleet.KindUnavailable, "checking the cluster: %w", err)
	}
	add(checkTools())
	memory, item := p.checkMemory(cluster.Settings)
	add(item)
	disk, item := p.checkDisk(cluster.Settings)
	add(item)
	add(p.checkNetwork(ctx))
	add(checkSettings(cluster.Settings))
	report.Hosts = []fleet.Host{{
		ID: p.o.HostID, ClusterID: cluster.ID, Name: p.o.HostName, State: fleet.HostUp,
		MemoryMiB: memory, DiskMiB: disk, AddressPool: p.o.Network.Pool(),
	}}
	return report, nil
}

func (p *Provider) checkQEMU(ctx context.Context) fleet.CheckItem {
	item := fleet.CheckItem{Name: "qemu"}
	version, err := qemuVersion(ctx, p.o.QEMU)
	if err != nil {
		item.Detail, item.Mend = err.Error(), "apt-get install qemu-system-x86"
		return item
	}
	item.Detail = p.o.QEMU + " " + version
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, _ := strconv.Atoi(major)
	if b, _ := strconv.Atoi(minor); a < 7 || a == 7 && b < 2 {
		item.Mend = "install QEMU 7.2 or newer: apt-get install qemu-system-x86"
	}
	return item
}

func (p *Provider) checkAccel(ctx context.Context) fleet.CheckItem {
	item := fleet.CheckItem{Name: "accelerator"}
	found, err := p.accel.find(ctx, true)
	if err != nil {
		item.Detail, item.Mend = err.Error(), "qemu-system-x86_64 must be able to run a guest: start the provisioner with --accel=tcg, or see the detail"
		return item
	}
	item.Detail = found.Detail
	return item
}

func checkTools() fleet.CheckItem {
	item := fleet.CheckItem{Name: "tools"}
	var found, missing []string
	for _, tool := range []string{toolMkfs, toolCheck, toolResize} {
		if path, err := exec.LookPath(tool); err == nil {
			found = append(found, path)
		} else {
			missing = append(missing, tool)
		}
	}
	item.Detail = strings.Join(found, ", ")
	if len(missing) > 0 {
		item.Detail = "not found: " + strings.Join(missing, ", ")
		item.Mend = "apt-get install e2fsprogs, and have /usr/sbin in PATH"
	}
	return item
}

func (p *Provider) checkMemory(settings map[string]string) (int64, fleet.CheckItem) {
	item := fleet.CheckItem{Name: "memory"}
	total, err := memInfoMiB("MemTotal:")
	if err != nil {
		item.Detail, item.Mend = err.Error(), "mount /proc"
		return 0, item
	}
	capacity := p.memoryAtStart * 8 / 10
	if set, ok := setting(settings, SettingMemoryMiB); ok {
		capacity = set
	}
	item.Detail = fmt.Sprintf("%d MiB for installations; %d MiB were available at the start, of %d MiB", capacity, p.memoryAtStart, total)
	switch {
	case capacity > total:
		item.Mend = fmt.Sprintf("set %s to at most %d, or leave it out", SettingMemoryMiB, total)
	case capacity < minFreeMemoryMiB:
		item.Mend = fmt.Sprintf("free some memory: at least %d MiB are needed for installations", minFreeMemoryMiB)
	}
	return capacity, item
}

func (p *Provider) checkDisk(settings map[string]string) (int64, fleet.CheckItem) {
	item := fleet.CheckItem{Name: "disk"}
	var st unix.Statfs_t
	if err := unix.Statfs(p.o.DataDir, &st); err != nil {
		item.Detail, item.Mend = fmt.Sprintf("looking at %s: %v", p.o.DataDir, err), "make the data directory accessible"
		return 0, item
	}
	free := int64(st.Bavail) * st.Bsize >> 20
	capacity := (free + p.ownMiB()) * 8 / 10
	if set, ok := setting(settings, SettingDiskMiB); ok {
		capacity = set
	}
	item.Detail = fmt.Sprintf("%d MiB for installations; %d MiB are free in %s", capacity, free, p.o.DataDir)
	size := int64(st.Blocks) * st.Bsize >> 20
	switch {
	case capacity > size:
		item.Mend = fmt.Sprintf("set %s to at most %d, or leave it out", SettingDiskMiB, size)
	case free < minFreeDiskMiB:
		item.Mend = fmt.Sprintf("free some space in %s: at least %d MiB", p.o.DataDir, minFreeDiskMiB)
	}
	return capacity, item
}

// ownMiB is what volumes, and the memory of machines and sleepers, take up on disk now.
func (p *Provider) ownMiB() int64 {
	var bytes int64
	for _, pattern := range []string{
		filepath.Join(p.volumeDir, "*.raw"), filepath.Join(p.instanceDir, "*", ramName), filepath.Join(p.instanceDir, "*", packedName),
	} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if info, err := os.Stat(file); err == nil {
				bytes += onDisk(info)
			}
		}
	}
	return bytes >> 20
}

func (p *Provider) checkNetwork(ctx context.Context) fleet.CheckItem {
	item := fleet.CheckItem{Name: "network"}
	ids, err := p.o.Network.List(ctx)
	if err != nil {
		item.Detail, item.Mend = err.Error(), "run the provisioner as root, or without a bridge for user networking"
		return item
	}
	item.Detail = fmt.Sprintf("a bridge for %s, %d ports", p.o.Network.Pool(), len(ids))
	if p.o.Network.Pool() == "" {
		item.Detail = fmt.Sprintf("user networking with forwarded loopback ports, for %d instances", len(ids))
	}
	return item
}

func checkSettings(settings map[string]string) fleet.CheckItem {
	item := fleet.CheckItem{Name: "settings", Detail: "understood"}
	known := []string{SettingMemoryMiB, SettingDiskMiB}
	var wrong []string
	for key, value := range settings {
		if !slices.Contains(known, key) {
			wrong = append(wrong, key+" is unknown")
		} else if _, ok := setting(settings, key); !ok {
			wrong = append(wrong, fmt.Sprintf("%s is no positive number: %q", key, value))
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		item.Detail = strings.Join(wrong, "; ")
		item.Mend = "a cluster on KVM takes --set " + strings.Join(known, "=N and --set ") + "=N"
	}
	return item
}

func setting(settings map[string]string, key string) (int64, bool) {
	n, err := strconv.ParseInt(settings[key], 10, 64)
	return n, err == nil && n > 0
}

func memAvailableMiB() (int64, error) { return memInfoMiB("MemAvailable:") }

// memInfoMiB reads a field of proc(5) meminfo.
func memInfoMiB(field string) (int64, error) { return kibField("/proc/meminfo", field) }

// kibField reads a line "field N kB" and returns N in MiB.
func kibField(path, field string) (int64, error) {
	body, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("looking at memory: %w", err)
	}
	for line := range strings.Lines(string(body)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != field {
			continue
		}
		n, err := strconv.ParseInt(words[1], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("looking at memory: %s in %s: %w", field, path, err)
		}
		return n >> 10, nil
	}
	return 0, fmt.Errorf("looking at memory: %s has no %s", path, field)
}
