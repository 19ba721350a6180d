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

const keyName = sealed.FileName

func open(t *testing.T, dir string) *sealed.Box {
	t.Helper()
	path := filepath.Join(dir, keyName)
	require.NoError(t, sealed.Create(path))
	b, err := sealed.Open(path)
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
	_, err = sealed.Open(path)
	require.ErrorContains(t, err, "chmod 600")
	require.NoError(t, os.Chmod(path, 0o600))
	require.NoError(t, os.WriteFile(path, key[:31], 0o600))
	_, err = sealed.Open(path)
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))
	require.ErrorContains(t, err, "31 bytes")
	// A former key under a wrong name would hide a mistake until it is needed.
	require.NoError(t, os.WriteFile(path, key, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "secret-0123456789abcdef.key"), bytes.Repeat([]byte{1}, 32), 0o600))
	_, err = sealed.Open(path)
	require.Equal(t, fleet.KindPermanent, fleet.KindOf(err))

	missing := filepath.Join(dir, "missing", keyName)
	_, err = sealed.Open(missing)
	require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	require.ErrorContains(t, err, missing)
	require.Error(t, sealed.Create(missing))
}

// TestFirstOpenersAgree: of many that find no key, all get the same one.
func TestFirstOpenersAgree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ids := make([]string, 16)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			path := filepath.Join(dir, keyName)
			if sealed.Create(path) != nil {
				return
			}
			if b, err := sealed.Open(path); err == nil {
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
	box, again := open(t, dir), open(t, dir)
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

// TestCheckValue: the same key has the same one in every process, and the value
// must not change between versions, or an upgraded provisioner would refuse to start.
func TestCheckValue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "another-name")
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte{7}, 32), 0o600))
	b, err := sealed.Open(path)
	require.NoError(t, err)
	require.Equal(t, fleet.SecretKey{ID: "5cc2cb375fab3191",
		CheckValue: "ad49f4bc8a09bbea0842df9128132c70fdfcff08b550d587c5824281de10ffd4"}, b.Key())
	former := b.Key()
	require.NoError(t, b.Rotate())
	require.False(t, b.Key().Same(former))
	require.True(t, b.Has(former.ID), "a former key is still there")
	require.True(t, b.Has(b.KeyID()))
	require.False(t, b.Has("0123456789abcdef"))
	again, err := sealed.Open(path)
	require.NoError(t, err)
	require.Equal(t, b.Key(), again.Key())
}
