package deb

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder/source"
)

// archive is a small Debian: a daemon of two packages, libraries of others, and
// what an installation would bring besides.
func archive(marker string) []pack {
	lib := func(content string) file { return file{content: content} }
	return []pack{
		{control: "Package: hello\nVersion: 2:1.5-3+deb12u1\nDepends: libgreet1 (>= 2), hello-common (= 2:1.5-3+deb12u1), adduser | passwd, tzdata\nPre-Depends: init-helpers\n", marker: marker, files: map[string]file{
			"usr/sbin/hello":                   {content: object(loader, "libgreet.so.1", "libc.so.6"), mode: 0o755},
			"usr/bin/hello-mail":               {content: object(loader, "libc.so.6"), mode: 0o755 | os.ModeSetgid},
			"usr/lib/hello/plugin.so":          lib(object("", "libplug.so.3")),
			"usr/lib/hello/odd.so":             lib(object("", "libnowhere.so.9")),
			"lib/systemd/system/hello.service": {content: "[Unit]\nDescription=x\n[Service]\nType=notify\nUser=hello\nExecStart=/usr/sbin/hello -c /etc/hello.conf\nRuntimeDirectory=hello\n"},
			"usr/lib/systemd/libown.so.1":      lib(object("")),
			"etc/hello.conf":                   {content: "x\n", mode: 0o600},
			"lib/hello/data":                   {link: "../../usr/share/hello/data"},
			"usr/share/doc/hello/copyright":    {content: "free\n"},
			"usr/share/doc/hello/changelog.gz": {content: "x"},
			"usr/share/man/man8/hello.8.gz":    {content: "x"},
			"usr/share/locale/de/hello.mo":     {content: "x"},
			"etc/init.d/hello":                 {content: "x", mode: 0o755},
		}},
		{control: "Package: hello-common\nSource: hello (2:1.5-3)\nVersion: 2:1.5-3+deb12u1\nArchitecture: all\n", files: map[string]file{
			"usr/share/hello/data":          {content: "data\n"},
			"usr/lib/tmpfiles.d/hello.conf": {content: "# x\nd /var/lib/hello/spool 0750 hello hello -\nf /etc/no 0644 - -\nd /var/%m/x\n"},
			"usr/lib/sysusers.d/hello.conf": {content: "u greeter 300 \"Says hello\" /var/lib/greeter\nm hello greeters\n"},
		}},
		{control: "Package: libgreet1\nSource: greet\nVersion: 2.0\nDepends: libdeep2, libc6\n", files: map[string]file{
			multiarch + "libgreet.so.1":         {link: "libgreet.so.1.0"},
			multiarch + "libgreet.so.1.0":       lib(object("", "libdeep.so.2")),
			"usr/bin/greet-tool":                {content: object(loader), mode: 0o755},
			"usr/share/doc/libgreet1/copyright": {content: "free too\n"},
		}},
		{control: "Package: libdeep2\nVersion: 1\n", files: map[string]file{"lib/x86_64-linux-gnu/libdeep.so.2": lib(object(""))}},
		{control: "Package: libplug3\nVersion: 1\n", files: map[string]file{multiarch + "libplug.so.3": lib(object(""))}},
		{control: "Package: libc6\nSource: glibc\nVersion: 2.36\n", files: map[string]file{
			"lib64/ld-linux-x86-64.so.2":                 {link: "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"},
			"lib/x86_64-linux-gnu/ld-linux-x86-64.so.2":  {content: object(""), mode: 0o755},
			"lib/x86_64-linux-gnu/libc.so.6":             lib(object("", "ld-linux-x86-64.so.2")),
			"usr/lib/x86_64-linux-gnu/gconv/UTF-7.so":    lib(object("")),
			"usr/lib/x86_64-linux-gnu/libunwanted.so.40": lib(object("")),
		}},
		{control: "Package: tzdata\nVersion: 2026a\nArchitecture: all\n", files: map[string]file{
			"usr/share/zoneinfo/UTC": {content: "TZif"}, "usr/sbin/tzconfig": {content: "#!/bin/sh\n", mode: 0o755},
		}},
		{control: "Package: adduser\nVersion: 3\nArchitecture: all\n", files: map[string]file{"usr/sbin/adduser": {content: "#!/usr/bin/perl\n", mode: 0o755}}},
		{control: "Package: init-helpers\nVersion: 1\nDepends: libplug3\n", files: map[string]file{"usr/bin/deb-helper": {content: "#!/bin/sh\n", mode: 0o755}}},
		{control: "Package: hello-all\nVersion: 9\nArchitecture: all\nDepends: hello\n", files: map[string]file{"usr/share/doc/hello-all/copyright": {content: "free\n"}}},
		{control: "Package: exim\nVersion: 1\nProvides: mail-agent, only-agent\n"},
		{control: "Package: postfix\nVersion: 1\nProvides: mail-agent\n"},
		{control: "Package: broken\nVersion: 1\nDepends: nothing-there\n"},
		{control: "Package: held\nVersion: 1\n"},
	}
}

