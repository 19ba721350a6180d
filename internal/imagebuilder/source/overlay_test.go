package source

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// The canonical form is what installations' packages are named by: of a package
// that has none of the keys that came later it must never change.
func TestCanonicalDigestsStay(t *testing.T) {
	t.Parallel()
	require.Equal(t, "b3b6ea75834ad510617163fec219bc425bfc24c95339663ca248ec8751c406bc", digestOf(t, mustRead(t, app())))
	require.Equal(t, "63dd460537a4a6806062d4a80fee6ee1e13da7ff9045bf3decc91357aea89f8c", digestOf(t, mustRead(t, rich())))
}

func TestManifestOfTheMachine(t *testing.T) {
	t.Parallel()
	p := mustRead(t, with(manifest(`, "Program": "/bin/app", "Kernel": "nanos", "User": "www-data:33", "NameServers": ["1.1.1.1", "::1"], "BaseVolumeSz": "1g",
		"Klibs": ["tls"], "Mounts": {"data": "/var/lib/x", "%1": "/srv"}, "Persist": ["/keep"],
		"ManifestPassthrough": {"futex_trace": "t", "consoles": ["+vga"], "reserve_heap_size": 12345678901234567890},
		"RunConfig": {"Klibs": ["tls", "ntp"], "Mounts": ["logs:/var/log/x"], "Memory": "64m"}`), file("sysroot/bin/app", elfBytes)))
	require.Equal(t, fleet.KernelNanos, p.Kernel)
	m := p.Manifest
	require.Equal(t, "www-data:33", m.User)
	require.Equal(t, []string{"1.1.1.1", "::1"}, m.NameServers)
	require.EqualValues(t, 1<<30, m.RootBytes)
	require.Equal(t, []string{"tls", "ntp"}, m.Klibs)
	require.Equal(t, []string{"/keep", "/srv", "/var/lib/x", "/var/log/x"}, m.Persist)
	require.Equal(t, map[string]any{"futex_trace": "t", "consoles": []any{"+vga"}, "reserve_heap_size": json.Number("12345678901234567890")}, m.Passthrough)
	require.Empty(t, p.Warnings)

	var b bytes.Buffer
	digest, _, err := p.WriteCanonical(context.Background(), &b)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "p.tar")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
	back, err := Open(path, digest, Limits{})
	require.NoError(t, err)
	defer back.Close()
	require.Equal(t, m, back.Manifest)
	require.Equal(t, p.Kernel, back.Kernel)
	require.Equal(t, digest, digestOf(t, back))
}

func TestManifestOfTheMachineRefused(t *testing.T) {
	t.Parallel()
	for body, says := range map[string]string{
		`{"User": "a b"}`: "User is", `{"User": "root:"}`: "User is", `{"User": ":0"}`: "User is",
		`{"NameServers": ["dns.example"]}`: "no IP address", `{"NameServers": ["fe80::1%eth0"]}`: "no IP address", `{"NameServer": "x"}`: "no IP address",
		`{"NameServers": ["1.1.1.1","1.1.1.2","1.1.1.3","1.1.1.4"]}`: "at most 3",
		`{"BaseVolumeSz": "lots"}`:                                   "is no size", `{"BaseVolumeSz": "999999999999999999t"}`: "ask for less", `{"BaseVolumeSz": "-1"}`: "is no size",
		`{"Klibs": ["../x"]}`: "no name of a klib", `{"RunConfig": {"Klibs": [""]}}`: "no name of a klib",
		`{"Mounts": {"x": "data"}}`: "clean absolute", `{"RunConfig": {"Mounts": ["/data"]}}`: "clean absolute", `{"Mounts": {"x": "/proc"}}`: "init fills itself",
		`{"ManifestPassthrough": {"a": 1e999}}`: "1e999", `{"ManifestPassthrough": {"a": ["\u0000"]}}`: "zero byte", `{"ManifestPassthrough": {"\u0000": 1}}`: "zero byte",
		`{"ManifestPassthrough": []}`: "can't be a JSON array", `{"Kernel": 1}`: "can't be a JSON number",
	} {
		_, err := ParseManifest([]byte(body))
		requireInvalid(t, err, says)
	}
	m, err := ParseManifest([]byte(`{"Kernel": "/opt/kernel.img"}`))
	require.NoError(t, err)
	require.Empty(t, m.Kernel)
	require.Contains(t, m.Warnings[0], "the key Kernel has no effect here")
	for text, want := range map[string]int64{`"512m"`: 512 << 20, `"2GiB"`: 2 << 30, `4096`: 4096, `"1k"`: 1024, `null`: 0} {
		m, err := ParseManifest(fmt.Appendf(nil, `{"BaseVolumeSz": %s}`, text))
		require.NoError(t, err, text)
		require.Equal(t, want, m.RootBytes, text)
	}
}

