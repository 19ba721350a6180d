package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
)

func TestSignedUpload(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	dir := t.TempDir()
	write := func(name string, body []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, body, 0o700))
		return path
	}
	key := write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	program := write("program", append([]byte("\x7fELF"), make([]byte, 100)...))
	f := newFake(t, map[string]http.HandlerFunc{"POST /packages": answer(201, client.Package{ID: "p"})})
	require.Equal(t, exitDone, newRun(f.URL).line(t, "package create "+program+" --sign-key "+key))
	asked := f.asked()
	query, err := url.ParseQuery(asked[len(asked)-1].query)
	require.NoError(t, err)
	signature, err := base64.StdEncoding.DecodeString(query.Get("signature"))
	require.NoError(t, err)
	sum := sha256.Sum256([]byte(asked[len(asked)-1].body))
	require.True(t, ed25519.Verify(public, []byte(client.SignedText(hex.EncodeToString(sum[:]), "")), signature), "it is of what was sent")

	for _, line := range []string{"--sign-key " + program, "--sign-key " + dir + "/none"} {
		require.NotEqual(t, exitDone, newRun(f.URL).line(t, "package create "+program+" "+line), line)
	}
	require.NotEqual(t, exitDone, newRun(f.URL).line(t, "package create --oci example.com/web:1 --sign-key "+key))
}
