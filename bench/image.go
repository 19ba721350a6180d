package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"dormouse/client"
	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/nanos"
)

// benchImage measures images of the Nanos kernel: how long a build takes beside a
// copy of the same bytes, what a further tenant of a release costs, and how much
// memory a large image needs.
func benchImage(ctx context.Context, b *bench) error {
	release := os.Getenv("NANOS_DIR")
	if release == "" {
		b.say("image was left out: NANOS_DIR names no release of Nanos (boot.img, kernel.img, klibs/)")
		return nil
	}
	p, err := b.startImageBuilder(ctx, "image", release)
	if err != nil {
		return err
	}
	program := make([]byte, staticBytes)
	if err := b.staticProgram(program); err != nil {
		return err
	}
	static := packageFiles{
		{tar.Header{Name: "package.manifest", Mode: 0o644, Typeflag: tar.TypeReg}, []byte(`{"Name":"static","Program":"app","Ports":[8080],"Kernel":"nanos"}`)},
		{tar.Header{Name: "app", Mode: 0o755, Typeflag: tar.TypeReg}, program},
	}
	last, err := b.imageBuilds(ctx, p, "image.nanos", static, "app", "static", "nanos")
	if err != nil {
		return err
	}
	if err := b.imageTenants(ctx, p, release, last.ID); err != nil {
		return err
	}
	mosquitto, err := b.debianPackage(ctx, p, "mosquitto")
	if err != nil {
		return err
	}
	for name, kernel := range map[string]string{"image.mosquitto": "nanos", "image.mosquitto_linux": "linux"} {
		if _, err := b.imageBuilds(ctx, p, name, mosquitto, "sysroot/usr/sbin/mosquitto", "mosquitto", kernel); err != nil {
			return err
		}
	}
	return errors.Join(p.stop(), b.imageMemory(ctx, release))
}

// staticBytes is how long the static program is.
const staticBytes = 6_000_000

// startImageBuilder starts a process that builds images and does nothing else.
func (b *bench) startImageBuilder(ctx context.Context, name, release string) (*provisioner, error) {
	packages, err := filepath.Abs(b.kernelPackages)
	if err != nil {
		return nil, err
	}
	db, err := b.newDatabase(ctx, name)
	if err != nil {
		return nil, err
	}
	return b.startProvisioner(ctx, start{name: name, database: db.url, roles: "api", extra: []string{"--kernel-packages", packages, "--nanos-dir", release}})
}

// staticProgram fills p with our init, which is a static program, and noise after its end.
func (b *bench) staticProgram(p []byte) error {
	body, err := os.ReadFile(filepath.Join(b.bin, "init"))
	if err != nil {
		return err
	}
	if _, err := rand.NewChaCha8([32]byte{}).Read(p); err != nil {
		return err
	}
	copy(p, body)
	return nil
}

// packageFiles are the members of a package.
type packageFiles []packageFile

type packageFile struct {
	header tar.Header
	body   []byte
}

// debianPackage has the server make a package of Debian's with the example's
// manifest, and returns what it has made.
func (b *bench) debianPackage(ctx context.Context, p *provisioner, name string) (packageFiles, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(b.bin, "cloudctl"), "--server", "http://"+p.api, "-o", "json",
		"package", "create", "--deb", name, "--manifest", "examples/daemons/"+name, "--version", "first").Output()
	if err != nil {
		return nil, fmt.Errorf("making a package of %s (run it in the module's directory): %w", name, err)
	}
	var made client.Package
	if err := json.Unmarshal(out, &made); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(p.dataDir, "packages", made.Digest+".tar"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var files packageFiles
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			return nil, err
		}
		files = append(files, packageFile{*h, body})
	}
}

// change makes the package another one by the last byte of a file.
func (f packageFiles) change(name string) error {
	for _, m := range f {
		if m.header.Name == name && len(m.body) > 0 {
			m.body[len(m.body)-1]++
			return nil
		}
	}
	return fmt.Errorf("the package holds no %s", name)
}

