package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dormouse/client"
)

const (
	// ballast is how much memory each guest's program fills with what does not
	// compress, in MiB.
	ballast = 24
	// sleeperMiB is the memory of each guest.
	sleeperMiB = 128
	// awakeSample is of how many the memory is looked at while they are awake.
	awakeSample = 5
)

// benchSleepers measures what installations cost that sleep: processes,
// statements beside those of a control plane that has none, disk; and how many
// fit into this machine's memory awake.
func benchSleepers(ctx context.Context, b *bench) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("it needs root: the guests are on a bridge in a network namespace")
	}
	if err := b.sleepers(ctx, "sleep.", pick(b, 500, 20)); err != nil || b.kernelImage == "" {
		return err
	}
	b.say("again with the kernel %s", b.kernelImage)
	return b.sleepers(ctx, "sleep.small_kernel.", pick(b, 20, 5), "--kernel-image", b.kernelImage)
}

// sleepers does all of it with one kernel.
func (b *bench) sleepers(ctx context.Context, prefix string, n int, extra ...string) (err error) {
	d, err := b.newDatabase(ctx, strings.Trim(strings.ReplaceAll(prefix, ".", "_"), "_"))
	if err != nil {
		return err
	}
	packages, err := filepath.Abs(b.kernelPackages)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "data-"+d.name)
	b.onClose(func() error { return endStrays(dir) })
	p, err := b.startProvisioner(ctx, start{name: d.name, database: d.url, extra: append([]string{
		"--accel", b.accel, "--network", "bridge", "--kernel-packages", packages, "--pack-after", "1s"}, extra...)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := b.furnishProbe(ctx, p); err != nil {
		return err
	}
	none, err := b.quietMinute(ctx, d)
	if err != nil {
		return err
	}
	s := &dormitory{b: b, p: p}
	if err := s.fill(ctx, n); err != nil {
		return err
	}
	b.print(prefix+"awake_mb", median(s.awake), "MB")
	available, err := memoryAvailable()
	if err != nil {
		return err
	}
	b.print(prefix+"awake_fit", float64(int(available/median(s.awake))), "installations")
	if err := s.packed(ctx); err != nil {
		return err
	}
	found, err := machines("")
	if err != nil {
		return err
	}
	left := 0
	for _, instance := range found {
		if _, ours := s.names[instance]; ours {
			left++
		}
	}
	b.print(prefix+"sleepers", float64(n), "installations")
	b.print(prefix+"processes", float64(left), "processes")
	if err := s.disk(prefix); err != nil {
		return err
	}
	some, err := b.quietMinute(ctx, d)
	if err != nil {
		return err
	}
	b.print(prefix+"statements_per_minute", some, "statements")
	b.print(prefix+"statements_per_minute_with_none", none, "statements")
	return s.wake(ctx, prefix)
}

// furnishProbe gives a server a cluster of real machines and a program that fills memory.
func (b *bench) furnishProbe(ctx context.Context, p *provisioner) error {
	if err := b.newCluster(ctx, p, client.CreateCluster{Name: "local", Provider: "kvm"}); err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "guestprobe")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "program"), "./e2e/guestprobe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the guests' program (run it in the module's directory): %w: %s", err, out)
	}
	manifest, err := os.ReadFile("e2e/guestprobe/package.manifest")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "package.manifest"), manifest, 0o644)
	}
	if err != nil {
		return err
	}
	return b.uploadDir(ctx, p, dir)
}

// quietMinute counts the statements of a minute in which nobody asks for anything.
func (b *bench) quietMinute(ctx context.Context, d *database) (perMinute float64, err error) {
	if err := pause(ctx, pick(b, 30*time.Second, 5*time.Second)); err != nil {
		return 0, err
	}
	length := pick(b, 3*time.Minute, 30*time.Second)
	made, err := d.measure(ctx, func() error { return pause(ctx, length) })
	if err != nil {
		return 0, err
	}
	b.explain(made, length.Minutes(), "minute")
	return float64(made.statements) / length.Minutes(), nil
}

// dormitory is many sleepers.
type dormitory struct {
	b *bench
	p *provisioner
	// instances are in the order of their making; names are those of their installations.
	instances []string
	names     map[string]string
	// awake is what some took of the memory while they were, in MB.
	awake []float64
}

