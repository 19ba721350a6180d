package imagebuilder

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestImport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir, &fakeKernel{digest: "k"})
	p := importApp(t, b, "1.0")
	require.Empty(t, p.ID)
	require.Equal(t, []string{"app", "1.0"}, []string{p.Name, p.Version})
	require.Equal(t, fleet.KernelLinux, p.Kernel)
	require.Equal(t, "/app", p.Manifest.Program)
	require.Equal(t, fleet.Health{Type: fleet.HealthHTTP, Port: 8080, Path: "/", Timeout: 2 * time.Second}, p.Manifest.Health)
	require.Equal(t, []string{"package.manifest: the key Klibs has no effect with the kernel linux"}, p.Warnings)
	require.Equal(t, []string{p.Digest + ".tar"}, inDir(t, dir, "packages"))
	info, err := os.Stat(filepath.Join(dir, "packages", p.Digest+".tar"))
	require.NoError(t, err)
	require.Equal(t, info.Size(), p.SizeBytes)

	require.Equal(t, p, importApp(t, b, "1.0"), "imported again it is the same")
	require.NotEqual(t, p.Digest, importApp(t, b, "1.1").Digest)
	require.Empty(t, inDir(t, dir, "tmp"))
}

func TestImportRefusedLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir, &fakeKernel{digest: "k"})
	whole := archive(t, "1", staticELF(elf.EM_X86_64))
	for name, c := range map[string]struct {
		body    []byte
		options ImportOptions
		says    string
	}{
		"NotGzip":      {[]byte("something"), ImportOptions{}, "neither a program (ELF) nor a tar archive"},
		"Truncated":    {whole[:len(whole)-20], ImportOptions{}, "cut short"},
		"OtherMachine": {archive(t, "1", staticELF(elf.EM_AARCH64)), ImportOptions{}, "/app is an ELF for ARM aarch64; build it for x86-64 (GOARCH=amd64)"},
		"Name":         {whole, ImportOptions{Name: "No_Label"}, "no DNS label"},
		"Version":      {whole, ImportOptions{Version: "a b"}, "is not valid"},
		"Kernel":       {whole, ImportOptions{Kernel: "nanos"}, "use one of linux"},
	} {
		_, err := b.Import(context.Background(), bytes.NewReader(c.body), c.options)
		require.ErrorContains(t, err, c.says, name)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), name)
		require.Empty(t, inDir(t, dir, "packages"), name)
		require.Empty(t, inDir(t, dir, "tmp"), name)
	}
}

func TestEnsure(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := &fakeKernel{digest: "k1", started: make(chan struct{}, 10)}
	b := open(t, dir, k)
	p := importApp(t, b, "1")
	id, err := b.Ensure(context.Background(), p)
	require.NoError(t, err)
	files, err := b.Files(context.Background(), id)
	require.NoError(t, err)
	require.Equal(t, fleet.ImageFiles{ID: id, Kernel: fleet.KernelLinux, RootPath: filepath.Join(dir, "images", string(id), "root")}, files)
	for path, mode := range map[string]os.FileMode{dir: 0o755, filepath.Join(dir, "images"): 0o755, filepath.Dir(files.RootPath): 0o755, files.RootPath: 0o644, filepath.Join(dir, "packages"): 0o700} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm()&(mode|0o055), path)
	}
	require.Empty(t, inDir(t, dir, "tmp"))

	again, err := b.Ensure(context.Background(), p)
	require.NoError(t, err)
	require.Equal(t, id, again)
	require.Len(t, k.started, 1, "what is there is not built again")

	k.digest = "k2"
	other, err := b.Ensure(context.Background(), p)
	require.NoError(t, err)
	require.NotEqual(t, id, other)

	require.NoError(t, b.RemovePackage(context.Background(), p.Digest))
	require.NoError(t, b.RemovePackage(context.Background(), p.Digest), "twice is no error")
	for _, d := range []string{"images", "packages", "tmp"} {
		require.Empty(t, inDir(t, dir, d), d)
	}
	_, err = b.Files(context.Background(), id)
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	_, err = b.Ensure(context.Background(), p)
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(b.RemovePackage(context.Background(), "../x")))
	_, err = b.Files(context.Background(), "../../etc")
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
}

func TestEnsureBuildsOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := &fakeKernel{digest: "k", started: make(chan struct{}, 100), resume: make(chan struct{})}
	// Two builders on one directory are to one another as two processes: flock is by open file.
	builders := []*Builder{open(t, dir, k), open(t, dir, k)}
	p := importApp(t, builders[0], "1")

	impatient, cancel := context.WithCancel(context.Background())
	gone := make(chan error, 1)
	go func() {
		_, err := builders[0].Ensure(impatient, p)
		gone <- err
	}()
	<-k.started
	cancel()
	require.ErrorIs(t, <-gone, context.Canceled, "who asked first is gone; the build goes on")

	var asked sync.WaitGroup
	errs := make(chan error, 40)
	for i := range 40 {
		asked.Go(func() {
			_, err := builders[i%2].Ensure(context.Background(), p)
			errs <- err
		})
	}
	close(k.resume)
	asked.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Empty(t, k.started, "built once")
	require.Len(t, inDir(t, dir, "images"), 1)
	require.Empty(t, inDir(t, dir, "tmp"))
}

func TestEnsureBounded(t *testing.T) {
	t.Parallel()
	k := &fakeKernel{digest: "k", started: make(chan struct{}), resume: make(chan struct{})}
	b, err := New(Options{Dir: t.TempDir(), Kernels: []Kernel{k}, Log: logger(), MaxBuilds: 2})
	require.NoError(t, err)
	defer b.Close()
	done := make(chan error, 5)
	for _, v := range []string{"1", "2", "3", "4", "5"} {
		p := importApp(t, b, v)
		go func() {
			_, err := b.Ensure(context.Background(), p)
			done <- err
		}()
	}
	<-k.started
	<-k.started
	require.Len(t, b.builds, 2)
	for range 3 { // each that begins needs one that has ended
		k.resume <- struct{}{}
		require.NoError(t, <-done)
		<-k.started
		require.Len(t, b.builds, 2)
	}
	close(k.resume)
	require.NoError(t, <-done)
	require.NoError(t, <-done)
}

func TestEnsureFails(t *testing.T) {
	t.Parallel()
	full := &os.PathError{Op: "write", Path: "root", Err: syscall.ENOSPC}
	for name, c := range map[string]struct {
		kernel *fakeKernel
		kind   fleet.ErrorKind
		reason fleet.Reason
		says   string
	}{
		"Permanent": {&fakeKernel{digest: "k", fail: fleet.Failure(fleet.ReasonImageBuild, "no room for /proc")}, fleet.KindPermanent, fleet.ReasonImageBuild, "no room for /proc"},
		"DiskFull":  {&fakeKernel{digest: "k", fail: full}, fleet.KindCapacity, "", "the disk is full"},
		"Panic":     {&fakeKernel{digest: "k", panics: true}, fleet.KindPermanent, fleet.ReasonImageBuild, "broken kernel"},
		"NoKernel":  {&fakeKernel{}, fleet.KindUnavailable, "", "no kernel yet"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b := open(t, dir, c.kernel)
			p := importApp(t, b, "1")
			for range 2 { // a failure is not kept: the next one tries again
				_, err := b.Ensure(context.Background(), p)
				require.ErrorContains(t, err, c.says)
				require.ErrorContains(t, err, "building the image of app@1")
				var typed *fleet.Error
				require.True(t, errors.As(err, &typed))
				require.Equal(t, c.kind, typed.Kind)
				require.Equal(t, c.reason, typed.Reason)
				require.Empty(t, inDir(t, dir, "images"))
				require.Empty(t, inDir(t, dir, "tmp"))
			}
		})
	}
}

func TestEnsureDamagedPackage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir, &fakeKernel{digest: "k"})
	p := importApp(t, b, "1")
	require.NoError(t, os.Truncate(b.packagePath(p.Digest), p.SizeBytes-1024))
	_, err := b.Ensure(context.Background(), p)
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	require.ErrorContains(t, err, "damaged")

	// Imported again, it is mended: the name says what the content must be.
	importApp(t, b, "1")
	_, err = b.Ensure(context.Background(), p)
	require.NoError(t, err)
	_, err = b.Ensure(context.Background(), fleet.Package{Kernel: fleet.KernelLinux, Digest: "../../x"})
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
}

