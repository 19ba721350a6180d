package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"dormouse/internal/gateway/wire"
)

// The test server of ACME's authors, as a program of its own: it is no part of this module.
const pebble = "github.com/letsencrypt/pebble/v2/cmd/pebble@v2.10.3"

// authority is a Pebble that finds every name but broken.example.com at 127.0.0.1.
type authority struct {
	directory string
	// roots are of its own listener, issued those of the certificates it issues.
	roots, issued *x509.CertPool
	stop          func()
}

// buildPebble returns the program. Where it can't be built, the test is left out.
func buildPebble(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "install", pebble)
	build.Dir = dir // outside of this module, whose go.mod does not name it
	build.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=", "CGO_ENABLED=0")
	if said, err := build.CombinedOutput(); err != nil {
		t.Skipf("%s can't be built here: %v\n%s", pebble, err, said)
	}
	return filepath.Join(dir, "pebble")
}

// nameServer answers every question for an address with 127.0.0.1. Pebble asks with TCP.
func nameServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	server := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		answer := new(dns.Msg).SetReply(question)
		switch q := question.Question[0]; {
		case q.Name == "broken.example.com.":
			answer.Rcode = dns.RcodeNameError
		case q.Qtype == dns.TypeA:
			answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(answer)
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = l.Close(); <-served })
	return l.Addr().String()
}

// freePort returns a port that nothing listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// startPebble starts an authority that looks for challenges at a port.
func startPebble(t *testing.T, challenges int) *authority {
	t.Helper()
	program, dir := buildPebble(t), t.TempDir()
	own := filepath.Join(dir, "own.pem")
	a := &authority{roots: writeCertificate(t, own, 1)}
	port, management := freePort(t), freePort(t)
	a.directory = fmt.Sprintf("https://127.0.0.1:%d/dir", port)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": fmt.Sprintf("127.0.0.1:%d", port), "managementListenAddress": fmt.Sprintf("127.0.0.1:%d", management),
		"certificate": own, "privateKey": own, "tlsPort": challenges, "httpPort": 1, "keyAlgorithm": "ecdsa",
		"retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles":   map[string]any{"default": map[string]any{"description": "default", "validityPeriod": 86400}},
	}})
	require.NoError(t, err)
	configFile := filepath.Join(dir, "config.json")
	require.NoError(t, os.WriteFile(configFile, config, 0o600))
	var said bytes.Buffer
	cmd := exec.Command(program, "-config", configFile, "-dnsserver", nameServer(t))
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(t, cmd.Start())
	a.stop = sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	t.Cleanup(func() {
		a.stop()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.roots}}}
	defer client.CloseIdleConnections()
	var root []byte
	require.Eventually(t, func() bool {
		response, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/roots/0", management))
		if err != nil {
			return false
		}
		defer response.Body.Close()
		root, err = io.ReadAll(response.Body)
		return err == nil && response.StatusCode == http.StatusOK
	}, patience, 20*time.Millisecond)
	a.issued = x509.NewCertPool()
	require.True(t, a.issued.AppendCertsFromPEM(root))
	return a
}

// alike answers every request alike.
type alike struct{}

func (alike) Enter(_ context.Context, h *wire.Head) (*wire.Pass, *wire.Answer) {
	return nil, &wire.Answer{Status: http.StatusOK, Body: []byte(h.Host)}
}

func (alike) Failed(context.Context, *wire.Head, *wire.Pass, error) *wire.Answer { return nil }

// front is a gateway that shows certificates.
type front struct {
	asked []string
	told  map[string]error
	mu    sync.Mutex
}

func (f *front) serve(t *testing.T, a *authority, port int, storage string) (stop func()) {
	t.Helper()
	c, err := New(Options{Directory: a.directory, Roots: a.roots, Email: "operator@example.com", Storage: storage, Host: "127.0.0.1", Port: port,
		Allowed: func(_ context.Context, name string) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.asked = append(f.asked, name)
			if name == "stranger.example.com" {
				return errors.New("no installation has this name")
			}
			return nil
		},
		Told: func(name string, err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.told[name] = err
		}})
	require.NoError(t, err)
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	require.NoError(t, err)
	s := wire.New(wire.Options{Handler: alike{}, HandshakeTimeout: patience})
	served := make(chan error, 1)
	go func() { served <- s.ServeTLS(l, c.TLSConfig()) }()
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
		<-served
		c.Close()
	})
	t.Cleanup(stop)
	return stop
}

// visit asks for a name, and returns the certificate's serial number.
func visit(t *testing.T, port int, name string, roots *x509.CertPool) (string, error) {
	t.Helper()
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: patience}).Get("https://" + name + "/")
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, name, string(body))
	require.Equal(t, 2, response.ProtoMajor)
	return response.TLS.PeerCertificates[0].SerialNumber.String(), nil
}

func TestOnDemand(t *testing.T) {
	t.Parallel()
	port, storage := freePort(t), filepath.Join(t.TempDir(), "acme")
	a := startPebble(t, port)
	f := &front{told: make(map[string]error)}
	stop := f.serve(t, a, port, storage)

	// Several visitors at once cost one certificate.
	serials := make(chan string, 5)
	for range cap(serials) {
		go func() {
			serial, err := visit(t, port, "acme.example.com", a.issued)
			if err != nil {
				serial = err.Error()
			}
			serials <- serial
		}()
	}
	serial := <-serials
	for range cap(serials) - 1 {
		require.Equal(t, serial, <-serials)
	}
	require.NoError(t, f.told["acme.example.com"])
	require.Len(t, f.told, 1)

	// A name that is not allowed gets none, nor does one that the authority can't find;
	// that one is not asked for again soon.
	_, err := visit(t, port, "stranger.example.com", a.issued)
	require.Error(t, err)
	require.NotContains(t, f.told, "stranger.example.com")
	_, err = visit(t, port, "broken.example.com", a.issued)
	require.Error(t, err)
	require.ErrorContains(t, f.told["broken.example.com"], "getting a certificate")
	_, err = visit(t, port, "broken.example.com", a.issued)
	require.Error(t, err)
	require.ErrorContains(t, f.told["broken.example.com"], "wait until 10m0s have passed")

	// What was issued outlives this process, and the authority.
	stop()
	a.stop()
	f.serve(t, a, port, storage)
	again, err := visit(t, port, "acme.example.com", a.issued)
	require.NoError(t, err)
	require.Equal(t, serial, again)
	info, err := os.Stat(storage)
	require.NoError(t, err)
	require.Zero(t, info.Mode().Perm()&0o007, "keys are nobody else's")
}