func fetch(t *testing.T, r *repository, o Options, names ...string) (string, source.Laid, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	require.NoError(t, os.Mkdir(dir, 0o755))
	o.AptConfig = r.config
	laid, err := Fetch(context.Background(), dir, names, o)
	beside, dirErr := os.ReadDir(filepath.Dir(dir))
	require.NoError(t, dirErr)
	require.Len(t, beside, 1, "apt's own files are gone")
	return dir, laid, err
}

func TestFetch(t *testing.T) {
	t.Parallel()
	marker := filepath.Join(t.TempDir(), "ran")
	r := newRepository(t, "trusted=yes", archive(marker)...)
	dir, laid, err := fetch(t, r, Options{}, "hello")
	require.NoError(t, err)
	require.NoFileExists(t, marker, "no maintainer script runs")
	require.Equal(t, []string{
		"bin -> usr/bin",
		"etc/ rwxr-xr-x", "etc/group rw-r--r--", "etc/hello.conf rw-------", "etc/nsswitch.conf rw-r--r--", "etc/passwd rw-r--r--",
		"lib -> usr/lib", "lib64 -> usr/lib64",
		"root/ rwx------", "run/ rwxr-xr-x", "run/hello/ rwxr-xr-x", "run/lock/ rwxrwxrwx", "sbin -> usr/sbin", "tmp/ rwxrwxrwx",
		"usr/ rwxr-xr-x", "usr/bin/ rwxr-xr-x", "usr/bin/hello-mail rwxr-xr-x",
		"usr/lib/ rwxr-xr-x", "usr/lib/hello/ rwxr-xr-x", "usr/lib/hello/data -> /usr/share/hello/data", "usr/lib/hello/odd.so rw-r--r--", "usr/lib/hello/plugin.so rw-r--r--",
		"usr/lib/systemd/ rwxr-xr-x", "usr/lib/systemd/libown.so.1 rw-r--r--",
		"usr/lib/x86_64-linux-gnu/ rwxr-xr-x", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 rwxr-xr-x", "usr/lib/x86_64-linux-gnu/libc.so.6 rw-r--r--",
		"usr/lib/x86_64-linux-gnu/libdeep.so.2 rw-r--r--", "usr/lib/x86_64-linux-gnu/libgreet.so.1 -> libgreet.so.1.0", "usr/lib/x86_64-linux-gnu/libgreet.so.1.0 rw-r--r--",
		"usr/lib/x86_64-linux-gnu/libplug.so.3 rw-r--r--",
		"usr/lib64/ rwxr-xr-x", "usr/lib64/ld-linux-x86-64.so.2 -> /lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
		"usr/sbin/ rwxr-xr-x", "usr/sbin/hello rwxr-xr-x",
		"usr/share/ rwxr-xr-x", "usr/share/doc/ rwxr-xr-x", "usr/share/doc/hello/ rwxr-xr-x", "usr/share/doc/hello/copyright rw-r--r--",
		"usr/share/doc/libgreet1/ rwxr-xr-x", "usr/share/doc/libgreet1/copyright rw-r--r--",
		"usr/share/hello/ rwxr-xr-x", "usr/share/hello/data rw-r--r--", "usr/share/zoneinfo/ rwxr-xr-x", "usr/share/zoneinfo/UTC rw-r--r--",
		"var/ rwxr-xr-x", "var/cache/ rwxr-xr-x", "var/lib/ rwxr-xr-x", "var/lib/hello/ rwxr-xr-x", "var/lib/hello/spool/ rwxr-x---",
		"var/lock -> /run/lock", "var/log/ rwxr-xr-x", "var/run -> /run", "var/tmp/ rwxrwxrwx",
	}, plain(listing(t, dir)))
	passwd, err := os.ReadFile(filepath.Join(dir, "etc/passwd"))
	require.NoError(t, err)
	require.Contains(t, string(passwd), "greeter:x:300:300::/var/lib/greeter:/usr/sbin/nologin\n")
	require.Contains(t, string(passwd), "hello:x:102:102::/nonexistent:/usr/sbin/nologin\n")
	group, err := os.ReadFile(filepath.Join(dir, "etc/group"))
	require.NoError(t, err)
	require.Contains(t, string(group), "greeters:x:101:hello\n")

	require.Equal(t, []string{"hello", "1.5-3+deb12u1"}, []string{laid.Name, laid.Version})
	require.JSONEq(t, `{"Program": "/usr/sbin/hello", "Args": ["/usr/sbin/hello", "-c", "/etc/hello.conf"], "User": "hello"}`, string(laid.Manifest))
	require.Len(t, laid.Warnings, 1)
	require.Contains(t, laid.Warnings[0], "/usr/lib/hello/odd.so can't be used: /usr/lib/hello/odd.so needs the library libnowhere.so.9")
	var origins []string
	for _, o := range laid.Origins {
		require.Equal(t, source.OriginDeb, o.Type)
		require.Len(t, o.Digest, 64)
		origins = append(origins, o.Name+" "+o.Version)
	}
	require.Equal(t, []string{"hello 2:1.5-3+deb12u1", "hello-common 2:1.5-3+deb12u1", "libc6 2.36", "libdeep2 1", "libgreet1 2.0", "libplug3 1", "tzdata 2026a"}, origins)
	require.Equal(t, "libgreet1", laid.Origins[laid.Origin[multiarch+"libgreet.so.1"]].Name)
	require.NotContains(t, laid.Origin, "etc/passwd")

	// It is a package as it is.
	p, err := source.FromDirectory(context.Background(), dir, laid, source.Options{})
	require.NoError(t, err)
	require.Equal(t, "/usr/sbin/hello", p.Manifest.Program)
	require.NoError(t, p.Close())
}

