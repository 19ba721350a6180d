package api

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
)

func newLog() logrus.FieldLogger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

func TestCheckListen(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"127.0.0.1:8075", "localhost:0", "[::1]:8075", "127.9.9.9:1", "[::ffff:127.0.0.1]:80", "LOCALHOST:80"} {
		require.NoError(t, CheckListen(addr), addr)
	}
	for _, addr := range []string{"0.0.0.0:8075", ":8075", "[::]:8075", "192.0.2.1:80", "example.com:80", "localhost.example.com:80", "[::ffff:192.0.2.1]:80"} {
		require.ErrorContains(t, CheckListen(addr), "no tokens yet", addr)
	}
	for _, addr := range []string{"127.0.0.1", "", "127.0.0.1:http", "127.0.0.1:70000", "127.0.0.1:"} {
		require.Error(t, CheckListen(addr), addr)
	}
}

func TestOtherHostNamesAreRefused(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for _, host := range []string{"127.0.0.1:8075", "localhost", "localhost:8075", "[::1]:8075", "[::1]"} {
		r := request("GET", "/healthz", "")
		r.Host = host
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, r)
		require.Equal(t, http.StatusOK, w.Code, host)
	}
	for _, host := range []string{"evil.example", "acme.localhost:8065", "127.0.0.1.evil.example", "192.0.2.1:8075", ""} {
		r := request("GET", "/api/v1/installations", "")
		r.Host = host
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, r)
		require.Equal(t, http.StatusMisdirectedRequest, w.Code, host)
		require.Equal(t, "invalid", problemIn(t, w).Kind)
	}
}

func TestWritesOfOtherOriginsAreRefused(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for _, bad := range []header{
		{"Origin", "http://acme.localhost:8065"}, {"Origin", "null"}, {"Origin", "http://127.0.0.1:8065"},
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"},
	} {
		h.refused(t, http.StatusForbidden, "POST", "/api/v1/installations", createAcme, bad)
		h.refused(t, http.StatusForbidden, "DELETE", "/api/v1/installations/acme", "", bad)
	}
	require.Equal(t, http.StatusOK, h.call(t, "GET", "/api/v1/installations", "", header{"Sec-Fetch-Site", "cross-site"}).Code)
	require.Equal(t, http.StatusAccepted, h.call(t, "POST", "/api/v1/installations", createAcme, header{"Origin", "http://127.0.0.1:8075"}).Code)
}
