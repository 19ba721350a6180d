package main

import (
	"bytes"
	"context"
	"database/sql"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	_ "github.com/lib/pq"
	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
	"dormouse/internal/imagebuilder"
	"dormouse/internal/pgtest"
	"dormouse/internal/sealed"
	"dormouse/internal/store"
)

func migrateUp(ctx context.Context, url string) error {
	_, _, err := store.Migrate(ctx, url)
	return err
}

// keyed is a database and what provisioners do with its key.
type keyed struct {
	*testing.T
	url string
	st  *store.Store
	log *logrus.Logger
	// said are the log's lines.
	said *test.Hook
}

func newKeyed(t *testing.T) *keyed {
	k := &keyed{T: t, url: pgtest.NewMigrated(t, migrateUp)}
	k.log, k.said = test.NewNullLogger()
	var err error
	k.st, err = store.Open(t.Context(), store.Options{URL: k.url})
	require.NoError(t, err)
	t.Cleanup(func() { _ = k.st.Close() })
	return k
}

func (k *keyed) open(path string) (*sealed.Box, error) {
	return openKey(k.Context(), k.st, path, k.log)
}

func (k *keyed) mustOpen(path string) *sealed.Box {
	k.Helper()
	b, err := k.open(path)
	require.NoError(k, err)
	return b
}

// refused asserts that a provisioner with that file does not start, with an error
// that says all those words and what to do.
func (k *keyed) refused(path string, words ...string) {
	k.Helper()
	_, err := k.open(path)
	require.Equal(k, fleet.KindInvalid, fleet.KindOf(err), "%v", err)
	for _, w := range append(words, path, "--secret-key-file", "secret.key", "adopt-key") {
		require.ErrorContains(k, err, w)
	}
}

// secret puts an installation with a sealed secret into the database.
func (k *keyed) secret(b *sealed.Box) {
	k.Helper()
	value, err := b.Seal("s3cret", "c")
	require.NoError(k, err)
	db, err := sql.Open("postgres", k.url)
	require.NoError(k, err)
	defer db.Close()
	id := fleet.NewID()
	_, err = db.Exec(`INSERT INTO installation (id, owner, name, cluster_id, state, package_id, memory_mib, disk_mib, vcpus, secrets)
		VALUES ($1, 'acme', $1, 'c', 'stable', 'p', 1, 1, 1, jsonb_build_object('TOKEN', $2::text, 'DAMAGED', 'v1..'))`, id, value)
	require.NoError(k, err)
}

func (k *keyed) file() string { return filepath.Join(k.TempDir(), sealed.FileName) }

// newBox makes a key that the database does not know of yet.
func (k *keyed) newBox() (path string, b *sealed.Box) {
	k.Helper()
	path = k.file()
	require.NoError(k, sealed.Create(path))
	b, err := sealed.Open(path)
	require.NoError(k, err)
	return path, b
}

// A second provisioner with a data directory of its own made itself a key, served,
// and failed to open secrets in the middle of workflows.
func TestServerWithAnotherKeyIsRefused(t *testing.T) {
	t.Parallel()
	k := newKeyed(t)
	first := k.file()
	box := k.mustOpen(first)
	require.Equal(t, box.Key(), k.mustOpen(first).Key(), "the same one starts again")

	dir := t.TempDir()
	server := []string{"server", "--database", k.url, "--data-dir", dir, "--roles", "api", "--listen", "127.0.0.1:0", "--log-level", "error"}
	own := filepath.Join(dir, sealed.FileName)
	_, err := run(t.Context(), server...)
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "it ends as with a wrong flag")
	require.ErrorContains(t, err, box.KeyID())
	require.ErrorContains(t, err, own)
	require.NoFileExists(t, own, "no key is made that nobody can use")

	_, other := k.newBox()
	k.refused(k.file(), box.KeyID())
	require.NoError(t, sealed.Create(own))
	k.refused(own, box.KeyID())
	require.NotEqual(t, other.KeyID(), box.KeyID())

	// What the message says helps: the file copied, or named.
	key, err := os.ReadFile(first)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(own, key, 0o600))
	require.Equal(t, box.KeyID(), k.mustOpen(own).KeyID())
	require.NoError(t, os.Remove(own))
	taken, err := net.Listen("tcp", "127.0.0.1:0") // where it comes as far as listening, it ends
	require.NoError(t, err)
	defer taken.Close()
	_, err = run(t.Context(), append(server, "--secret-key-file", first, "--listen", taken.Addr().String())...)
	require.ErrorContains(t, err, "listening for the api")
}