// archive writes them as a tar.gz.
func (f packageFiles) archive(w io.Writer) error {
	zw, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(zw)
	for _, m := range f {
		m.header.Size = int64(len(m.body))
		if err := tw.WriteHeader(&m.header); err != nil {
			return err
		}
		if _, err := tw.Write(m.body); err != nil {
			return err
		}
	}
	return errors.Join(tw.Close(), zw.Close())
}

// create uploads the package.
func (f packageFiles) create(ctx context.Context, p *provisioner, version, kernel string) (client.Package, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(f.archive(w)) }()
	created, err := p.client.Packages.Create(ctx, client.NewPackage{Version: version, Kernel: kernel, Content: r})
	return created, errors.Join(err, r.CloseWithError(io.ErrClosedPipe))
}

// imageBuilds builds an image again and again, each time from a program with
// another byte in it and for an empty store, and beside it copies what came out.
// It prints build_ms, copy_ratio and bytes under the name, and returns the last image.
func (b *bench) imageBuilds(ctx context.Context, p *provisioner, name string, tree packageFiles, program, packageName, kernel string) (client.Image, error) {
	var builds, copies, ratios []float64
	var image client.Image
	for round := range pick(b, 31, 3) {
		version := fmt.Sprintf("1.0.%d-%s", round, kernel)
		err := tree.change(program)
		if err != nil {
			return image, err
		}
		pkg, err := tree.create(ctx, p, version, kernel)
		if err != nil {
			return image, fmt.Errorf("creating the package: %w", err)
		}
		begun := time.Now()
		if image, err = p.client.Images.Build(ctx, client.BuildImage{Package: pkg.ID}); err != nil {
			return image, err
		}
		took := time.Since(begun)
		dir := filepath.Join(p.dataDir, "images", image.ID)
		copied, err := copyFiles(dir, filepath.Join(p.dataDir, "copy"))
		if err != nil {
			return image, err
		}
		builds, copies, ratios = append(builds, ms(took)), append(copies, ms(copied)), append(ratios, took.Seconds()/copied.Seconds())
		if round < pick(b, 31, 3)-1 {
			if err := p.client.Packages.Delete(ctx, packageName+"@"+version); err != nil { // and its image
				return image, err
			}
		}
	}
	b.print(name+".build_ms", median(builds), "ms")
	b.print(name+".copy_ms", median(copies), "ms")
	b.print(name+".copy_ratio", median(ratios), "ratio")
	b.print(name+".bytes", float64(image.SizeBytes), "bytes")
	return image, nil
}

// copyFiles reads and writes every file of a directory, out to the disk as a
// build does, and tells how long that takes. Nothing of the copy stays.
func copyFiles(from, to string) (took time.Duration, err error) {
	if err := os.Mkdir(to, 0o755); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(to)) }()
	names, err := os.ReadDir(from)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	for _, n := range names {
		if err := copyFile(filepath.Join(from, n.Name()), filepath.Join(to, n.Name())); err != nil {
			return 0, err
		}
	}
	return time.Since(begun), nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	// As cp does where it can't have the kernel copy: a build can't either.
	if _, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 256<<10)); err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// imageTenants makes a thousand tenants of one image, each with an environment of its own.
func (b *bench) imageTenants(ctx context.Context, p *provisioner, release, image string) error {
	log := logrus.New()
	log.SetOutput(io.Discard)
	builder, err := imagebuilder.New(imagebuilder.Options{Dir: p.dataDir, Kernels: []imagebuilder.Kernel{nanos.New(nanos.Options{Dir: release})}, Log: log})
	if err != nil {
		return err
	}
	defer builder.Close()
	base := filepath.Join(b.dir, "tenants")
	if err := os.Mkdir(base, 0o755); err != nil {
		return err
	}
	var took []float64
	var each, sum int64
	for n := range pick(b, 1000, 50) {
		dir := filepath.Join(base, strconv.Itoa(n))
		env := map[string]string{}
		for v := range 20 {
			env[fmt.Sprintf("SETTING_%d", v)] = fmt.Sprintf("value %d of tenant %d", v, n)
		}
		begun := time.Now()
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		_, err := builder.Specialise(ctx, fleet.ImageID(image), fleet.Tenant{
			Hostname: fmt.Sprintf("tenant-%d", n), Program: "/app", Args: []string{"--tenant", strconv.Itoa(n)}, Env: env,
			Network: fleet.GuestNetwork{Address: fmt.Sprintf("10.77.%d.%d/20", n/250, n%250+2), Gateway: "10.77.0.1", DNS: []string{"10.77.0.1"}},
		}, dir)
		if err != nil {
			return err
		}
		took = append(took, ms(time.Since(begun)))
		used, err := allocatedBytes(dir)
		if err != nil {
			return err
		}
		each, sum = max(each, used), sum+used
	}
	b.print("image.tenant_ms", median(took), "ms")
	b.print("image.tenant_p99_ms", percentile(took, 0.99), "ms")
	b.print("image.tenant_bytes", float64(each), "bytes")
	b.print(fmt.Sprintf("image.tenants%d_mb", len(took)), float64(sum)/1e6, "MB")
	return os.RemoveAll(base)
}

