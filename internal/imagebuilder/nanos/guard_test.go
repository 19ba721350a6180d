package nanos

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// mapper says what becomes of mmap with MAP_SYNC, and of others; its exit code is the number of surprises.
const mapper = `
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
static int wrong;
static void *try(const char *what, int flags, int fd, int want) {
	errno = 0;
	void *p = mmap(0, 4096, PROT_READ|PROT_WRITE, flags, fd, 0);
	int got = p == MAP_FAILED ? errno : 0;
	printf("%s: %d\n", what, got);
	wrong += got != want;
	return p;
}
int main(int argc, char **argv) {
	int want = argc > 1 ? 0 : EOPNOTSUPP;
	int fd = open("/tmp/mapper", O_RDWR|O_CREAT, 0600);
	if (fd < 0 || ftruncate(fd, 4096)) return 100; /* no file to try it with */
	try("validated sync", MAP_SHARED_VALIDATE|MAP_SYNC, fd, want);
	char *p = try("shared", MAP_SHARED, fd, 0);
	if (p != MAP_FAILED) { strcpy(p, "x"); if (msync(p, 4096, MS_SYNC)) wrong++; }
	try("anonymous", MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);
	try("no file", MAP_SHARED, 77, EBADF);
	printf("surprises: %d\n", wrong);
	return wrong;
}
`

// buildMapper compiles the program and returns it with all that it loads, by path in an image.
func buildMapper(t testing.TB, flags ...string) (program string, members map[string]string) {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("there is no gcc to build a dynamic program with")
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "mapper.c")
	program = filepath.Join(dir, "mapper")
	require.NoError(t, os.WriteFile(source, []byte(mapper), 0o600))
	out, err := exec.Command("gcc", append(flags, "-D_FILE_OFFSET_BITS=64", "-o", program, source)...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	members = map[string]string{}
	out, _ = exec.Command("ldd", program).Output() // which fails for a static one
	for _, path := range strings.Fields(string(out)) {
		if body, err := os.ReadFile(path); strings.HasPrefix(path, "/") && err == nil {
			members["sysroot"+path] = string(body)
		}
	}
	body, err := os.ReadFile(program)
	require.NoError(t, err)
	members["sysroot/bin/mapper"] = string(body)
	return program, members
}

func TestGuardLibrary(t *testing.T) {
	t.Parallel()
	library := guardLibrary()
	require.Equal(t, library, guardLibrary())
	e, err := elf.NewFile(bytes.NewReader(library))
	require.NoError(t, err)
	require.Equal(t, elf.ET_DYN, e.Type)

	// Linux refuses MAP_SYNC for ordinary files itself: there the guard must change nothing.
	program, _ := buildMapper(t)
	path := filepath.Join(t.TempDir(), "guard.so")
	require.NoError(t, os.WriteFile(path, library, 0o600))
	cmd := exec.Command(program)
	cmd.Env = []string{"LD_PRELOAD=" + path}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotContains(t, string(out), "cannot be preloaded")
}

func TestGuardAdded(t *testing.T) {
	t.Parallel()
	_, members := buildMapper(t)
	members["sysroot/etc/ld.so.preload"] = "/opt/own.so\n"
	k := New(Options{Dir: fakeRelease(t)})
	_, _, root := openDisk(t, mustBuild(t, k, pack(t, `{"Name":"app","Version":"1","Program":"/bin/mapper"}`, members)))
	require.Equal(t, "/.dormouse/mapsync.so\n/opt/own.so\n", text(t, root, "etc/ld.so.preload"))
	require.Equal(t, string(guardLibrary()), text(t, root, guardPath))
}

// With the guard a program is told the truth; without it, by the kernel of the release, it is not.
func TestBootGuard(t *testing.T) {
	t.Parallel()
	k := New(Options{Dir: realRelease(t)})
	for name, unguarded := range map[string]bool{"Guarded": false, "Unguarded": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, flags := `{"Name":"app","Version":"1","Program":"/bin/mapper"}`, []string(nil)
			if unguarded { // no loader, no guard
				m, flags = `{"Name":"app","Version":"1","Program":"/bin/mapper","Args":["unguarded"]}`, []string{"-static"}
			}
			_, members := buildMapper(t, flags...)
			image := mustBuild(t, k, pack(t, m, members))
			vm := start(t, "net=10.0.2.0/24", "10.0.2.15", baseDisk(image)...)
			// Not until it ends: this release hangs in its last sync when a file is mapped shared.
			vm.await("surprises: 0")
			vm.kill()
			_, _, root := openDisk(t, image)
			_, err := root.Lookup(guardPath)
			require.Equal(t, unguarded, err != nil)
			require.Contains(t, vm.log.String(), "shared: 0")
			require.Equal(t, unguarded, strings.Contains(vm.log.String(), "validated sync: 0"))
		})
	}
}
