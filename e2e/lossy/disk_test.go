package lossy

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// childVariable makes this test binary a process that works on a disk: it names
// what to do, in the directory that is its last argument.
const childVariable = "DORMOUSE_LOSSY_CHILD"

func TestMain(m *testing.M) {
	name := os.Getenv(childVariable)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := os.Chdir(os.Args[len(os.Args)-1]); err != nil {
		panic(err)
	}
	children[name]()
	fmt.Println("done")
	select {} // until it is killed, with all that it has open
}

// children are what such a process may do.
var children = map[string]func(){
	"contents": func() {
		f := create("synced")
		write(f, 0, "kept")
		must(f.Sync())
		write(f, 2, "lost and longer")
		write(create("written"), 0, "lost")
		f = create("data")
		write(f, 0, "all")
		must(unix.Fdatasync(int(f.Fd())))
		must(f.Chmod(0o600))
		must(os.Mkdir("deep", 0o700))
		must(os.Mkdir("deep/er", 0o711))
		syncDir("deep/er") // and so the path to it
		syncDir(".")
		must(create("nameless").Sync())
		write(create("deep/nameless"), 0, "x")
	},
	"names": func() {
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			f := create(name)
			write(f, 0, name)
			must(f.Sync())
		}
		must(os.Mkdir("other", 0o755))
		syncDir("other")
		syncDir(".")
		must(os.Rename("a", "b"))
		must(os.Remove("c"))
		must(os.Rename("d", "other/d"))
		syncDir("other")
		must(os.Rename("e", "f"))
		must(os.Symlink("b", "link"))
	},
	"sparse": func() {
		f := create("sparse")
		must(f.Truncate(64 << 20))
		write(f, 32<<20, "kept")
		must(f.Sync())
		must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 32<<20, 4096))
		m, err := unix.Mmap(int(f.Fd()), 0, 64<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		must(err)
		copy(m[1<<20:], "mapped")
		must(f.Sync())
		copy(m[1<<20:], "MAPPED AND LOST")
		copy(m[48<<20:], "lost")
		syncDir(".")
	},
	"nothing": func() {},
	"locks": func() {
		f := create("lock")
		must(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
		must(unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 100, Len: 1}))
		_, err := net.Listen("unix", "socket")
		must(err)
	},
	"loop": func() {
		f := create("loop")
		syncDir(".")
		fmt.Println("begun")
		for n := int64(0); ; n++ {
			if _, err := f.WriteAt([]byte(fmt.Sprintf("%08d", n)), n%4096*8); err != nil {
				fmt.Println(err)
				return
			}
			if err := f.Sync(); err != nil {
				fmt.Println(err)
				return
			}
			fmt.Println(n)
		}
	},
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func create(name string) *os.File {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	must(err)
	return f
}

func write(f *os.File, at int64, text string) {
	_, err := f.WriteAt([]byte(text), at)
	must(err)
}

func syncDir(name string) {
	d, err := os.Open(name)
	must(err)
	must(d.Sync())
	must(d.Close())
}

func mounted(t *testing.T) (*Disk, string) {
	t.Helper()
	if err := Usable(); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	d, err := New(dir)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, d.Close())
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left, "nothing was written to the directory itself")
	})
	return d, dir
}

// child starts a process and returns its lines, once it has said the first.
func child(t *testing.T, dir, name string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, dir)
	cmd.Env, cmd.Stderr = append(os.Environ(), childVariable+"="+name), os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	require.True(t, lines.Scan(), "the child ended")
	return cmd, lines
}

// lose has a process do something, kills it, and takes the power away.
func lose(t *testing.T, name string) string {
	t.Helper()
	d, dir := mounted(t)
	cmd, lines := child(t, dir, name)
	require.Equal(t, "done", lines.Text())
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	d.Cut()
	require.NoError(t, d.Restart())
	return dir
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(parts...))
	require.NoError(t, err)
	return string(body)
}

