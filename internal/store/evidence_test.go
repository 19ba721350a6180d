package store

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEvidence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	evidence := func() []string {
		p, err := w.Package(t.Context(), string(w.pkg.ID))
		require.NoError(t, err)
		return p.Evidence
	}
	require.Empty(t, evidence())
	require.NoError(t, w.AddEvidence(t.Context(), w.pkg.ID, []string{"b", "a", "b"}))
	require.NoError(t, w.AddEvidence(t.Context(), w.pkg.ID, []string{"a"}))
	require.NoError(t, w.AddEvidence(t.Context(), w.pkg.ID, []string{"a", "c"}))
	require.NoError(t, w.AddEvidence(t.Context(), w.pkg.ID, nil))
	require.Equal(t, []string{"b", "a", "c"}, evidence())
	var many []string
	for n := range 100 {
		many = append(many, fmt.Sprint(n))
	}
	require.NoError(t, w.AddEvidence(t.Context(), w.pkg.ID, many))
	require.Len(t, evidence(), maxEvidence)
	require.Equal(t, "b", evidence()[0])
	require.NoError(t, w.AddEvidence(t.Context(), "gone", many))
}
