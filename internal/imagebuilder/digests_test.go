package imagebuilder

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDigests(t *testing.T) {
	t.Parallel()
	var d Digests
	dir := t.TempDir()
	one, link, other := filepath.Join(dir, "one"), filepath.Join(dir, "link"), filepath.Join(dir, "other")
	require.NoError(t, os.WriteFile(one, []byte("hello"), 0o600))
	require.NoError(t, os.Link(one, link))
	const hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	for _, path := range []string{one, link, one} {
		sum, err := d.File(path)
		require.NoError(t, err)
		require.Equal(t, hello, sum)
	}
	require.Len(t, d.sums, 1, "one file, whatever its names")
	require.NoError(t, os.WriteFile(other, []byte("world"), 0o600))
	require.NoError(t, os.Rename(other, one))
	sum, err := d.File(one)
	require.NoError(t, err)
	require.NotEqual(t, hello, sum, "replaced")
	require.NoError(t, os.WriteFile(link, []byte("HELLO"), 0o600))
	require.NoError(t, os.Chtimes(link, time.Now(), time.Now().Add(time.Second)))
	sum, err = d.File(link)
	require.NoError(t, err)
	require.NotEqual(t, hello, sum, "written to")
	_, err = d.File(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
