package linux

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
)

func TestAdmitKnowsTheUser(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		user  string
		files map[string]string
		want  string // of the error
	}{
		{"", nil, ""},
		{"1000:1000", nil, ""},
		{"postgres", map[string]string{"sysroot/etc/passwd": "postgres:x:101:101::/:/bin/sh\n"}, ""},
		{"postgres", map[string]string{"sysroot/etc/passwd": "->accounts/passwd", "sysroot/etc/accounts/passwd": "postgres:x:101:101::/:/bin/sh\n"}, ""},
		{"postgres", nil, `/etc/passwd has no user "postgres": add one to the package`},
		{"1000:mail", map[string]string{"sysroot/etc/group": "news:x:9:\n"}, `/etc/group has no group "mail"`},
		{"postgres", map[string]string{"sysroot/etc/passwd/": ""}, "not a regular file"},
	} {
		p := pack(t, `{"Name": "x", "Version": "1", "Program": "/bin/app"}`, tc.files)
		p.Manifest.User = tc.user
		_, err := New(Options{}).Admit(context.Background(), imagebuilder.AdmitInput{Package: p})
		if tc.want == "" {
			require.NoError(t, err, "%+v", tc)
			continue
		}
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%v", err)
		require.ErrorContains(t, err, tc.want)
	}
}
