package sealed

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"

	"dormouse/internal/fleet"
)

const version = "v1"

// Box seals and opens values. Its methods may be called concurrently.
type Box struct {
	// path is the file of the current key; former ones lie in dir, beside it.
	path, dir string

	mu      sync.RWMutex
	current string // the ID of the key that seals
	keys    map[string]secretKey
}

// secretKey is a key ready to use, and its bytes for Derive.
type secretKey struct {
	cipher.AEAD
	raw []byte
}

// Seal encrypts plain, bound to context: only Open with the same context gives
// it back. Sealing twice gives two different values.
func (b *Box) Seal(plain, context string) (string, error) {
	b.mu.RLock()
	id, key := b.current, b.keys[b.current]
	b.mu.RUnlock()
	out := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(plain)+chacha20poly1305.Overhead)
	if _, err := rand.Read(out); err != nil {
		return "", fleet.Errorf(fleet.KindInternal, "sealing a secret: drawing a nonce: %w", err)
	}
	out = key.Seal(out, out, []byte(plain), additional(id, context))
	return version + "." + id + "." + base64.RawURLEncoding.EncodeToString(out), nil
}

// Open decrypts what Seal returned for that context. Its errors are of
// KindPermanent, and say whether the key is missing, the value is no sealed one, or it was
// altered or sealed for another context.
func (b *Box) Open(sealed, context string) (string, error) {
	parts := strings.Split(sealed, ".")
	if len(parts) != 3 || parts[0] != version {
		return "", fleet.Errorf(fleet.KindPermanent, "opening a secret: the value is not sealed in a form that this version knows (%s.…): set the secret again", version)
	}
	id := parts[1]
	data, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(data) < chacha20poly1305.NonceSizeX+chacha20poly1305.Overhead {
		return "", fleet.Errorf(fleet.KindPermanent, "opening a secret: the sealed value is damaged: set the secret again")
	}
	b.mu.RLock()
	key, ok := b.keys[id]
	current := b.current
	b.mu.RUnlock()
	if !ok {
		return "", fleet.Errorf(fleet.KindPermanent,
			"opening a secret: it was sealed with key %s, which is not in %s (the current one is %s): restore %s or %s from a backup and restart, or set the secret again",
			printable(id), b.dir, current, filepath.Base(b.path), formerName(printable(id)))
	}
	nonce, ciphertext := data[:chacha20poly1305.NonceSizeX], data[chacha20poly1305.NonceSizeX:]
	plain, err := key.Open(nil, nonce, ciphertext, additional(id, context))
	if err != nil {
		return "", fleet.Errorf(fleet.KindPermanent, "opening a secret: the sealed value was altered, or sealed for something else than %q: set the secret again", context)
	}
	return string(plain), nil
}

// KeyID names the key that seals now.
func (b *Box) KeyID() string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.current
}

// checkText is what a key's check value is an HMAC of.
const checkText = "dormouse key check value v1"

// Key says which key seals now. The check value is an HMAC-SHA256 of a fixed text
// under the key, in hex: who has the key can tell that another has the same one, and
// nobody learns anything of it.
func (b *Box) Key() fleet.SecretKey {
	b.mu.RLock()
	defer b.mu.RUnlock()
	mac := hmac.New(sha256.New, b.keys[b.current].raw)
	mac.Write([]byte(checkText)) // it never fails
	return fleet.SecretKey{ID: b.current, CheckValue: hex.EncodeToString(mac.Sum(nil))}
}

// Has tells whether the key of that ID is here, as the current one or a former one.
func (b *Box) Has(id string) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	_, ok := b.keys[id]
	return ok
}

// NeedsReseal tells whether a sealed value was made with a former key.
func (b *Box) NeedsReseal(sealed string) bool {
	return !strings.HasPrefix(sealed, version+"."+b.KeyID()+".")
}

// String keeps the keys out of logs.
func (b *Box) String() string { return "sealed.Box(" + b.KeyID() + ")" }

// GoString keeps the keys out of logs.
func (b *Box) GoString() string { return b.String() }

// additional is what is authenticated beside the value. The first two parts
// have a fixed length, so that no two contexts give the same.
func additional(id, context string) []byte { return []byte(version + "." + id + "." + context) }

// printable keeps a damaged value's rubbish out of a message.
func printable(id string) string {
	if validID(id) {
		return id
	}
	return "?"
}

// Derive returns 32 bytes that belong to the current key and to a purpose, for
// uses that only need a secret which is the same in every process with the
// same key files. They change when the key is rotated.
func (b *Box) Derive(purpose string) ([]byte, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return hkdf.Key(sha256.New, b.keys[b.current].raw, nil, "dormouse "+purpose, 32)
}
