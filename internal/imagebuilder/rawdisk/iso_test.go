package rawdisk_test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// readISO reads the files at the top of a volume as the standard says, both ways
// in which it writes numbers, and has a tool that is not ours read them too where there is one.
func readISO(t *testing.T, path string) map[string]string {
	t.Helper()
	image, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Zero(t, len(image)%2048)
	require.Equal(t, make([]byte, 32<<10), image[:32<<10], "no boot sector")
	number := func(b []byte) int {
		le := binary.LittleEndian.Uint32(b)
		require.Equal(t, le, binary.BigEndian.Uint32(b[4:]))
		return int(le)
	}
	volume := image[32<<10 : 34<<10]
	require.Equal(t, "\x01CD001\x01", string(volume[:7]))
	require.Equal(t, "cidata                          ", string(volume[40:72]))
	require.Equal(t, len(image)/2048, number(volume[80:]))
	require.Equal(t, "\xffCD001\x01", string(image[34<<10:34<<10+7]))
	root := volume[156:]
	at, size := number(root[2:])*2048, number(root[10:])
	files := map[string]string{}
	var last string
	for dir := image[at : at+size]; dir[0] != 0; dir = dir[dir[0]:] {
		name := string(dir[33 : 33+dir[32]])
		require.Greater(t, name, last, "in order")
		begin, n := number(dir[2:])*2048, number(dir[10:])
		if dir[25]&2 != 0 {
			require.Equal(t, at, begin)
			continue
		}
		last = name
		files[name] = string(image[begin : begin+n])
	}
	tool, err := exec.LookPath("isoinfo")
	if err != nil {
		t.Log("isoinfo is not installed (apt-get install genisoimage): nothing else has read the volume")
		return files
	}
	for name, body := range files {
		out, err := exec.Command(tool, "-i", path, "-x", "/"+name).Output()
		require.NoError(t, err)
		require.Equal(t, body, string(out))
	}
	return files
}