// fill makes sleepers, one after the other since each boot takes a core.
func (s *dormitory) fill(ctx context.Context, n int) error {
	s.names = map[string]string{}
	for i := range n {
		w := &waking{p: s.p, name: fmt.Sprintf("sleeper-%d", i)}
		v, err := s.p.client.Installations.Create(ctx, client.CreateInstallation{Name: w.name, Owner: owner, Package: "guestprobe", Cluster: "local",
			MemoryMiB: sleeperMiB, DiskMiB: 32, Env: map[string]string{"BALLAST_MIB": strconv.Itoa(ballast)}})
		if err == nil {
			err = w.follow(ctx, v)
		}
		if err == nil {
			v, err = s.p.client.Installations.Get(ctx, w.name)
		}
		if err != nil {
			return err
		}
		s.instances, s.names[v.Instance.ID] = append(s.instances, v.Instance.ID), w.name
		if i < awakeSample {
			mb, err := residentMB(v.Instance.ID)
			if err != nil {
				return err
			}
			s.awake = append(s.awake, mb)
		}
		if err := w.sleep(ctx); err != nil {
			return err
		}
		if (i+1)%10 == 0 {
			s.b.say("%d sleep", i+1)
		}
	}
	return nil
}

// residentMB is the memory of an instance's QEMU, its share of what it has in common with others included.
func residentMB(instance string) (float64, error) {
	found, err := machines(instance)
	if err != nil {
		return 0, err
	}
	for pid := range found {
		return kilobytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
	}
	return 0, fmt.Errorf("there is no QEMU of instance %s", instance)
}

func memoryAvailable() (float64, error) { return kilobytes("/proc/meminfo", "MemAvailable:") }

// kilobytes reads one line of a file of the kernel's, and returns it in MB.
func kilobytes(path, name string) (float64, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(content)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			kb, err := strconv.ParseFloat(f[1], 64)
			return kb * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, name)
}

// packed waits until all memories are packed.
func (s *dormitory) packed(ctx context.Context) error {
	return until(ctx, time.Second, 30*time.Minute, "all sleepers are packed", func() (bool, error) {
		for _, id := range s.instances {
			if !s.p.has(id, "packed") || s.p.has(id, "ram") {
				return false, nil
			}
		}
		return true, nil
	})
}

// disk tells what a sleeper takes: its own directory, and the volume beside.
func (s *dormitory) disk(prefix string) error {
	var own, packed []float64
	for _, id := range s.instances {
		dir := filepath.Join(s.p.dataDir, "host", "instances", id)
		mb, err := onDiskMB(dir)
		if err != nil {
			return err
		}
		file, err := onDiskMB(filepath.Join(dir, "packed"))
		if err != nil {
			return err
		}
		own, packed = append(own, mb), append(packed, file)
	}
	volumes, err := onDiskMB(filepath.Join(s.p.dataDir, "host", "volumes"))
	if err != nil {
		return err
	}
	s.b.print(prefix+"disk_mb", median(own), "MB")
	s.b.print(prefix+"disk_max_mb", percentile(own, 1), "MB")
	s.b.print(prefix+"packed_file_mb", median(packed), "MB")
	s.b.print(prefix+"volume_mb", volumes/float64(len(s.instances)), "MB")
	return nil
}

// onDiskMB is what all files of a tree take.
func onDiskMB(root string) (sum float64, err error) {
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil {
			return err
		}
		sum += float64(st.Blocks) * 512 / 1e6
		return nil
	})
	return sum, err
}

// wake wakes some, which must still have what they had in memory.
func (s *dormitory) wake(ctx context.Context, prefix string) error {
	var took []float64
	for i := 0; i < len(s.instances); i += max(1, len(s.instances)/5) {
		begin := time.Now()
		name := s.names[s.instances[i]]
		c, err := dial(s.p.gateway)
		if err != nil {
			return err
		}
		c.addr = name + ".localhost"
		text, err := c.want(200, "GET", "/ballast", "", "")
		c.close()
		if err != nil {
			return err
		}
		if string(text) != strconv.Itoa(ballast) {
			return fmt.Errorf("%s has %q MiB of ballast after its sleep", name, text)
		}
		took = append(took, ms(time.Since(begin)))
	}
	s.b.print(prefix+"woken_ms", median(took), "ms")
	return nil
}
