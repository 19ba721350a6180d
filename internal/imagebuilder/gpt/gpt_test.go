package gpt

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func partitions() []Partition {
	return []Partition{
		{Type: ESP, ID: Derive("esp"), Name: "dormouse-esp", Size: 34_445_312},
		{Type: LinuxData, ID: Derive("root"), Name: "dormouse-root", Size: 1},
		{Type: LinuxData, ID: Derive("data"), Name: strings.Repeat("é", 36), Size: 3 << 20},
	}
}

func write(t *testing.T, size int64, id GUID, p []Partition) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Truncate(size))
	require.NoError(t, Write(f, size, id, p))
	info, err := f.Stat()
	require.NoError(t, err)
	require.Equal(t, size, info.Size())
	return f.Name()
}

// sfdisk, of util-linux, knows nothing of this package.
func sfdisk(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("/sbin/sfdisk", args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "sfdisk %v (install fdisk): %s", args, out)
	return string(out)
}

func TestWrite(t *testing.T) {
	t.Parallel()
	p := partitions()
	least, err := Lay(p)
	require.NoError(t, err)
	require.Equal(t, int64((1+33+1+3+1)<<20), least)
	for _, size := range []int64{least, 1 << 30, 5 << 41} { // the last with more sectors than an MBR counts
		disk := write(t, size, Derive("disk"), p)
		require.Contains(t, sfdisk(t, "--verify", disk), "No errors detected")
		var found struct {
			PartitionTable struct {
				Label, ID         string
				FirstLBA, LastLBA int64
				Partitions        []struct {
					Start, Size      int64
					Type, UUID, Name string
				}
			}
		}
		require.NoError(t, json.Unmarshal([]byte(sfdisk(t, "--json", disk)), &found))
		table := found.PartitionTable
		require.Equal(t, []any{"gpt", strings.ToUpper(Derive("disk").String()), int64(34), size/512 - 34},
			[]any{table.Label, table.ID, table.FirstLBA, table.LastLBA})
		require.Len(t, table.Partitions, len(p))
		for i, got := range table.Partitions {
			require.Equal(t, []any{p[i].Name, p[i].Offset / 512, p[i].Size / 512, strings.ToUpper(p[i].Type.String()), strings.ToUpper(p[i].ID.String())},
				[]any{got.Name, got.Start, got.Size, got.Type, got.UUID})
		}
	}
}

// Each copy of the table is enough by itself.
func TestEitherCopyServes(t *testing.T) {
	t.Parallel()
	p := partitions()
	size, err := Lay(p)
	require.NoError(t, err)
	for _, lost := range []int64{512, size - 512} {
		disk := write(t, size, Derive("disk"), p)
		f, err := os.OpenFile(disk, os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteAt(make([]byte, 512), lost)
		require.NoError(t, errors.Join(err, f.Close()))
		require.Contains(t, sfdisk(t, "--dump", disk), "dormouse-root")
	}
}

func TestWriteReproducible(t *testing.T) {
	t.Parallel()
	p := partitions()
	size, err := Lay(p)
	require.NoError(t, err)
	body, err := os.ReadFile(write(t, size, Derive("disk"), p))
	require.NoError(t, err)
	require.Equal(t, "5e2c6857492c1517737c1536bff4d30052d38f6b61b003097981cce423db95de", fmt.Sprintf("%x", sha256.Sum256(body)))
	require.NotEqual(t, Derive("a", "b"), Derive("ab"))
	require.NotEqual(t, Derive("a", "bc"), Derive("ab", "c"))
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, Derive("x").String())
	require.Equal(t, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", ESP.String())
}

func TestRefused(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for name, c := range map[string]struct {
		size int64
		p    []Partition
		says string
	}{
		"OddSize":      {10*mib + 1, nil, "can't have"},
		"TooSmall":     {mib, nil, "can't have"},
		"TooMany":      {200 * mib, make([]Partition, 129), "129 partitions"},
		"OverTable":    {10 * mib, []Partition{{Offset: 0, Size: mib}}, "not aligned"},
		"Unaligned":    {10 * mib, []Partition{{Offset: mib + 512, Size: mib}}, "not aligned"},
		"NoSize":       {10 * mib, []Partition{{Offset: mib}}, "not aligned"},
		"BehindTheEnd": {10 * mib, []Partition{{Name: "x", Offset: mib, Size: 9 * mib}}, "ends behind"},
		"Overflow":     {10 * mib, []Partition{{Offset: mib, Size: 1<<63 - mib}}, "not aligned"},
		"Overlap":      {10 * mib, []Partition{{Name: "a", Offset: 2 * mib, Size: 2 * mib}, {Name: "b", Offset: mib, Size: 2 * mib}}, "a and b overlap"},
		"LongName":     {10 * mib, []Partition{{Name: strings.Repeat("x", 37), Offset: mib, Size: mib}}, "36 characters"},
	} {
		err := Write(nil, c.size, GUID{}, c.p)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), name)
		require.ErrorContains(t, err, c.says, name)
	}
	for _, size := range []int64{0, -1, 1 << 51} {
		_, err := Lay([]Partition{{Name: "x", Size: size}})
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	}
}
