package elfdeps

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWanted(t *testing.T) {
	t.Parallel()
	old := library("ld-linux-x86-64.so.2").binary()
	calls := func(functions ...string) []byte {
		o := program(glibcLoader, "libc.so.6")
		o.strings = functions
		return o.binary()
	}
	newer := library("ld-linux-x86-64.so.2")
	newer.strings = []string{"GLIBC_2.34"}
	for name, c := range map[string]struct {
		program []byte
		libc    []byte
		more    map[string][]byte
		want    []string
		warns   bool
	}{
		"Nothing":         {program: calls("puts"), libc: old},
		"ResolverOld":     {program: calls("getaddrinfo"), libc: old, want: []string{"libnss_files.so.2", "libnss_dns.so.2"}, warns: true},
		"ResolverNew":     {program: calls("getaddrinfo"), libc: newer.binary()},
		"UsersOld":        {program: calls("getpwnam"), libc: old, want: []string{"libnss_files.so.2"}, warns: true},
		"UsersOldThere":   {program: calls("getpwnam"), libc: old, more: map[string][]byte{multiarch + "libnss_files.so.2": library().binary()}},
		"Cancel":          {program: calls("pthread_cancel"), libc: newer.binary(), want: []string{"libgcc_s.so.1"}, warns: true},
		"CancelThere":     {program: calls("pthread_cancel"), libc: newer.binary(), more: map[string][]byte{"/lib/libgcc_s.so.1": library().binary()}},
		"CancelOtherELF":  {program: calls("pthread_cancel"), libc: newer.binary(), more: map[string][]byte{"/lib/libgcc_s.so.1": []byte("x")}, want: []string{"libgcc_s.so.1"}, warns: true},
		"Converters":      {program: calls("iconv_open"), libc: newer.binary(), want: []string{"gconv/gconv-modules"}},
		"ConvertersThere": {program: calls("iconv_open"), libc: newer.binary(), more: map[string][]byte{multiarch + "gconv/gconv-modules.cache": {}}},
	} {
		files := map[string][]byte{"/p": c.program, multiarch + "libc.so.6": c.libc}
		for n, body := range c.more {
			files[n] = body
		}
		r, err := Check(glibcTree(files), "/p", nil)
		require.NoError(t, err, name)
		var got []string
		for _, w := range r.Wanted {
			got = append(got, w.Library)
			require.Equal(t, "/p", w.WantedBy)
			require.NotEmpty(t, w.For)
		}
		require.Equal(t, c.want, got, name)
		require.Equal(t, c.warns, len(r.Warnings) > 0, name)
		for _, w := range c.want {
			require.Equal(t, c.warns, strings.Contains(strings.Join(r.Warnings, "\n"), w), name)
		}
	}

	// It is the importing library that is named, and musl has everything in itself.
	lib := library("libc.so.6")
	lib.strings = []string{"pthread_cancel"}
	r, err := Check(glibcTree(map[string][]byte{"/p": program(glibcLoader, "liba.so").binary(), "/lib/liba.so": lib.binary(), multiarch + "libc.so.6": newer.binary()}), "/p", nil)
	require.NoError(t, err)
	require.Equal(t, "/lib/liba.so", r.Wanted[0].WantedBy)
	m := program(muslLoader, "libc.so")
	m.strings = []string{"getaddrinfo", "pthread_cancel", "iconv_open"}
	r, err = Check(muslTree(map[string][]byte{"/p": m.binary()}), "/p", nil)
	require.NoError(t, err)
	require.Empty(t, r.Wanted)
}

// LD_PRELOAD is held to the same rules, and what asked for it is named.
func TestPreloadRefused(t *testing.T) {
	t.Parallel()
	arm := library()
	arm.machine = 183 // EM_AARCH64
	for preload, c := range map[string]struct {
		files map[string][]byte
		says  string
	}{
		"/opt/none.so":          {nil, "/p needs the file /opt/none.so"},
		"none.so":               {nil, "/p needs the library none.so"},
		"/opt/a.so /opt/arm.so": {map[string][]byte{"/opt/a.so": library().binary(), "/opt/arm.so": arm.binary()}, "/p needs /opt/arm.so, but /opt/arm.so is for ARM aarch64"},
		"/opt/musl.so":          {map[string][]byte{"/opt/musl.so": library("libc.musl-x86_64.so.1").binary()}, "/opt/musl.so needs libc.musl-x86_64.so.1, but /p is linked for glibc"},
		"/opt/deep.so":          {map[string][]byte{"/opt/deep.so": library("gone.so").binary()}, "/opt/deep.so needs the library gone.so"},
	} {
		files := map[string][]byte{"/p": program(glibcLoader, "libc.so.6").binary()}
		for n, body := range c.files {
			files[n] = body
		}
		_, err := Check(glibcTree(files), "/p", map[string]string{"LD_PRELOAD": preload})
		require.ErrorContains(t, err, c.says, preload)
	}
}
