package fleet

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestIDsAreValidAndDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 10000 {
		id := NewID()
		require.True(t, ValidID(id), id)
		require.False(t, seen[id], id)
		seen[id] = true
	}
}

// Pages go by ID, and a reader expects the oldest first.
func TestIDsSortByAge(t *testing.T) {
	t.Parallel()
	begin := time.Date(1999, 12, 31, 23, 59, 59, 0, time.UTC)
	var ids []string
	at := begin
	for range 5000 {
		ids = append(ids, idAt(at))
		at = at.Add(time.Millisecond + time.Duration(rand.Int64N(int64(100*24*time.Hour))))
	}
	require.True(t, slices.IsSorted(ids))
	before := idAt(time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC))
	require.Less(t, before, NewID())
}

func TestValidID(t *testing.T) {
	t.Parallel()
	id := NewID()
	for name, bad := range map[string]string{
		"Empty": "", "Short": id[1:], "Long": id + "0", "UpperCase": strings.ToUpper("abcdefghij" + id[10:]),
		"BeyondTheAlphabet": "w" + id[1:], "Space": " " + id[1:], "DNSLabel": "my-workspace", "Multibyte": "é" + id[2:], "Control": "\x00" + id[1:],
	} {
		require.False(t, ValidID(bad), name)
	}
}

func TestDeriveID(t *testing.T) {
	t.Parallel()
	require.True(t, ValidID(DeriveID()))
	require.True(t, ValidID(DeriveID("operation", "instance")))
	require.Equal(t, DeriveID("a", "b"), DeriveID("a", "b"), "a step run twice names the same thing twice")
	require.NotEqual(t, DeriveID("a", "b"), DeriveID("b", "a"))
	require.NotEqual(t, DeriveID("ab", "c"), DeriveID("a", "bc"), "parts do not run into one another")
	// What is stored under derived IDs must be found by the next release too.
	require.Equal(t, "puclummnvrd0h6sdua52ehk2b0", DeriveID("operation", "instance"))
}