func overlaid(t *testing.T, over, under []member) (*Package, error) {
	t.Helper()
	return readWith(t, archiveOf(t, under), Options{Overlay: bytes.NewReader(tarOf(t, over, nil))})
}

func TestOverlay(t *testing.T) {
	t.Parallel()
	under := with(manifest(`, "Program": "app", "Args": ["app", "-old"], "Env": {"PATH": "/bin", "MODE": "slow"}, "Ports": [80], "Health": {"Path": "/old"},
		"Persist": ["/data"], "Files": ["etc/app.conf"], "MinMemory": 64`),
		file("app", elfBytes), file("etc/app.conf", "old"), file("sysroot/usr/lib/x", "x"), symlink("sysroot/lib", "usr/lib"))
	p, err := overlaid(t, with(`{"Version": "2", "Args": ["-new"], "Env": {"MODE": "fast", "LD_PRELOAD": "/lib/y"}, "Ports": ["90/tcp"], "Files": ["etc/app.conf"], "RunConfig": {"Memory": "1G"}}`,
		file("etc/app.conf", "new"), file("sysroot/lib/y", "y"), file("sysroot/lib/x", "other")), under)
	require.NoError(t, err)
	require.Equal(t, []string{"app", "2"}, []string{p.Name, p.Version})
	require.Equal(t, "/app", p.Manifest.Program, "the source's own stays")
	require.Equal(t, []string{"-new"}, p.Manifest.Args)
	require.Equal(t, map[string]string{"PATH": "/bin", "MODE": "fast", "LD_PRELOAD": "/lib/y"}, p.Manifest.Env)
	require.Equal(t, []fleet.Port{{Number: 90, Protocol: fleet.ProtocolTCP}}, p.Manifest.Ports)
	require.Equal(t, fleet.HealthTCP, p.Manifest.Health.Type, "the old check was of the old ports")
	require.Equal(t, []string{"/data"}, p.Manifest.Persist)
	require.Equal(t, 1024, p.Manifest.MinMemoryMiB)
	require.Equal(t, []string{"/usr/lib/x was replaced by what sysroot lays over it", "/etc/app.conf was replaced by what Files lays over it"}, p.Warnings)
	for name, want := range map[string]string{"/etc/app.conf": "new", "/usr/lib/y": "y", "/usr/lib/x": "other"} {
		r, err := p.Tree.Open(name)
		require.NoError(t, err)
		body, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, want, string(body), name)
	}
	require.NotEmpty(t, digestOf(t, p))
}

func TestOverlayProgram(t *testing.T) {
	t.Parallel()
	p, err := overlaid(t, with(`{"Program": "tool"}`, file("tool", elfBytes+"2")), app())
	require.NoError(t, err)
	require.Equal(t, "/tool", p.Manifest.Program)
	require.Empty(t, p.Manifest.Args, "arguments were the other program's")

	p, err = overlaid(t, with(`{"Program": "/bin/app"}`), with(`{"Name": "a", "Version": "1"}`, file("sysroot/bin/app", elfBytes)))
	require.NoError(t, err)
	require.Equal(t, "/bin/app", p.Manifest.Program)

	for _, over := range [][]member{
		with(`{"Program": "/nowhere"}`), with(`{"Files": ["x"]}`), with(`{"Sysroot": 1}`), {file("x", "")},
		with(`{}`, file("sysroot/bin", "")), with(`{}`, symlink("sysroot/l", "../x")), with(`{"Env": {"A": 1}}`),
	} {
		_, err := overlaid(t, over, app())
		requireInvalid(t, err, "")
	}
	_, err = overlaid(t, with(`{}`, file("../x", "")), app())
	requireInvalid(t, err, "the overlay: the member")
}