func names(t *testing.T, parts ...string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(parts...))
	require.NoError(t, err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestContents(t *testing.T) {
	t.Parallel()
	dir := lose(t, "contents")
	require.Equal(t, []string{"data", "deep", "synced", "written"}, names(t, dir), "a name without a sync of its directory")
	require.Equal(t, "kept", read(t, dir, "synced"))
	require.Equal(t, "", read(t, dir, "written"), "never synced")
	require.Equal(t, "all", read(t, dir, "data"))
	require.Equal(t, []string{"er"}, names(t, dir, "deep"))
	info, err := os.Stat(filepath.Join(dir, "deep", "er"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o711), info.Mode().Perm())
}

func TestNames(t *testing.T) {
	t.Parallel()
	dir := lose(t, "names")
	require.Equal(t, []string{"a", "b", "c", "d", "e", "other"}, names(t, dir), "what was not synced is undone")
	for _, name := range []string{"a", "b", "c", "d", "e", "other/d"} {
		require.Equal(t, filepath.Base(name), read(t, dir, name))
	}
	require.NoError(t, os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")), "it works after it, too")
	require.Equal(t, "a", read(t, dir, "b"))
}

func TestSparseAndMapped(t *testing.T) {
	t.Parallel()
	path := filepath.Join(lose(t, "sparse"), "sparse")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, int64(64<<20), info.Size())
	require.Less(t, info.Sys().(*syscall.Stat_t).Blocks*512, int64(1<<20), "holes stay holes")
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	for at, want := range map[int64]string{1 << 20: "mapped\x00\x00\x00", 32 << 20: "\x00\x00\x00\x00", 48 << 20: "\x00\x00\x00\x00"} {
		got := make([]byte, len(want))
		_, err := f.ReadAt(got, at)
		require.NoError(t, err)
		require.Equal(t, want, string(got), "at %d", at)
	}
}

func TestLocksAndSockets(t *testing.T) {
	t.Parallel()
	_, dir := mounted(t)
	child(t, dir, "locks")
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	require.ErrorIs(t, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: 100, Len: 1}
	require.ErrorIs(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock), unix.EAGAIN)
	lock.Start = 200
	require.NoError(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock))
	c, err := net.Dial("unix", filepath.Join(dir, "socket"))
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// TestTheConnectionIsOurs: a process that was started had it too, and kept alive
// what should have died with the server.
func TestTheConnectionIsOurs(t *testing.T) {
	t.Parallel()
	_, dir := mounted(t)
	cmd, _ := child(t, dir, "nothing")
	own := fmt.Sprintf("/proc/%d/fd", cmd.Process.Pid)
	for _, name := range names(t, own) {
		target, err := os.Readlink(filepath.Join(own, name))
		if err == nil {
			require.NotEqual(t, "/dev/fuse", target)
		}
	}
}

// TestCutUnderWay: who writes gets an error, what was synced before that is
// there, and a process that lived on is no part of the disk's next life.
func TestCutUnderWay(t *testing.T) {
	t.Parallel()
	d, dir := mounted(t)
	_, lines := child(t, dir, "loop")
	require.Equal(t, "begun", lines.Text())
	synced := -1
	for synced < 100 {
		require.True(t, lines.Scan())
		_, err := fmt.Sscan(lines.Text(), &synced)
		require.NoError(t, err)
	}
	d.Cut()
	require.Greater(t, d.Syncs(), uint64(100))
	_, err := os.ReadDir(dir)
	require.ErrorIs(t, err, syscall.EIO)
	for lines.Scan() && !strings.Contains(lines.Text(), syscall.EIO.Error()) {
		_, err := fmt.Sscan(lines.Text(), &synced)
		require.NoError(t, err, lines.Text())
	}
	require.Contains(t, lines.Text(), syscall.EIO.Error())
	require.NoError(t, d.Restart())
	require.Error(t, d.Restart(), "it has power")
	body := read(t, dir, "loop")
	if synced < 4096 {
		require.GreaterOrEqual(t, len(body), (synced+1)*8)
	}
	require.Contains(t, body, fmt.Sprintf("%08d", synced))
	d.Cut()
	require.NoError(t, d.Restart())
	require.Equal(t, body, read(t, dir, "loop"), "nothing changes by itself")
}
