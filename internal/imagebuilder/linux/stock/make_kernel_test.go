package stock

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakeBuild answers for apt, dpkg-deb and make: what is unpacked is a source of
// nothing, and what make builds says with what it was built. DIR is the world's directory.
const fakeBuild = `#!/bin/sh
case "$(basename "$0") $1" in
"apt-cache show") case $3 in
	linux-source) echo "Depends: linux-source-6.1 (= 6.1.9-2)" ;;
	linux-source-6.1) echo "Version: $(cat DIR/version)" ;;
	*) exit 100 ;;
	esac ;;
"apt-get -q") [ ! -e DIR/no-network ] || exit 100; echo deb >"$3.deb" ;;
"dpkg-deb -x") mkdir -p "$3/usr/src/linux-source-6.1" && cd "$3/usr/src" && head -c 2M /dev/zero >linux-source-6.1/zeros &&
	tar -cf linux-source-6.1.tar.xz linux-source-6.1 ;;
"make -C") cd "$2" && echo "$@" | sed 's/.* -s//' >>DIR/made && case "$*" in
	*olddefconfig) [ ! -e DIR/lost ] || sed -i '/^CONFIG_SQUASHFS=y/d' .config ;;
	*config) echo "# CONFIG_SMP is not set" >.config ;;
	*bzImage) [ ! -e DIR/broken ] || { echo "error: no such register"; exit 2; }
		mkdir -p arch/x86/boot && env | grep -E 'KBUILD|TZ|HOME' | sort >arch/x86/boot/bzImage ;;
	esac ;;
"gcc --version" | "ld --version") cat DIR/compiler ;;
esac
`

type buildWorld struct {
	t         *testing.T
	dir, dest string
}

func newBuildWorld(t *testing.T) *buildWorld {
	t.Helper()
	w := &buildWorld{t, t.TempDir(), filepath.Join(t.TempDir(), "new", "dest")}
	require.NoError(t, os.Mkdir(filepath.Join(w.dir, "bin"), 0o755))
	for _, name := range []string{"apt-cache", "apt-get", "dpkg-deb", "make", "gcc", "ld", "flex", "bison", "bc", "lz4"} {
		w.put("bin/"+name, strings.ReplaceAll(fakeBuild, "DIR", w.dir))
	}
	w.put("version", "6.1.9-2\n")
	w.put("compiler", "gcc 12\n")
	return w
}

func (w *buildWorld) put(name, content string) {
	require.NoError(w.t, os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o755))
}

func (w *buildWorld) run() (path, said string, err error) {
	script, err := filepath.Abs("../../../../scripts/make-kernel.sh")
	require.NoError(w.t, err)
	cmd := exec.Command("sh", script, w.dest)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(w.dir, "bin")+":"+os.Getenv("PATH"), "TZ=Pacific/Chatham", "KBUILD_BUILD_USER=somebody")
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), errOut.String(), err
}

func (w *buildWorld) left() []string {
	entries, err := os.ReadDir(w.dest)
	require.NoError(w.t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestMakeKernelBuildsOnce(t *testing.T) {
	t.Parallel()
	w := newBuildWorld(t)
	path, said, err := w.run()
	require.NoError(t, err, said)
	kernel, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "HOME=/nonexistent\nKBUILD_BUILD_HOST=dormouse\nKBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970\n"+
		"KBUILD_BUILD_USER=dormouse\nKBUILD_BUILD_VERSION=1\nTZ=UTC\n", string(kernel), "nothing of our environment")
	require.FileExists(t, filepath.Join(filepath.Dir(path), "config"))
	require.Equal(t, []string{filepath.Base(filepath.Dir(path))}, w.left(), "nothing else is left")
	again, _, err := w.run()
	require.NoError(t, err)
	require.Equal(t, path, again)
	made, err := os.ReadFile(filepath.Join(w.dir, "made"))
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(made), "bzImage"))

	// Another source or another compiler gives another kernel.
	w.put("version", "6.1.9-3\n")
	next, _, err := w.run()
	require.NoError(t, err)
	w.put("compiler", "gcc 13\n")
	third, _, err := w.run()
	require.NoError(t, err)
	require.NotEqual(t, path, next)
	require.NotEqual(t, next, third)
}

func TestMakeKernelFails(t *testing.T) {
	t.Parallel()
	for file, says := range map[string]string{
		"broken":     "no such register",
		"no-network": "could not download linux-source-6.1",
		"lost":       "CONFIG_SQUASHFS=y",
	} {
		w := newBuildWorld(t)
		w.put(file, "")
		path, said, err := w.run()
		require.Error(t, err, file)
		require.Empty(t, path)
		require.Contains(t, said, says)
		require.Empty(t, w.left(), "%s: nothing is left", file)
	}
	w := newBuildWorld(t)
	w.put("version", "")
	_, said, err := w.run()
	require.Error(t, err)
	require.Contains(t, said, "apt knows no kernel source")
}