func TestFirstKeysAtOnce(t *testing.T) {
	t.Parallel()
	k := newKeyed(t)
	files := []string{}
	for range 8 {
		files = append(files, k.file())
	}
	boxes, errs := make([]*sealed.Box, len(files)), make([]error, len(files))
	var wg sync.WaitGroup
	for i, file := range files {
		wg.Go(func() { boxes[i], errs[i] = k.open(file) })
	}
	wg.Wait()
	recorded, err := k.st.SecretKey(t.Context())
	require.NoError(t, err)
	began := 0
	for i, err := range errs {
		if err == nil {
			began++
			require.True(t, recorded.Same(boxes[i].Key()))
			continue
		}
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	}
	require.Equal(t, 1, began, "one key is the database's, and all others are refused")
}

func TestSharedFileAtOnce(t *testing.T) {
	t.Parallel()
	k := newKeyed(t)
	file := k.file()
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { _, errs[i] = k.open(file) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

// A lost file was replaced by a new key silently, and all that was sealed before was lost.
func TestLostKeyIsNotReplaced(t *testing.T) {
	t.Parallel()
	for name, recorded := range map[string]struct{ recorded bool }{"Recorded": {true}, "OlderDatabase": {false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKeyed(t)
			file, box := k.newBox()
			if recorded.recorded {
				k.mustOpen(file)
			}
			k.secret(box)
			require.NoError(t, os.Rename(file, file+".lost"))
			k.refused(file, box.KeyID())
			require.NoFileExists(t, file)
			require.NoError(t, os.Rename(file+".lost", file))
			require.Equal(t, box.KeyID(), k.mustOpen(file).KeyID())
		})
	}
}

func TestOlderDatabase(t *testing.T) {
	t.Parallel()
	k := newKeyed(t)
	file, box := k.newBox()
	k.secret(box)
	other := k.file()
	require.NoError(t, sealed.Create(other))
	k.refused(other, box.KeyID()) // though nothing is recorded yet

	// Two keys were in use, which nothing kept apart: it serves, and says so.
	_, mixed := k.newBox()
	k.secret(mixed)
	k.mustOpen(file)
	require.Contains(t, k.said.LastEntry().Message, "fail to open")
	require.Equal(t, []string{mixed.KeyID()}, k.said.LastEntry().Data["keys"])
	recorded, err := k.st.SecretKey(t.Context())
	require.NoError(t, err)
	require.True(t, recorded.Same(box.Key()))
	require.False(t, recorded.RecordedAt.IsZero())
}

func TestSchemaWithoutKeys(t *testing.T) {
	t.Parallel()
	st, err := store.Open(t.Context(), store.Options{URL: pgtest.New(t)})
	require.NoError(t, err)
	defer st.Close()
	log, _ := test.NewNullLogger()
	_, err = openKey(t.Context(), st, filepath.Join(t.TempDir(), sealed.FileName), log)
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err))
	require.ErrorContains(t, err, "provisioner migrate")
}

func TestAdoptKey(t *testing.T) {
	t.Parallel()
	k := newKeyed(t)
	former, file := k.file(), k.file()
	box := k.mustOpen(former)
	k.secret(box)
	k.refused(file)
	adopt := []string{"adopt-key", "--database", k.url, "--secret-key-file", file}
	_, err := run(t.Context(), adopt...)
	require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "a wrong path makes no key")
	require.NoFileExists(t, file)
	out, err := run(t.Context(), append(adopt, "--create")...)
	require.NoError(t, err)
	now := k.mustOpen(file)
	require.NotEqual(t, box.KeyID(), now.KeyID())
	for _, id := range []string{box.KeyID(), now.KeyID()} {
		require.Contains(t, out, id)
	}
	require.Contains(t, out, "fail to open")
	k.refused(former, now.KeyID())

	// With the former key beside it, everything opens.
	key, err := os.ReadFile(former)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(file), "secret-"+box.KeyID()+".key"), key, 0o600))
	var again bytes.Buffer
	require.NoError(t, adoptKey(t.Context(), k.st, file, true, &again))
	require.Contains(t, again.String(), "nothing has changed")
	require.True(t, k.mustOpen(file).Has(box.KeyID()))
}

// What is signed is what is checked: neither of the two may import the other.
func TestSignedTextsAgree(t *testing.T) {
	t.Parallel()
	require.Equal(t, client.SignedText("a", "b"), string(imagebuilder.SignedText("a", "b")))
}