// plain drops the sticky and set-ID bits, which listings write in several ways.
func plain(lines []string) []string {
	var all []string
	for _, l := range lines {
		name, mode, _ := strings.Cut(l, " ")
		mode = strings.TrimPrefix(strings.TrimPrefix(mode, "t"), "g")
		if !strings.Contains(l, "->") && len(mode) > 9 {
			mode = mode[len(mode)-9:]
		}
		if name != "usr/" && name != "var/" || mode != "" {
			all = append(all, name+" "+mode)
		}
	}
	return all
}

func TestFetchTwiceIsTheSame(t *testing.T) {
	t.Parallel()
	r := newRepository(t, "trusted=yes", archive("")...)
	cache := Options{CacheDir: filepath.Join(t.TempDir(), "debs")}
	one, first, err := fetch(t, r, cache, "hello")
	require.NoError(t, err)
	two, second, err := fetch(t, r, Options{}, "hello=2:1.5-3+deb12u1")
	require.NoError(t, err)
	require.Equal(t, listing(t, one), listing(t, two))
	require.Equal(t, first, second)

	// A metapackage stands for what it depends on; its own version is the package's.
	three, meta, err := fetch(t, r, cache, "hello-all")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(three, "usr/sbin/hello"))
	require.Equal(t, "9", meta.Version)
	require.NoFileExists(t, filepath.Join(three, "usr/sbin/adduser"))

	// The only provider of a virtual package is taken.
	_, laid, err := fetch(t, r, cache, "only-agent")
	require.NoError(t, err)
	require.Equal(t, "exim", laid.Name)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	r := newRepository(t, "trusted=yes", archive("")...)
	for name, want := range map[string]string{
		"":                   "no Debian package is named",
		"nosuch":             "no Debian package nosuch",
		"hel.o":              "no Debian package hel.o",
		"hello-":             `"hello-" is no name`,
		"-o":                 `"-o" is no name`,
		"hello common":       "is no name",
		"hello:i386":         "architecture i386",
		"hello=0.1":          "no version 0.1 of the Debian package hello",
		"hello= -o":          "names no version",
		"mail-agent":         "virtual Debian package: name one of those that provide it: exim, postfix",
		"broken":             "nothing-there",
		"held":               "held back",
		"hello,hello":        "named twice",
		"hello,broken":       "can't be satisfied together",
		"hello,hello:arm64":  "architecture arm64",
		"hello/oldstable":    "is no name",
		"hello:amd64,nosuch": "no Debian package nosuch",
	} {
		var names []string
		if name != "" {
			names = strings.Split(name, ",")
		}
		dir, _, err := fetch(t, r, Options{}, names...)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%s: %v", name, err)
		require.ErrorContains(t, err, want, name)
		require.Empty(t, listing(t, dir), name)
	}
	_, _, err := fetch(t, r, Options{MaxBytes: 100}, "hello")
	require.ErrorContains(t, err, "name a smaller one")
	r.config = r.configure("none")
	_, _, err = fetch(t, r, Options{}, "hello")
	require.Equal(t, fleet.KindUnavailable, fleet.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "no package lists: run `apt-get update`")
}

