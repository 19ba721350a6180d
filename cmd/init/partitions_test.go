package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/guest"
)

func TestListPartitions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	class := filepath.Join(dir, "class")
	require.NoError(t, os.Mkdir(class, 0o755))
	for where, uevent := range map[string]string{
		"pci/nvme0n1":           "DEVNAME=nvme0n1\nDEVTYPE=disk\n",
		"pci/nvme0n1/nvme0n1p2": "DEVNAME=nvme0n1p2\nDEVTYPE=partition\nPARTN=2\nPARTNAME=dormouse-root\n",
		"pci/sda/sda1":          "DEVTYPE=partition\nPARTNAME=with = and blank\n",
	} {
		at := filepath.Join(dir, "devices", where)
		require.NoError(t, os.MkdirAll(at, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(at, "uevent"), []byte(uevent), 0o644))
		require.NoError(t, os.Symlink(at, filepath.Join(class, filepath.Base(at))))
	}
	require.Equal(t, []partition{{"nvme0n1p2", "nvme0n1", guest.PartitionRoot}, {"sda1", "sda", "with = and blank"}}, listPartitions(class))
	require.Empty(t, listPartitions(dir+"/none"))
}

// What is on another disk than the root's can have any name: it is a tenant's.
func TestChoosePartition(t *testing.T) {
	t.Parallel()
	own := []partition{{"sda1", "sda", "dormouse-esp"}, {"sda2", "sda", guest.PartitionRoot}, {"sda3", "sda", guest.PartitionConfig}}
	with := func(more ...partition) []partition { return append(more, own...) }
	for name, c := range map[string]struct {
		all        []partition
		look, want string
		says       string
	}{
		"Root":             {all: own, look: guest.PartitionRoot, want: "sda2"},
		"Config":           {all: own, look: guest.PartitionConfig, want: "sda3"},
		"NotYet":           {all: nil, look: guest.PartitionRoot},
		"NoVolume":         {all: own, look: guest.PartitionVolume},
		"RootNotYet":       {all: []partition{{"sdb1", "sdb", guest.PartitionConfig}}, look: guest.PartitionConfig},
		"ForeignConfig":    {all: with(partition{"aaa1", "aaa", guest.PartitionConfig}), look: guest.PartitionConfig, want: "sda3"},
		"OnlyForeign":      {all: []partition{{"sda2", "sda", guest.PartitionRoot}, {"sdb1", "sdb", guest.PartitionConfig}}, look: guest.PartitionConfig},
		"TwoRoots":         {all: with(partition{"sdb2", "sdb", guest.PartitionRoot}), look: guest.PartitionConfig, says: "sdb2 and sda2 are both named"},
		"VolumeElsewhere":  {all: with(partition{"sdb1", "sdb", guest.PartitionVolume}), look: guest.PartitionVolume, want: "sdb1"},
		"OwnVolumeIsFirst": {all: with(partition{"sdb1", "sdb", guest.PartitionVolume}, partition{"sda4", "sda", guest.PartitionVolume}), look: guest.PartitionVolume, want: "sda4"},
		"TwoVolumes":       {all: with(partition{"sdb1", "sdb", guest.PartitionVolume}, partition{"sdc1", "sdc", guest.PartitionVolume}), look: guest.PartitionVolume, says: "attach one volume"},
	} {
		got, err := choosePartition(c.all, c.look)
		require.Equal(t, c.want, got, name)
		if c.says == "" {
			require.NoError(t, err, name)
		} else {
			require.ErrorContains(t, err, c.says, name)
		}
	}
}

func TestPowerPressed(t *testing.T) {
	t.Parallel()
	press := append(make([]byte, 16), 1, 0, 116, 0, 1, 0, 0, 0)
	require.Len(t, press, inputEventLen)
	require.True(t, powerPressed(press))
	for at, b := range map[int]byte{16: 0, 18: 115, 20: 0} { // another kind, another key, let go
		other := append([]byte{}, press...)
		other[at] = b
		require.False(t, powerPressed(other))
	}
}
