package main

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"dormouse/client"
)

// sign signs what a package is made of with the private key in a file (Ed25519,
// PEM, as `openssl genpkey -algorithm ed25519` writes it).
func sign(in client.NewPackage, keyFile string) (string, error) {
	key, err := readKey(keyFile)
	if err != nil {
		return "", usagef("reading the key to sign with: %w", err)
	}
	source := ""
	switch {
	case in.OCI != "":
		var ok bool
		if _, source, ok = strings.Cut(in.OCI, "@sha256:"); !ok {
			return "", usagef("an image that is signed for must be named by its digest: REGISTRY/NAME@sha256:…")
		}
	case in.Reopen != nil:
		if source, err = sumOf(in.Reopen); err != nil {
			return "", err
		}
	}
	overlay := ""
	if in.Overlay != nil {
		if overlay, err = sumOf(in.Overlay); err != nil {
			return "", err
		}
	}
	signature, err := key.Sign(nil, []byte(client.SignedText(source, overlay)), crypto.Hash(0))
	return base64.StdEncoding.EncodeToString(signature), err
}

func readKey(path string) (ed25519.PrivateKey, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM file: openssl genpkey -algorithm ed25519 makes a key", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T: use Ed25519", path, parsed)
	}
	return key, nil
}

// sumOf is the hex SHA-256 of what open returns.
func sumOf(open func() (io.ReadCloser, error)) (string, error) {
	r, err := open()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(h, r)
	if err = errors.Join(err, r.Close()); err != nil {
		return "", fmt.Errorf("reading what is to be signed: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