func TestOverlayReplacesMany(t *testing.T) {
	t.Parallel()
	under, over := app(), with(`{}`)
	for i := range maxReplaced + 5 {
		under = append(under, file(fmt.Sprintf("sysroot/f%02d", i), "old"))
		over = append(over, file(fmt.Sprintf("sysroot/f%02d", i), "new"))
	}
	p, err := overlaid(t, over, under)
	require.NoError(t, err)
	require.Len(t, p.Warnings, maxReplaced+1)
	require.Contains(t, p.Warnings[maxReplaced], "5 more files")
}

func TestFromDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, body := range map[string]string{"usr/sbin/daemon": elfBytes, "usr/lib/liba.so": "a", "etc/daemon.conf": "old"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(body), 0o755))
	}
	daemon := Origin{Type: OriginDeb, Name: "daemon", Version: "1:2.0-1", Digest: strings.Repeat("d", 64)}
	lib := Origin{Type: OriginDeb, Name: "liba", Version: "1"}
	laid := Laid{
		Name: "Daemon_X", Version: "1:2.0-1", Manifest: []byte(`{"Program": "/usr/sbin/daemon", "Args": ["/usr/sbin/daemon", "-f"], "Ports": ["1883/tcp"]}`),
		Origins: []Origin{lib, daemon, {Type: OriginDeb, Name: "unused"}}, Warnings: []string{"a warning"},
		Origin: map[string]int{"usr/sbin/daemon": 1, "usr/lib/liba.so": 0, "etc/daemon.conf": 1, "gone": 7},
	}
	o := Options{SpoolDir: t.TempDir()}
	o.Overlay = bytes.NewReader(archiveOf(t, with(`{"Env": {"A": "1"}}`, file("sysroot/etc/daemon.conf", "new"))))
	p, err := FromDirectory(context.Background(), dir, laid, o)
	require.NoError(t, err)
	defer p.Close()
	require.Equal(t, []string{"daemon-x", "1-2.0-1", "/usr/sbin/daemon"}, []string{p.Name, p.Version, p.Manifest.Program})
	require.Equal(t, []string{"-f"}, p.Manifest.Args)
	require.Equal(t, []string{"a warning", "/etc/daemon.conf was replaced by what sysroot lays over it"}, p.Warnings)

	path := filepath.Join(t.TempDir(), "p.tar")
	out, err := os.Create(path)
	require.NoError(t, err)
	digest, _, err := p.WriteCanonical(context.Background(), out)
	require.NoError(t, err)
	require.NoError(t, out.Close())
	back, err := Open(path, digest, Limits{})
	require.NoError(t, err)
	defer back.Close()
	origins := map[string]Origin{}
	require.NoError(t, back.Tree.Walk(func(e Entry) error {
		if e.Kind != Directory && e.Origin > 0 {
			origins[e.Path] = back.Origins[e.Origin-1]
		}
		return nil
	}))
	require.Equal(t, map[string]Origin{"usr/sbin/daemon": daemon, "usr/lib/liba.so": lib}, origins, "what was laid over is no longer the source's")
	require.Len(t, back.Origins, 2)
	require.Equal(t, digest, digestOf(t, back))

	_, err = FromDirectory(context.Background(), dir, Laid{Name: "x", Version: "1"}, Options{SpoolDir: t.TempDir()})
	requireInvalid(t, err, "does not say which program to start")
}