// allocatedBytes is what du shows of a directory.
func allocatedBytes(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	})
	return sum, err
}

// imageMemory has a fresh process take in and build ever larger packages, and
// prints the most memory that it has had meanwhile.
func (b *bench) imageMemory(ctx context.Context, release string) error {
	p, err := b.startImageBuilder(ctx, "memory", release)
	if err != nil {
		return err
	}
	// What it needed to unpack the guests' kernel at its first start is not a build's: proc(5), clear_refs.
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0); err != nil {
		return err
	}
	for _, size := range []struct {
		name  string
		bytes int64
	}{{"10mb", 10e6}, {"100mb", 100e6}, {"2gb", pick(b, int64(2e9), int64(200e6))}} {
		r, w := io.Pipe()
		go func() { w.CloseWithError(largePackage(w, size.bytes)) }()
		pkg, err := p.client.Packages.Create(ctx, client.NewPackage{Version: size.name, Content: r})
		if err := errors.Join(err, r.CloseWithError(io.ErrClosedPipe)); err != nil {
			return err
		}
		begun := time.Now()
		image, err := p.client.Images.Build(ctx, client.BuildImage{Package: pkg.ID})
		if err != nil {
			return err
		}
		peak, err := peakBytes(p.cmd.Process.Pid)
		if err != nil {
			return err
		}
		b.say("an image of %d MB was built in %.1f s", image.SizeBytes/1e6, time.Since(begun).Seconds())
		b.print("image.builder_rss_mb."+size.name, float64(peak)/1e6, "MB")
		if err := p.client.Packages.Delete(ctx, "large@"+size.name); err != nil {
			return err
		}
	}
	return p.stop()
}

// largePackage writes a package with a static program and one large file.
func largePackage(w io.Writer, size int64) error {
	zw, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(zw)
	manifest := `{"Name":"large","Program":"/app","Kernel":"nanos"}`
	for _, f := range []struct {
		name string
		size int64
		body io.Reader
	}{
		{"package.manifest", int64(len(manifest)), strings.NewReader(manifest)},
		{"sysroot/app", int64(len(smallProgram)), strings.NewReader(smallProgram)},
		{"sysroot/data", size, io.LimitReader(pattern{}, size)},
	} {
		if err := tw.WriteHeader(&tar.Header{Name: f.name, Mode: 0o755, Size: f.size, Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		if _, err := io.Copy(tw, f.body); err != nil {
			return err
		}
	}
	return errors.Join(tw.Close(), zw.Close())
}

// smallProgram is the header of a static ELF program for x86-64 without segments.
var smallProgram = "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x02\x00\x3e\x00\x01\x00\x00\x00\x01" + strings.Repeat("\x00", 7) +
	"\x40" + strings.Repeat("\x00", 19) + "\x40\x00\x38\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// pattern never ends, and is no zeros.
type pattern struct{}

// Read implements io.Reader.
func (pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i>>4) | 1
	}
	return len(p), nil
}

// peakBytes is the most memory that a process has had resident (VmHWM) since
// that was cleared.
func peakBytes(pid int) (int64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("the process has no VmHWM")
}
