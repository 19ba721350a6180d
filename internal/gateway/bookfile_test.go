package gateway

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Whatever a crash or a disk makes of the file, it is either what was written
// or nothing.
func TestABookThatIsDamaged(t *testing.T) {
	t.Parallel()
	routes := []written{{sleeper("acme"), true}, {stable("far", "a:1"), false}}
	whole, err := encodeBook(routes)
	require.NoError(t, err)
	got, err := decodeBook(whole)
	require.NoError(t, err)
	require.Equal(t, routes, got)
	dir := t.TempDir()
	file := filepath.Join(dir, bookFile)
	read := func(data []byte) *Gateway {
		require.NoError(t, os.WriteFile(file, data, 0o600))
		return New(Options{Routes: newRoutes(), Dir: dir})
	}
	require.NotNil(t, read(whole).book.known("i-acme"))
	for n := range whole {
		require.Empty(t, read(whole[:n]).book.byID, n)
		bad := append([]byte(nil), whole...)
		bad[n] ^= 0x20
		require.Empty(t, read(bad).book.byID, n)
	}
	require.NoError(t, os.Remove(file))
	require.NoError(t, os.Mkdir(file, 0o700))
	require.Empty(t, New(Options{Routes: newRoutes(), Dir: dir}).book.byID)
}

func TestTheBookIsWrittenWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, bookFile)
		// What a crash has left.
		require.NoError(t, os.WriteFile(file+".next", []byte("half"), 0o600))
		w := newWorld(t, Options{Dir: dir})
		synctest.Wait()
		first, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Contains(t, string(first), "i-acme")
		_, err = os.Stat(file + ".next")
		require.ErrorIs(t, err, fs.ErrNotExist)
		// A hundred changes within a second are written at once.
		for i := range 100 {
			w.routes.set(stable("far", fmt.Sprint("a:", i)))
			w.Changed("i-far")
			_, err := w.find(t, "far.localhost")
			require.NoError(t, err)
		}
		synctest.Wait()
		now, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, first, now)
		time.Sleep(time.Second)
		synctest.Wait()
		now, err = os.ReadFile(file)
		require.NoError(t, err)
		require.Contains(t, string(now), "a:99")
		// A disk that is full: it is tried again.
		require.NoError(t, os.Mkdir(file+".next", 0o700))
		w.routes.set(stable("far", "a:100"))
		w.Changed("i-far")
		_, err = w.find(t, "far.localhost")
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		require.NoError(t, os.Remove(file+".next"))
		time.Sleep(time.Second)
		synctest.Wait()
		now, err = os.ReadFile(file)
		require.NoError(t, err)
		require.Contains(t, string(now), "a:100")
	})
}
