package stock

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakeApt answers for apt-cache, apt-get and dpkg: packages lie as
// <name>.show in known/, a download makes an empty file and is counted.
const fakeApt = `#!/bin/sh
case "$(basename "$0") $1" in
"dpkg --print-architecture") echo amd64 ;;
"apt-cache show") shift; [ "$1" != --no-all-versions ] || shift; cat "$KNOWN/$1.show" 2>/dev/null || exit 100 ;;
"apt-get -q") shift 2
	for p in "$@"; do
		echo "$p" >>"$KNOWN/downloads"
		[ ! -f "$KNOWN/broken" ] || exit 100
		v=$(sed -n 's/^Version: //p' "$KNOWN/$p.show" | sed 's/:/%3a/g')
		echo deb >"${p}_${v}_amd64.deb"
	done ;;
*) exit 99 ;;
esac
`

type aptWorld struct {
	t                *testing.T
	bin, known, dest string
}

func newAptWorld(t *testing.T, packages map[string]string) *aptWorld {
	t.Helper()
	dir := t.TempDir()
	w := &aptWorld{t: t, bin: filepath.Join(dir, "bin"), known: filepath.Join(dir, "known"), dest: filepath.Join(dir, "new", "dest")}
	for _, d := range []string{w.bin, w.known} {
		require.NoError(t, os.Mkdir(d, 0o755))
	}
	for _, name := range []string{"apt-cache", "apt-get", "dpkg"} {
		require.NoError(t, os.WriteFile(filepath.Join(w.bin, name), []byte(fakeApt), 0o755))
	}
	for name, depends := range packages {
		w.know(name, "1:2-3", depends)
	}
	return w
}

func (w *aptWorld) know(name, version, depends string) {
	show := "Package: " + name + "\nVersion: " + version + "\nArchitecture: amd64\nDepends: " + depends + "\n"
	require.NoError(w.t, os.WriteFile(filepath.Join(w.known, name+".show"), []byte(show), 0o644))
}

func (w *aptWorld) fetch() (paths []string, stderr string, err error) {
	script, err := filepath.Abs("../../../../scripts/fetch-kernel.sh")
	require.NoError(w.t, err)
	cmd := exec.Command("sh", script, w.dest)
	cmd.Env = append(os.Environ(), "PATH="+w.bin+":"+os.Getenv("PATH"), "KNOWN="+w.known)
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	return strings.Fields(string(out)), errOut.String(), err
}

func (w *aptWorld) downloads() []string {
	list, _ := os.ReadFile(filepath.Join(w.known, "downloads"))
	return strings.Fields(string(list))
}

func TestFetchKernelDebian(t *testing.T) {
	t.Parallel()
	w := newAptWorld(t, map[string]string{
		"linux-image-cloud-amd64":          "linux-image-6.1.0-56-cloud-amd64 (= 1:2-3)",
		"linux-image-6.1.0-56-cloud-amd64": "kmod, linux-base (>= 4.3~), initramfs-tools | linux-initramfs-tool",
	})
	want := []string{filepath.Join(w.dest, "linux-image-6.1.0-56-cloud-amd64_1%3a2-3_amd64.deb")}
	for range 2 {
		paths, stderr, err := w.fetch()
		require.NoError(t, err, stderr)
		require.Equal(t, want, paths)
		require.FileExists(t, paths[0])
	}
	require.Len(t, w.downloads(), 1, "the second time there is nothing to do")
	w.know("linux-image-cloud-amd64", "1:2-4", "linux-image-6.1.0-57-cloud-amd64 (= 1:2-4)")
	w.know("linux-image-6.1.0-57-cloud-amd64", "1:2-4", "kmod")
	paths, stderr, err := w.fetch()
	require.NoError(t, err, stderr)
	require.Contains(t, paths[0], "6.1.0-57")
	found, err := FindPackages(w.dest)
	require.NoError(t, err)
	require.Equal(t, paths, found)
}

func TestFetchKernelUbuntu(t *testing.T) {
	t.Parallel()
	w := newAptWorld(t, map[string]string{
		"linux-image-virtual":            "linux-image-6.8.0-51-generic, linux-firmware",
		"linux-image-6.8.0-51-generic":   "kmod, linux-base (>= 4.5ubuntu1~16.04.1), linux-modules-6.8.0-51-generic",
		"linux-modules-6.8.0-51-generic": "wireless-regdb",
	})
	paths, stderr, err := w.fetch()
	require.NoError(t, err, stderr)
	require.Equal(t, []string{
		filepath.Join(w.dest, "linux-image-6.8.0-51-generic_1%3a2-3_amd64.deb"),
		filepath.Join(w.dest, "linux-modules-6.8.0-51-generic_1%3a2-3_amd64.deb"),
	}, paths)
	found, err := FindPackages(w.dest)
	require.NoError(t, err)
	require.Equal(t, paths, found)
}

func TestFetchKernelFails(t *testing.T) {
	t.Parallel()
	w := newAptWorld(t, nil)
	_, stderr, err := w.fetch()
	require.Error(t, err)
	require.Contains(t, stderr, "sudo apt-get update")

	w = newAptWorld(t, map[string]string{"linux-image-cloud-amd64": "linux-image-6.1.0-56-cloud-amd64", "linux-image-6.1.0-56-cloud-amd64": "kmod"})
	require.NoError(t, os.WriteFile(filepath.Join(w.known, "broken"), nil, 0o644))
	_, stderr, err = w.fetch()
	require.Error(t, err)
	require.Contains(t, stderr, "could not download")
	left, err := os.ReadDir(w.dest)
	require.NoError(t, err)
	require.Empty(t, left)
}
