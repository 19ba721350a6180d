package main

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"dormouse/internal/fleet"
)

// memoryKeySize is the size, in bytes, of the host's key and of the keys made from it.
const memoryKeySize = 32

// openMemoryKey returns the key of each installation's saved memory, made from
// this host's own, which lies in a file and is made where there is none: it works
// without the control plane. nil where path is empty.
func openMemoryKey(path string) (func(fleet.InstallationID) ([]byte, error), error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key := make([]byte, memoryKeySize)
		_, _ = rand.Read(key) // it never fails
		text = []byte(hex.EncodeToString(key) + "\n")
		err = writeFile(path, text, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the key of saved memory: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != memoryKeySize {
		return nil, fleet.Errorf(fleet.KindInvalid, "%s is no key: it has %d bytes in hexadecimal digits, or give a path where there is no file", path, memoryKeySize)
	}
	return func(id fleet.InstallationID) ([]byte, error) {
		return hkdf.Key(sha256.New, key, nil, "dormouse saved memory of "+string(id), memoryKeySize)
	}, nil
}