func TestCloseStopsBuilds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := &fakeKernel{digest: "k", started: make(chan struct{}), resume: make(chan struct{})}
	b := open(t, dir, k)
	p := importApp(t, b, "1")
	failed := make(chan error, 1)
	go func() {
		_, err := b.Ensure(context.Background(), p)
		failed <- err
	}()
	<-k.started
	b.Close()
	require.ErrorIs(t, <-failed, context.Canceled)
	require.Empty(t, inDir(t, dir, "images"))
	require.Empty(t, inDir(t, dir, "tmp"))
	_, err := b.Ensure(context.Background(), p)
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err))
}

func TestRemovedWhileBuilt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k := &fakeKernel{digest: "k", started: make(chan struct{}), resume: make(chan struct{})}
	b := open(t, dir, k)
	p := importApp(t, b, "1")
	failed := make(chan error, 1)
	go func() {
		_, err := b.Ensure(context.Background(), p)
		failed <- err
	}()
	<-k.started
	require.NoError(t, b.RemovePackage(context.Background(), p.Digest))
	close(k.resume)
	err := <-failed
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	require.ErrorContains(t, err, "was removed while")
	require.Empty(t, inDir(t, dir, "images"))
	require.Empty(t, inDir(t, dir, "tmp"))
}

// killedEnv makes the test binary a process that is killed in the middle of a build.
const killedEnv = "IMAGEBUILDER_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(killedEnv); dir != "" {
		buildUntilKilled(dir)
	}
	os.Exit(m.Run())
}

func buildUntilKilled(dir string) {
	k := &fakeKernel{digest: "k", started: make(chan struct{}), resume: make(chan struct{})}
	b, err := New(Options{Dir: dir, Kernels: []Kernel{k}, Log: logger()})
	if err != nil {
		panic(err)
	}
	go func() {
		<-k.started
		if _, err := os.Stdout.WriteString("building\n"); err != nil {
			panic(err)
		}
	}()
	// A program in which nothing could ever go on is ended by the Go runtime.
	defer time.AfterFunc(time.Hour, func() {}).Stop()
	digest := strings.TrimSuffix(must(os.ReadDir(filepath.Join(dir, "packages")))[0].Name(), ".tar")
	_, err = b.Ensure(context.Background(), fleet.Package{Name: "app", Version: "1", Kernel: fleet.KernelLinux, Digest: digest})
	panic(err) // it is killed before
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestKilledWhileBuilding(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir, &fakeKernel{digest: "k"})
	p := importApp(t, b, "1")

	cmd := exec.Command(must(os.Executable()))
	cmd.Env = append(os.Environ(), killedEnv+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	_, err = out.Read(make([]byte, 16))
	require.NoError(t, err)
	require.Len(t, inDir(t, dir, "tmp"), 2, "a work directory and its lock")

	open(t, dir, &fakeKernel{digest: "k"})
	require.Len(t, inDir(t, dir, "tmp"), 2, "what a living process has is left alone")
	waiting, cancel := context.WithTimeout(context.Background(), 3*lockPoll)
	defer cancel()
	_, err = b.Ensure(waiting, p)
	require.ErrorIs(t, err, context.DeadlineExceeded, "another process is at it")

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	_, err = b.Ensure(context.Background(), p)
	require.NoError(t, err, "the lock has gone with its process")
	require.Empty(t, inDir(t, dir, "tmp"))

	// What lies about is removed at the next start, whatever was left of it.
	for _, name := range []string{"image-x", "import-y"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "tmp", name, "sub"), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tmp", "image-z.lock"), nil, 0o600))
	open(t, dir, &fakeKernel{digest: "k"})
	require.Empty(t, inDir(t, dir, "tmp"))
	require.Len(t, inDir(t, dir, "images"), 1)
}

func TestNewRefused(t *testing.T) {
	t.Parallel()
	k := &fakeKernel{digest: "k"}
	_, err := New(Options{Dir: "relative", Log: logger()})
	require.ErrorContains(t, err, "not absolute")
	_, err = New(Options{Dir: t.TempDir(), Kernels: []Kernel{k, k}, Log: logger()})
	require.ErrorContains(t, err, "two kernels")
}
