package imagebuilder

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"debug/elf"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func TestSignatures(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	_, stranger, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(public)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "keys.pem")
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600))
	trust, err := ReadTrust(path)
	require.NoError(t, err)

	dir := t.TempDir()
	b, err := New(Options{Dir: dir, Kernels: []Kernel{&fakeKernel{digest: "k"}}, Log: logger(), Trust: trust})
	require.NoError(t, err)
	t.Cleanup(b.Close)
	body := archive(t, "1", staticELF(elf.EM_X86_64))
	overlay := archive(t, "2", staticELF(elf.EM_X86_64))
	sign := func(key ed25519.PrivateKey, source, overlay []byte) string {
		sum := func(b []byte) string {
			if b == nil {
				return ""
			}
			s := sha256.Sum256(b)
			return hex.EncodeToString(s[:])
		}
		return base64.StdEncoding.EncodeToString(ed25519.Sign(key, SignedText(sum(source), sum(overlay))))
	}
	for name, c := range map[string]struct {
		signature string
		overlay   []byte
		says      string
	}{
		"Unsigned":       {"", nil, "takes signed sources only"},
		"Stranger":       {sign(stranger, body, nil), nil, "of none of the keys"},
		"OtherSource":    {sign(private, overlay, nil), nil, "of none of the keys"},
		"OverlayNotIn":   {sign(private, body, nil), overlay, "of none of the keys"},
		"OverlayTooMuch": {sign(private, body, overlay), nil, "of none of the keys"},
		"NoBase64":       {"%", nil, "bytes in base64"},
		"Short":          {"aGVsbG8=", nil, "bytes in base64"},
		"Good":           {sign(private, body, nil), nil, ""},
		"GoodOverlay":    {sign(private, body, overlay), overlay, ""},
	} {
		o := ImportOptions{Signature: c.signature, Version: "1"}
		if c.overlay != nil {
			o.Overlay = bytes.NewReader(c.overlay)
		}
		_, err := b.Import(t.Context(), bytes.NewReader(body), o)
		if c.says == "" {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorContains(t, err, c.says, name)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), name)
		require.Empty(t, inDir(t, dir, "tmp"), name)
	}
	_, err = b.ImportOCI(t.Context(), "127.0.0.1:1/web:1.0", ImportOptions{Signature: sign(private, body, nil)})
	require.ErrorContains(t, err, "name the image by its digest")
}

func TestReadTrust(t *testing.T) {
	t.Parallel()
	_, err := ReadTrust(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	for says, body := range map[string]string{
		"no PEM block": "hello",
		"structure":    "-----BEGIN PUBLIC KEY-----\naGVsbG8=\n-----END PUBLIC KEY-----\n",
		"use Ed25519":  "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEMFlnKJfJIYj5lYyhUYu1Wlx1fCs0VzKWbWbvbYkzvKtk3Kt4oD1w8eVYLw9mJ0h0f4cX8k4v0d8J0pJ8b5Y6Vg==\n-----END PUBLIC KEY-----\n",
	} {
		path := filepath.Join(t.TempDir(), "keys.pem")
		require.NoError(t, os.WriteFile(path, []byte(body), 0o600))
		_, err := ReadTrust(path)
		require.ErrorContains(t, err, "reading the keys that sources are signed with", says)
	}
}
