package hostnet

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

// A spare tap is nobody's port, on no bridge, and gone with its descriptor.
func TestSpare(t *testing.T) {
	t.Parallel()
	b := newBridge(t, Options{})
	before, err := b.routes.LinkList()
	require.NoError(t, err)
	var open []Attachment
	for range 3 {
		a, err := b.Spare(t.Context())
		require.NoError(t, err)
		require.NotNil(t, a.TapFD)
		require.Equal(t, "tap,id=net0,fd=9,vhost=off", a.NetdevArgs(9), "as every port's")
		open = append(open, a)
	}
	links, err := b.routes.LinkList()
	require.NoError(t, err)
	require.Len(t, links, len(before)+3)
	for _, link := range links {
		if tap, ok := link.(*netlink.Tuntap); ok {
			require.Zero(t, tap.Attrs().MasterIndex)
			require.True(t, tap.NonPersist)
			require.False(t, isTap(link), "no port of an instance")
		}
	}
	ids, err := b.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, ids)
	for _, a := range open {
		require.NoError(t, a.TapFD.Close())
	}
	links, err = b.routes.LinkList()
	require.NoError(t, err)
	require.Len(t, links, len(before))
}

func TestSpareUser(t *testing.T) {
	t.Parallel()
	u, err := NewUser(Options{StateDir: t.TempDir()})
	require.NoError(t, err)
	a, err := u.Spare(t.Context())
	require.NoError(t, err)
	require.Nil(t, a.TapFD)
	require.Equal(t, "user,id=net0,ipv6=off,restrict=on", a.NetdevArgs(0))
}
