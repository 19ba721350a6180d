package ramfile

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

const (
	// KeyBytes is the length of Options.Key.
	KeyBytes = 32
	tagBytes = 16
)

// What is sealed: the first word of the nonce keeps them apart.
const (
	sealsChunk = 1
	sealsTable = 2
)

// publicKey stands in where the caller has no key. It keeps nothing secret.
func publicKey() []byte { return make([]byte, KeyBytes) }

// seal seals what belongs to one file. It may be used by many at once.
type seal struct{ aead cipher.AEAD }

// newSeal derives the file's key. The salt is the file's own, so that no nonce,
// which is a position only, is ever used twice under a key.
func newSeal(key []byte, h header) (*seal, error) {
	if key == nil {
		key = publicKey()
	}
	if len(key) != KeyBytes {
		return nil, fmt.Errorf("a key has %d bytes, not %d", KeyBytes, len(key))
	}
	own, err := hkdf.Key(sha256.New, key, h.salt[:], string(h.encode()), KeyBytes)
	if err != nil {
		return nil, fmt.Errorf("deriving the file's key: %w", err)
	}
	block, err := aes.NewCipher(own)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &seal{aead}, nil
}

func nonce(what uint32, index int64) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 12), what)
	return binary.BigEndian.AppendUint64(b, uint64(index))
}

// sealChunk encrypts a chunk in place.
func (s *seal) sealChunk(index int64, b []byte) []byte {
	return s.aead.Seal(b[:0], nonce(sealsChunk, index), b, nil)
}

// openChunk decrypts a chunk in place.
func (s *seal) openChunk(index int64, b []byte) ([]byte, error) {
	plain, err := s.aead.Open(b[:0], nonce(sealsChunk, index), b, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: chunk %d", ErrDamaged, index)
	}
	return plain, nil
}

// sealTable returns the table with its tag: it is authenticated and readable.
func (s *seal) sealTable(table []byte) []byte {
	return append(table, s.aead.Seal(nil, nonce(sealsTable, 0), nil, table)...)
}

func (s *seal) checkTable(b []byte) ([]byte, error) {
	table, tag := b[:len(b)-tagBytes], b[len(b)-tagBytes:]
	if _, err := s.aead.Open(nil, nonce(sealsTable, 0), tag, table); err != nil {
		return nil, fmt.Errorf("%w: its table", ErrDamaged)
	}
	return table, nil
}
