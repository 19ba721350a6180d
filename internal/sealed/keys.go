package sealed

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"dormouse/internal/fleet"
)

// FileName is what the file of the current key is called where nobody names another.
const FileName = "secret.key"

const (
	formerPrefix = "secret-"
	suffix       = ".key"
	idBytes      = 8
)

func formerName(id string) string { return formerPrefix + id + suffix }

// Open reads the key in a file and the former ones beside it. It is of
// KindNotFound where there is no such file, and of KindPermanent where a key file can't
// be used as it is.
func Open(path string) (*Box, error) {
	b := &Box{path: path, dir: filepath.Dir(path), keys: map[string]secretKey{}}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fleet.Errorf(fleet.KindNotFound, "reading the key for secrets: there is no file %s", path)
	}
	if err := b.load(); err != nil {
		return nil, err
	}
	return b, nil
}

// Create makes a key in a file where there is none; of two processes that do so
// at once, both find the same one there. The directory must exist. Whoever calls it
// has made sure that no secret needs a key that was there before.
func Create(path string) error {
	if err := create(path); err != nil {
		return fmt.Errorf("making the key for secrets: %w", err)
	}
	return nil
}

// Rotate makes a new key that seals from now on; the former one stays for what
// it has sealed. One process may do so at a time; others see it when they are restarted. A
// crash at any moment leaves the old key current or the new one, and no value without its key.
func (b *Box) Rotate() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := os.Link(b.path, filepath.Join(b.dir, formerName(b.current)))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keeping the former key for secrets: %w", err)
	}
	tmp, err := writeKey(b.dir)
	if err != nil {
		return fmt.Errorf("making a new key for secrets: %w", err)
	}
	// The former key's new name is safe before its old name goes.
	if err := syncDir(b.dir); err != nil {
		return errors.Join(fmt.Errorf("keeping the former key for secrets: %w", err), os.Remove(tmp))
	}
	if err := os.Rename(tmp, b.path); err != nil {
		return errors.Join(fmt.Errorf("putting the new key for secrets in place: %w", err), os.Remove(tmp))
	}
	if err := syncDir(b.dir); err != nil {
		return fmt.Errorf("putting the new key for secrets in place: %w", err)
	}
	return b.read()
}

// create makes the current key if there is none.
func create(path string) error {
	dir := filepath.Dir(path)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := writeKey(dir)
	if err != nil {
		return err
	}
	// A link, unlike a rename, never replaces what another process has made.
	err = os.Link(tmp, path)
	if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	return errors.Join(err, os.Remove(tmp), syncDir(dir))
}

// writeKey writes a new key to a file of its own, synced.
func writeKey(dir string) (path string, err error) {
	key := make([]byte, chacha20poly1305.KeySize)
	if _, err := rand.Read(key); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, formerPrefix+"*.tmp") // mode 0600
	if err != nil {
		return "", err
	}
	_, err = f.Write(key)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (b *Box) load() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.read()
}

// read takes all keys in the directory; the lock is held.
func (b *Box) read() error {
	keys := map[string]secretKey{}
	current, err := readKey(b.path, keys)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return fmt.Errorf("looking for former keys for secrets: %w", err)
	}
	for _, e := range entries {
		id, isKey := strings.CutPrefix(e.Name(), formerPrefix)
		id, hasSuffix := strings.CutSuffix(id, suffix)
		if !isKey || !hasSuffix || !validID(id) {
			continue
		}
		path := filepath.Join(b.dir, e.Name())
		got, err := readKey(path, keys)
		if err != nil {
			return err
		}
		if got != id {
			return fleet.Errorf(fleet.KindPermanent, "reading a key for secrets: %s holds key %s: restore the file from a backup, or remove it", path, got)
		}
	}
	b.current, b.keys = current, keys
	return nil
}

func readKey(path string, keys map[string]secretKey) (id string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("reading a key for secrets: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fleet.Errorf(fleet.KindPermanent, "reading a key for secrets: others may read or write %s: chmod 600 it", path)
	}
	key, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading a key for secrets: %w", err)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return "", fleet.Errorf(fleet.KindPermanent, "reading a key for secrets: %s has %d bytes, not %d: restore it from a backup", path, len(key), chacha20poly1305.KeySize)
	}
	id = keyID(key)
	keys[id] = secretKey{aead, key}
	return id, nil
}

// keyID names a key without telling anything of it.
func keyID(key []byte) string {
	sum := sha256.Sum256(append([]byte("dormouse sealing key\x00"), key...))
	return hex.EncodeToString(sum[:idBytes])
}

func validID(id string) bool {
	b, err := hex.DecodeString(id)
	return err == nil && len(b) == idBytes && strings.ToLower(id) == id
}
