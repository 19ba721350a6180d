package nanos

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/imagebuilder/elfdeps"
	"dormouse/internal/imagebuilder/source"
)

func admit(t testing.TB, p *source.Package) ([]string, error) {
	t.Helper()
	var reports []elfdeps.Report
	for _, e := range p.Executables {
		r, err := elfdeps.Check(p.Tree, e, p.Manifest.Env)
		require.NoError(t, err)
		reports = append(reports, r)
	}
	return New(Options{}).Admit(context.Background(), imagebuilder.AdmitInput{Package: p, Reports: reports})
}

func TestAdmit(t *testing.T) {
	t.Parallel()
	static := tinyELF(t, 0x0f, 0x0b)
	p := pack(t, `{"Name":"app","Version":"1","Program":"/bin/app"}`, map[string]string{"sysroot/bin/app": static})
	p.Manifest.User = "www-data"
	warnings, err := admit(t, p)
	require.NoError(t, err)
	require.Len(t, warnings, 2)
	require.Contains(t, warnings[0], "www-data")
	require.Contains(t, warnings[1], "linked statically")

	p = pack(t, `{"Name":"app","Version":"1","Program":"/bin/mariadbd"}`, map[string]string{"sysroot/bin/mariadbd": static})
	warnings, err = admit(t, p)
	require.NoError(t, err)
	require.Contains(t, warnings[0], "loses committed rows")

	p = pack(t, `{"Name":"app","Version":"1","Program":"/bin/app"}`, map[string]string{"sysroot/bin/app": "#!/bin/sh\nexec true\n", "sysroot/bin/sh": static})
	_, err = admit(t, p)
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	require.ErrorContains(t, err, "a script")
}

// A shell of this machine: whatever its version, it makes processes.
func TestAdmitDynamic(t *testing.T) {
	t.Parallel()
	const program = "/bin/sh"
	members := map[string]string{}
	out, err := exec.Command("ldd", program).Output()
	if err != nil {
		t.Skip("ldd can't tell what /bin/sh needs:", err)
	}
	for _, path := range append(strings.Fields(string(out)), program) {
		if body, err := os.ReadFile(path); strings.HasPrefix(path, "/") && err == nil {
			members["sysroot"+path] = string(body)
		}
	}
	p := pack(t, `{"Name":"app","Version":"1","Program":"/bin/sh"}`, members)
	warnings, err := admit(t, p)
	require.NoError(t, err, "importing fork is no reason to refuse")
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0], "/bin/sh imports fork")
	require.Contains(t, warnings[0], "execve")
	require.Contains(t, warnings[0], "foreground")
}

func TestShorten(t *testing.T) {
	t.Parallel()
	require.Equal(t, "a; b; c; d; 2 more files", shorten([]string{"a", "b", "c", "d", "e", "f"}))
	require.Equal(t, "a; b", shorten([]string{"a", "b"}))
}
