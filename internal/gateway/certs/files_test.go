package certs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOwnCertificates(t *testing.T) {
	t.Parallel()
	first, second := filepath.Join(t.TempDir(), "first.pem"), filepath.Join(t.TempDir(), "second.pem")
	writeCertificate(t, first, 1, "a.example.com")
	writeCertificate(t, second, 2, "*.example.com")
	var told []error
	c, err := New(Options{Files: []File{{first, first}, {second, second}}, ReloadEvery: time.Second,
		Told: func(_ string, err error) { told = append(told, err) }})
	require.NoError(t, err)
	defer c.Close()
	serial := func(name string) int64 {
		cert, err := c.get(hello(name))
		require.NoError(t, err)
		return cert.Leaf.SerialNumber.Int64()
	}
	require.EqualValues(t, 1, serial("a.example.com"))
	require.EqualValues(t, 2, serial("B.example.com"))
	require.EqualValues(t, 1, serial(""), "a client that names nothing")
	_, err = c.get(hello("example.org"))
	require.EqualError(t, err, `no certificate for "example.org"`)
	require.NotContains(t, c.TLSConfig().NextProtos, "acme-tls/1")

	now := time.Now()
	writeCertificate(t, second, 3, "*.example.com", "example.org")
	require.EqualValues(t, 2, c.own.find("b.example.com", now).Leaf.SerialNumber.Int64(), "not looked at yet")
	now = now.Add(2 * time.Second)
	require.EqualValues(t, 3, c.own.find("example.org", now).Leaf.SerialNumber.Int64())
	require.NoError(t, os.WriteFile(second, []byte("half a f"), 0o600))
	for range 3 {
		now = now.Add(2 * time.Second)
		require.EqualValues(t, 3, c.own.find("example.org", now).Leaf.SerialNumber.Int64(), "the old one goes on")
	}
	require.Len(t, told, 1)
	require.NoError(t, os.Remove(second))
	now = now.Add(2 * time.Second)
	require.NotNil(t, c.own.find("example.org", now))

	_, err = New(Options{Files: []File{{second, second}}})
	require.ErrorContains(t, err, "reading the certificate "+second)
	_, err = New(Options{Directory: "https://acme.example.com/directory"})
	require.ErrorContains(t, err, "certificates on demand need")
}

func TestLimits(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := newLimiter(10*time.Minute, 3)
	require.NoError(t, l.attempt("a", now))
	require.ErrorContains(t, l.attempt("a", now.Add(9*time.Minute)), "a certificate for a was asked for 9m0s ago")
	require.NoError(t, l.attempt("a", now.Add(10*time.Minute)))
	require.NoError(t, l.attempt("b", now.Add(11*time.Minute)))
	require.ErrorContains(t, l.attempt("c", now.Add(59*time.Minute)), "3 certificates were asked for within an hour")
	require.NoError(t, l.attempt("c", now.Add(time.Hour)))
	require.Error(t, l.attempt("d", now.Add(time.Hour)))
	require.Len(t, l.names, 1)
}

func TestHostNames(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"a.example.com": true, "1.2": true, "xn--bcher-kva.example": true, "a-b.c": true,
		"localhost": false, "": false, ".": false, "a..b": false, "a.": false, ".a": false, "*.example.com": false, "A.example.com": false,
		"a_b.example.com": false, "-a.b": false, "a-.b": false, "a/../b.c": false, "a b.c": false, "a\x00.b": false, "é.com": false,
		strings.Repeat("a", 64) + ".b": false, strings.Repeat("a.", 127) + "b": false,
	} {
		require.Equal(t, want, hostName(name), name)
	}
}
