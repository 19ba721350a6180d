package deb

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/imagebuilder/elfdeps"
	"dormouse/internal/imagebuilder/source"
)

// A package of the real archive comes with all that its program loads.
func TestRealArchive(t *testing.T) {
	t.Parallel()
	lists, err := exec.Command("apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages").Output()
	if err != nil || len(lists) == 0 {
		t.Skipf("this host has no package lists of Debian's (apt-get update): %v", err)
	}
	dir := filepath.Join(t.TempDir(), "root")
	require.NoError(t, os.Mkdir(dir, 0o755))
	laid, err := Fetch(context.Background(), dir, []string{"lighttpd"}, Options{})
	require.NoError(t, err)
	require.Empty(t, laid.Warnings)
	p, err := source.FromDirectory(context.Background(), dir, laid, source.Options{})
	require.NoError(t, err)
	defer p.Close()
	require.Equal(t, "lighttpd", p.Name)
	require.Equal(t, "/usr/sbin/lighttpd", p.Manifest.Program)
	require.Equal(t, []string{"-D", "-f", "/etc/lighttpd/lighttpd.conf"}, p.Manifest.Args)
	report, err := elfdeps.Check(p.Tree, p.Manifest.Program, nil)
	require.NoError(t, err)
	require.NotEmpty(t, report.Libraries)
	for _, gone := range []string{"usr/sbin/adduser", "usr/bin/perl", "usr/share/man", "etc/init.d"} {
		require.NoFileExists(t, filepath.Join(dir, gone))
	}
	require.FileExists(t, filepath.Join(dir, "usr/share/doc/libc6/copyright"))
}
