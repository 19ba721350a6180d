package guest_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/guest"
)

func TestFindUser(t *testing.T) {
	t.Parallel()
	etc := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(etc, "passwd"), []byte("root:x:0:0::/root:/bin/sh\nshort:x\npostgres:x:105:110::/var/lib/postgresql:/bin/sh\nbad:x:many:1::/:/\nall:x:4294967295:1::/:/\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(etc, "group"), []byte("postgres:x:110:\nssl-cert:x:111:root,postgres\nbad:x:many:bad\n"), 0o644))
	in := func(dir string) guest.OpenAccounts {
		return func(name string) (io.ReadCloser, error) { return os.Open(filepath.Join(dir, name)) }
	}
	for spec, want := range map[string]guest.User{
		"root":              {Groups: []uint32{111}, Home: "/root"},
		"postgres":          {UID: 105, GID: 110, Groups: []uint32{111}, Home: "/var/lib/postgresql"},
		"105":               {UID: 105, GID: 110, Groups: []uint32{111}, Home: "/var/lib/postgresql"},
		"postgres:ssl-cert": {UID: 105, GID: 111, Home: "/var/lib/postgresql"},
		"postgres:7":        {UID: 105, GID: 7, Home: "/var/lib/postgresql"},
		"1000":              {UID: 1000},
		"1000:1000":         {UID: 1000, GID: 1000},
	} {
		got, err := guest.FindUser(spec, in(etc))
		require.NoError(t, err, spec)
		if want.Groups == nil {
			require.Empty(t, got.Groups, spec)
			got.Groups = nil
		}
		require.Equal(t, want, got, spec)
	}
	for spec, want := range map[string]string{
		"mysql":          `no user "mysql"`,
		"":               `no user ""`,
		":5":             `no user ""`,
		"-1":             `no user "-1"`,
		"4294967295":     "no number",
		"root:nobody":    `no group "nobody"`,
		"postgres:":      `no group ""`,
		"bad":            "no number",
		"all":            "no number",
		"99999999999999": "no user",
	} {
		_, err := guest.FindUser(spec, in(etc))
		require.ErrorContains(t, err, want, spec)
	}
	// An image without account files has numbers only.
	got, err := guest.FindUser("5:6", in(t.TempDir()))
	require.NoError(t, err)
	require.Equal(t, []int{5, 6}, []int{got.UID, got.GID})
	// A line without an end is an error, and no memory is taken for it.
	require.NoError(t, os.WriteFile(filepath.Join(etc, "passwd"), []byte(strings.Repeat("x", 8<<20)), 0o644))
	_, err = guest.FindUser("root", in(etc))
	require.ErrorContains(t, err, "/etc/passwd")
}
