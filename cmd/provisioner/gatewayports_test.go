package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPortRange(t *testing.T) {
	t.Parallel()
	r := portRange{30000, 31999}
	require.Equal(t, "30000-31999", r.String())
	require.NoError(t, r.Set("none"))
	require.Equal(t, portRange{}, r)
	require.Equal(t, "none", r.String())
	require.NoError(t, r.Set("1024-65535"))
	require.Equal(t, portRange{1024, 65535}, r)
	for _, bad := range []string{"", "80-90", "30000", "30000-", "31999-30000", "30000-70000", "a-b", "-1-5", "30000-31999-5"} {
		require.Error(t, r.Set(bad), bad)
		require.Equal(t, portRange{1024, 65535}, r)
	}
}
