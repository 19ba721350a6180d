package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// TestReproducible: two provisioners with stores of their own, another user, umask,
// locale and time zone, and a directory that lists its files in another order, make the
// same package and the same image of every source, for every kernel.
func TestReproducible(t *testing.T) {
	t.Parallel()
	one := suite.Own(t, harness.Options{Args: []string{"--roles", "api"}, Environ: []string{"LC_ALL=C", "TZ=UTC"}})
	o := harness.Options{Args: []string{"--roles", "api"}, Umask: "077", Environ: []string{"LC_ALL=de_DE.UTF-8", "LANG=tr_TR.UTF-8", "TZ=Asia/Kathmandu", "SOURCE_DATE_EPOCH=86400"}}
	if os.Geteuid() == 0 {
		o.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	two := suite.Own(t, o)
	for _, e := range []*harness.Environment{one, two} {
		require.NoError(t, e.Start(t.Context()))
	}
	kernels := []string{"linux"}
	if os.Getenv("NANOS_DIR") == "" {
		t.Log("NANOS_DIR names no release of Nanos: images for that kernel were not compared")
	} else {
		kernels = append(kernels, "nanos")
	}
	dir := suite.Workspace(t, "1.0.0")
	work := t.TempDir()
	write := func(name string, body []byte) string {
		path := filepath.Join(work, name)
		require.NoError(t, os.WriteFile(path, body, 0o700))
		return path
	}
	program, err := os.ReadFile(filepath.Join(dir, "workspace"))
	require.NoError(t, err)
	archive := filepath.Join(work, "workspace.tar.gz")
	require.NoError(t, exec.Command("tar", "-C", dir, "-czf", archive, ".").Run())
	image := write("image.tar", savedImage(t, map[string]any{"Entrypoint": []string{"/srv/app"}, "ExposedPorts": map[string]any{"8080/tcp": map[string]any{}}},
		packed{{name: "srv/", body: ""}, {name: "srv/app", body: string(program)}, {name: "srv/gone", body: "x"}},
		packed{{name: "srv/.wh.gone", body: ""}, {name: "srv/link", link: "app"}}, packed{{name: "etc/é", body: "é"}}))
	ops := write("amd64.tar.gz", packed{{name: "opsed_v1/", body: ""}, {name: "opsed_v1/program", body: string(program)}, {name: "opsed_v1/sysroot/etc/motd", body: "of OPS"},
		{name: "opsed_v1/package.manifest", body: `{"Program": "opsed_v1/program", "RunConfig": {"Ports": ["8080"]}}`}}.tar(t))
	for name, s := range map[string]struct{ first, second []string }{
		"Directory": {[]string{dir}, []string{disordered(t, dir)}},
		"Archive":   {[]string{archive}, []string{archive}},
		"Program":   {[]string{write("prog", program)}, []string{filepath.Join(work, "prog")}},
		"Image":     {[]string{image, "--version", "1"}, []string{image, "--version", "1"}},
		"OPS":       {[]string{ops}, []string{ops}},
		"Debian":    {suite.Daemon(t, "mosquitto"), suite.Daemon(t, "mosquitto")},
	} {
		for _, kernel := range kernels {
			t.Run(name+"/"+kernel, func(t *testing.T) {
				more := []string{"--kernel", kernel, "--name", "x-" + kernel + "-" + lower(name)}
				first, second := built(t, one, append(s.first, more...)), built(t, two, append(s.second, more...))
				require.Equal(t, first, second)
				require.Greater(t, len(first.files), 2)
			})
		}
	}
	t.Run("Disk", func(t *testing.T) { // its kernel is on it
		args := []string{"--disk", write("boot.qcow2", bootDisk(t))}
		first, second := built(t, one, args), built(t, two, args)
		require.Equal(t, first, second)
		require.NotEmpty(t, first.files)
	})
}

// bootDisk is a qcow2 with a boot sector, some data and holes.
func bootDisk(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	raw := make([]byte, 16<<20)
	copy(raw[446+4:], []byte{0x83}) // one partition (fdisk's table: type, first sector, length)
	copy(raw[446+8:], []byte{0, 8, 0, 0, 0, 0x40, 0, 0})
	copy(raw[510:], []byte{0x55, 0xaa})
	copy(raw, []byte{0xeb, 0xfe})
	for i := range 3 << 20 {
		raw[5<<20+i] = byte(i >> 8)
	}
	from, to := filepath.Join(dir, "boot.raw"), filepath.Join(dir, "boot.qcow2")
	require.NoError(t, os.WriteFile(from, raw, 0o600))
	out, err := exec.Command("qemu-img", "convert", "-O", "qcow2", from, to).CombinedOutput()
	require.NoError(t, err, "%s", out)
	body, err := os.ReadFile(to)
	require.NoError(t, err)
	return body
}

func lower(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] |= 0x20
	}
	return string(b)
}

// made is what came of a source.
type made struct {
	packageDigest, image string
	// files are the SHA-256 of the image's files.
	files map[string]string
}

// built makes a package and its image.
func built(t *testing.T, e *harness.Environment, args []string) made {
	t.Helper()
	p := decoded[client.Package](t, ctl(t, e, append([]string{"-o", "json", "package", "create"}, args...)...).Stdout)
	i := decoded[client.Image](t, ctl(t, e, "-o", "json", "image", "build", p.ID).Stdout)
	m := made{packageDigest: p.Digest, image: i.ID, files: map[string]string{}}
	dir := filepath.Join(e.DataDir, "images", i.ID)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		body, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		require.NoError(t, err)
		sum := sha256.Sum256(body)
		m.files[entry.Name()] = hex.EncodeToString(sum[:])
	}
	return m
}

// disordered returns the directory as one that lists its files in another order.
func disordered(t *testing.T, dir string) string {
	t.Helper()
	if _, err := exec.LookPath("disorderfs"); err != nil {
		t.Log("disorderfs is not installed: the order of a directory was not changed")
		return dir
	}
	to := t.TempDir()
	if out, err := exec.Command("disorderfs", "--multi-user=no", "--shuffle-dirents=yes", "--reverse-dirents=yes", dir, to).CombinedOutput(); err != nil {
		t.Logf("disorderfs does not work here, the order of a directory was not changed: %v: %s", err, out)
		return dir
	}
	t.Cleanup(func() { require.NoError(t, exec.Command("fusermount", "-u", to).Run()) })
	return to
}