// An archive that nobody has signed is refused, though its lists may be there.
func TestUnsigned(t *testing.T) {
	t.Parallel()
	r := newRepository(t, "allow-insecure=yes", archive("")...)
	_, _, err := fetch(t, r, Options{}, "hello")
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%v", err)
	require.ErrorContains(t, err, "not signed by a key that apt knows")
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	r := newRepository(t, "trusted=yes", archive("")...)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir := t.TempDir()
	_, err := Fetch(ctx, dir, []string{"hello"}, Options{AptConfig: r.config})
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, listing(t, dir))
}

// Of a dependency that is data its users can't work without, that data is kept;
// certificates become the one file that libraries read.
func TestData(t *testing.T) {
	t.Parallel()
	r := newRepository(t, "trusted=yes",
		pack{control: "Package: app\nVersion: 1\nDepends: ca-certificates\n", files: map[string]file{"usr/bin/app": {content: object(""), mode: 0o755}}},
		pack{control: "Package: ca-certificates\nVersion: 2026\nArchitecture: all\nDepends: openssl, tzdata\n", files: map[string]file{
			"usr/share/ca-certificates/mozilla/B.crt": {content: "second\n"}, "usr/share/ca-certificates/mozilla/A.crt": {content: "first\n"},
			"usr/sbin/update-ca-certificates": {content: "#!/bin/sh\n", mode: 0o755},
		}},
		pack{control: "Package: openssl\nVersion: 3\n", files: map[string]file{
			"etc/ssl/openssl.cnf": {content: "x\n"}, "usr/lib/ssl/openssl.cnf": {link: "/etc/ssl/openssl.cnf"}, "usr/bin/openssl": {content: object(""), mode: 0o755},
		}},
		pack{control: "Package: tzdata\nVersion: 1\n", files: map[string]file{"usr/share/zoneinfo/UTC": {content: "TZif"}}},
	)
	dir, laid, err := fetch(t, r, Options{}, "app")
	require.NoError(t, err)
	bundle, err := os.ReadFile(filepath.Join(dir, "etc/ssl/certs/ca-certificates.crt"))
	require.NoError(t, err)
	require.Equal(t, "first\n\nsecond\n\n", string(bundle))
	require.FileExists(t, filepath.Join(dir, "etc/ssl/openssl.cnf"), "wanted by what is kept for the program")
	require.NoFileExists(t, filepath.Join(dir, "usr/bin/openssl"))
	require.NoFileExists(t, filepath.Join(dir, "usr/sbin/update-ca-certificates"))
	require.JSONEq(t, `{"Program": "/usr/bin/app", "Args": ["/usr/bin/app"]}`, string(laid.Manifest))
}

// The umask of whoever fetches changes nothing.
func TestFetchWithAnotherUmask(t *testing.T) {
	t.Parallel()
	r := newRepository(t, "trusted=yes", archive("")...)
	one, _, err := fetch(t, r, Options{}, "hello")
	require.NoError(t, err)
	other := filepath.Join(t.TempDir(), "root")
	cmd := exec.Command("/bin/sh", "-c", `umask 077 && exec "$0" -test.run '^TestFetchInProcess$' -test.v`, os.Args[0])
	cmd.Env = append(os.Environ(), fetchInto+"="+other, "APT_CONFIG="+r.config)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, listing(t, one), listing(t, other))
	info, err := os.Stat(other)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm(), "the root too")
}

// fetchInto names, in the environment, a directory for TestFetchInProcess to make.
const fetchInto = "DORMOUSE_TEST_FETCH_INTO"

func TestFetchInProcess(t *testing.T) {
	t.Parallel()
	dir := os.Getenv(fetchInto)
	if dir == "" {
		t.Skip("it is the other process of TestFetchWithAnotherUmask")
	}
	require.NoError(t, os.Mkdir(dir, 0o755))
	_, err := Fetch(context.Background(), dir, []string{"hello"}, Options{})
	require.NoError(t, err)
}
