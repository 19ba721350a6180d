package sealed_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/sealed"
)

const keyName = "secret.key"

func open(t *testing.T, dir string) *sealed.Box {
	t.Helper()
	b, err := sealed.Open(dir)
	require.NoError(t, err)
	return b
}

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir)
	for _, plain := range []string{"", "s3cret", strings.Repeat("long ", 10_000), "\x00\xff"} {
		one, err := b.Seal(plain, "installation/1/TOKEN")
		require.NoError(t, err)
		two, err := b.Seal(plain, "installation/1/TOKEN")
		require.NoError(t, err)
		require.NotEqual(t, one, two)
		if len(plain) > 4 {
			require.NotContains(t, one, plain)
		}
		got, err := open(t, dir).Open(one, "installation/1/TOKEN")
		require.NoError(t, err, "another process with the same directory opens it")
		require.Equal(t, plain, got)
		require.False(t, b.NeedsReseal(one))
	}
}

func TestWrongContextOrAltered(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir())
	value, err := b.Seal("s3cret", "installation/1/TOKEN")
	require.NoError(t, err)
	refused := func(value, context string) {
		t.Helper()
		plain, err := b.Open(value, context)
		require.Error(t, err, value)
		require.Empty(t, plain)
		require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
		require.NotContains(t, err.Error(), "s3cret")
	}
	refused(value, "installation/2/TOKEN")
	refused(value, "")
	for i := range value {
		// The last character's low bits carry nothing; all others matter.
		altered := []byte(value)
		altered[i] ^= 0x10
		refused(string(altered), "installation/1/TOKEN")
	}
	for _, value := range []string{"", "s", "v1", "v1..", "v2" + value[2:], value + ".x", value[:30]} {
		refused(value, "installation/1/TOKEN")
	}
}

func TestMissingKeyIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir)
	value, err := b.Seal("s3cret", "c")
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(dir, keyName)))
	_, err = open(t, dir).Open(value, "c")
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	require.ErrorContains(t, err, b.KeyID())
	require.ErrorContains(t, err, dir)
}

func TestRotate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir)
	var values, ids []string
	for range 3 {
		value, err := b.Seal("s3cret", "c")
		require.NoError(t, err)
		values, ids = append(values, value), append(ids, b.KeyID())
		require.NoError(t, b.Rotate())
		require.NotContains(t, ids, b.KeyID())
	}
	for _, box := range []*sealed.Box{b, open(t, dir)} {
		require.Equal(t, b.KeyID(), box.KeyID())
		for _, value := range values {
			plain, err := box.Open(value, "c")
			require.NoError(t, err)
			require.Equal(t, "s3cret", plain)
			require.True(t, box.NeedsReseal(value))
		}
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "secret-"+ids[1]+".key")))
	_, err := open(t, dir).Open(values[1], "c")
	require.ErrorContains(t, err, ids[1])
	_, err = open(t, dir).Open(values[2], "c")
	require.NoError(t, err)
}

func TestKeyFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir)
	require.NoError(t, b.Rotate())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 2, "no temporary file stays")
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode())
		require.Equal(t, int64(32), info.Size())
	}
	path := filepath.Join(dir, keyName)
	key, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		printed := fmt.Sprintf(format, b)
		require.Equal(t, "sealed.Box("+b.KeyID()+")", printed)
	}

	require.NoError(t, os.Chmod(path, 0o640))
	_, err = sealed.Open(dir)
	require.ErrorContains(t, err, "chmod 600")
	require.NoError(t, os.Chmod(path, 0o600))
	require.NoError(t, os.WriteFile(path, key[:31], 0o600))
	_, err = sealed.Open(dir)
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	require.ErrorContains(t, err, "31 bytes")
	// A former key under a wrong name would hide a mistake until it is needed.
	require.NoError(t, os.WriteFile(path, key, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret-0123456789abcdef.key"), bytes.Repeat([]byte{1}, 32), 0o600))
	_, err = sealed.Open(dir)
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))

	_, err = sealed.Open(filepath.Join(dir, "missing"))
	require.Error(t, err)
}

// TestFirstOpenersAgree: of many that find no key, all get the same one.
func TestFirstOpenersAgree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ids := make([]string, 16)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			if b, err := sealed.Open(dir); err == nil {
				ids[i] = b.KeyID()
			}
		})
	}
	wg.Wait()
	for _, id := range ids {
		require.Equal(t, open(t, dir).KeyID(), id)
	}
}

func TestDeriveIsStableAndDiffersByPurpose(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	box, err := sealed.Open(dir)
	require.NoError(t, err)
	again, err := sealed.Open(dir)
	require.NoError(t, err)
	a, err := box.Derive("a")
	require.NoError(t, err)
	same, err := again.Derive("a")
	require.NoError(t, err)
	other, err := box.Derive("b")
	require.NoError(t, err)
	require.Len(t, a, 32)
	require.Equal(t, a, same)
	require.NotEqual(t, a, other)
}
