package deb

import (
	"archive/tar"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Packages are signed, and still nothing of one comes to lie outside.
func TestHostilePackage(t *testing.T) {
	t.Parallel()
	reg, link, hard, dir := byte(tar.TypeReg), byte(tar.TypeSymlink), byte(tar.TypeLink), byte(tar.TypeDir)
	for name, tc := range map[string]struct {
		headers []tar.Header
		want    string // of the error; "" where it is harmless
	}{
		"Absolute":        {[]tar.Header{{Typeflag: reg, Name: "/etc/x", Size: 1, Mode: 0o644}}, ""},
		"DotDot":          {[]tar.Header{{Typeflag: reg, Name: "./usr/../../x", Size: 1}}, "no package should have"},
		"NotUTF8":         {[]tar.Header{{Typeflag: reg, Name: "./usr/\xff", Size: 1}}, "no package should have"},
		"Device":          {[]tar.Header{{Typeflag: tar.TypeChar, Name: "./dev/null", Devmajor: 1, Devminor: 3}}, "device or pipe"},
		"Pipe":            {[]tar.Header{{Typeflag: tar.TypeFifo, Name: "./run/pipe"}}, "device or pipe"},
		"ThroughLink":     {[]tar.Header{{Typeflag: link, Name: "./opt", Linkname: "../../../.."}, {Typeflag: reg, Name: "./opt/outside", Size: 1, Mode: 0o644}}, ""},
		"ThroughAbsolute": {[]tar.Header{{Typeflag: link, Name: "./opt", Linkname: "/"}, {Typeflag: reg, Name: "./opt/outside", Size: 1, Mode: 0o644}}, ""},
		"Circle":          {[]tar.Header{{Typeflag: link, Name: "./opt", Linkname: "opt2"}, {Typeflag: link, Name: "./opt2", Linkname: "opt"}, {Typeflag: reg, Name: "./opt/x", Size: 1}}, "too many links"},
		"HardNowhere":     {[]tar.Header{{Typeflag: hard, Name: "./x", Linkname: "./etc/shadow"}}, "is not there"},
		"HardThroughLink": {[]tar.Header{{Typeflag: link, Name: "./opt", Linkname: "/etc"}, {Typeflag: hard, Name: "./x", Linkname: "./opt/hostname"}}, "is not there"},
		"BelowFile":       {[]tar.Header{{Typeflag: reg, Name: "./x", Size: 1}, {Typeflag: reg, Name: "./x/y", Size: 1}}, "don't fit together"},
		"TooLarge":        {[]tar.Header{{Typeflag: reg, Name: "./x", Size: 600}, {Typeflag: reg, Name: "./y", Size: 600}}, "too large"},
		"LinkOverDir":     {[]tar.Header{{Typeflag: dir, Name: "./opt", Mode: 0o755}, {Typeflag: link, Name: "./opt", Linkname: "/etc"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := t.TempDir()
			root := filepath.Join(base, "a/b/root")
			require.NoError(t, os.MkdirAll(root, 0o755))
			tree, err := newTree(root, 1000)
			require.NoError(t, err)
			defer tree.close()
			err = tree.readTar(context.Background(), &record{name: "hostile", version: "1"}, members(t, tc.headers...))
			if tc.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tc.want)
			}
			outside := listing(t, base)
			for _, line := range outside {
				require.Regexp(t, `^a(/ |/b/ |/b/root)`, line)
			}
			for _, n := range tree.nodes {
				n.keep = true
			}
			require.NoError(t, tree.finish())
		})
	}
}

func TestSafeModes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		uid, gid   int
		mode, want uint32
	}{
		{0, 0, 0o4755, 0o4755}, {0, 42, 0o2755, 0o755}, {101, 0, 0o4755, 0o755}, {0, 0, 0o2755, 0o2755}, {0, 0, 0o111, 0o511},
	} {
		require.Equal(t, tc.want, safeMode(&tar.Header{Uid: tc.uid, Gid: tc.gid, Mode: int64(tc.mode)}), "%o", tc.mode)
	}
}

func TestUnmergedTargets(t *testing.T) {
	t.Parallel()
	for _, tc := range [][3]string{
		{"lib/x86_64-linux-gnu/libz.so.1", "libz.so.1.2", "libz.so.1.2"},
		{"lib/a/b", "../c", "../c"},
		{"lib/a/b", "../../usr/share/c", "/usr/share/c"},
		{"lib/a/b", "../../etc/c", "/etc/c"},
		{"usr/lib/a", "../share/c", "../share/c"},
		{"lib/a", "/etc/c", "/etc/c"},
	} {
		require.Equal(t, tc[2], unmerged(tc[0], tc[1]), "%v", tc)
	}
}

func TestUnits(t *testing.T) {
	t.Parallel()
	u := func(text string) unit { return unit{"x", readUnit("[Unit]\nExecStart=/no\n[Service]\n" + text)} }
	for text, want := range map[string][]string{
		"ExecStart=/usr/sbin/x -a \\\n  -b":                      {"/usr/sbin/x", "-a", "-b"},
		"ExecStart=-/usr/sbin/x":                                 {"/usr/sbin/x"},
		"ExecStart=/bin/old\nExecStart=\nExecStart=/usr/sbin/x":  {"/usr/sbin/x"},
		"ExecStart=/bin/a\nExecStart=/bin/b":                     nil,
		"ExecStart=/usr/sbin/x $OPTIONS":                         nil,
		"ExecStart=/usr/sbin/x --name=%n":                        nil,
		"ExecStart=/bin/sh -c 'x'":                               nil,
		"Type=forking\nExecStart=/usr/sbin/x":                    nil,
		"; comment\n# comment\nType=notify\nExecStart=/bin/x\n":  {"/bin/x"},
		"[Install]\nExecStart=/bin/x":                            nil,
		"Type=oneshot\nExecStart=/usr/sbin/x\nRemainAfterExit=1": nil,
	} {
		require.Equal(t, want, u(text).command(), text)
	}
}

func TestRelations(t *testing.T) {
	t.Parallel()
	require.Equal(t, [][]string{{"libc6"}, {"default-mta", "mail-transport-agent"}, {"python3"}, {"a"}},
		relations("libc6 (>= 2.34), default-mta | mail-transport-agent,python3:any, a(= 1)"))
	require.Empty(t, relations(""))
}

func TestDropped(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"usr/share/man/man1/x.1.gz": true, "usr/share/manual": false, "etc/init.d/x": true, "etc/default/x": false,
		"usr/share/doc": true, "usr/share/doc/x": true, "usr/share/doc/x/README": true, "usr/share/doc/x/copyright": false, "usr/share/doc/x/y/copyright": true,
		"lib/systemd/system/x.service": false, "lib/NetworkManager/x": true, "usr/share/locale": true,
		"usr/lib/postgresql/15/lib/llvmjit.so": true, "usr/lib/postgresql/15/lib/bitcode/postgres.index.bc": true, "usr/lib/postgresql/15/lib/plpgsql.so": false,
	} {
		require.Equal(t, want, dropped(name), name)
	}
}
