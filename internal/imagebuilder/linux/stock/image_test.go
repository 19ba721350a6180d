package stock

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// namedImage is a bzImage that says its release.
func namedImage(release string) []byte {
	image := makeBzImage(withSize(compressBare(makeVmlinux(18)), len(makeVmlinux(18))))
	at := len(image)
	binary.LittleEndian.PutUint16(image[0x20e:], uint16(at-0x200))
	return append(image, release+" (user@host) #1 SMP\x00behind"...)
}

func TestUnpackImage(t *testing.T) {
	t.Parallel()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "bzImage")
	require.NoError(t, os.WriteFile(file, namedImage("6.1.192-dormouse"), 0o600))
	k, err := UnpackImage(context.Background(), dir, file)
	require.NoError(t, err)
	require.Equal(t, "6.1.192-dormouse", k.Release)
	image, err := os.ReadFile(k.BootPath())
	require.NoError(t, err)
	require.Equal(t, makeVmlinux(18), image)
	found, err := Find(dir)
	require.NoError(t, err)
	require.Equal(t, k, found)
	before, err := os.Stat(k.VmlinuzPath())
	require.NoError(t, err)
	again, err := UnpackImage(context.Background(), dir, file)
	require.NoError(t, err)
	require.Equal(t, k, again)
	after, err := os.Stat(k.VmlinuzPath())
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after), "guests may be booting from it")
	var initrd bytes.Buffer
	require.NoError(t, BuildInitrd(&initrd, k.Dir, []byte("\x7fELF")))
	_, contents := cpioFiles(t, &initrd)
	require.Empty(t, contents["modules/order"])

	// Another kernel of the same release takes its place.
	other := append(namedImage("6.1.192-dormouse"), "changed"...)
	require.NoError(t, os.WriteFile(file, other, 0o600))
	next, err := UnpackImage(context.Background(), dir, file)
	require.NoError(t, err)
	require.NotEqual(t, k.Digest, next.Digest)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1)
}

func TestUnpackImageRefuses(t *testing.T) {
	t.Parallel()
	nameless := namedImage("x")
	nameless[0x20e], nameless[0x20f] = 0, 0
	far := namedImage("x")
	far[0x20e], far[0x20f] = 0xff, 0xff
	for name, c := range map[string]struct {
		image []byte
		says  string
	}{
		"Empty": {nil, "EOF"}, "Text": {[]byte("hello"), "no bzImage"}, "Nameless": {nameless, "does not say"}, "Far": {far, "does not say"},
		"Path": {namedImage("../../x"), "strange release"}, "Hidden": {namedImage(".x"), "strange release"}, "Long": {namedImage(strings.Repeat("x", 101)), "strange release"},
		"Endless": {bytes.TrimSuffix(namedImage("x"), []byte("\x00behind")), "strange release"},
	} {
		dir, file := t.TempDir(), filepath.Join(t.TempDir(), "bzImage")
		require.NoError(t, os.WriteFile(file, c.image, 0o600))
		_, err := UnpackImage(context.Background(), dir, file)
		require.ErrorContains(t, err, c.says, name)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), name)
		left, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, left, name)
	}
}
