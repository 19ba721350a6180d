package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func testApp(t *testing.T, dir string) *app {
	t.Helper()
	s, err := openState(filepath.Join(dir, "workspace.json"))
	require.NoError(t, err)
	return &app{state: s, log: log.New(io.Discard, "", 0), booted: time.Unix(0, 0).UTC(), tenant: "Acme <Inc>", greeting: "Hello"}
}

func ask(t *testing.T, a *app, method, path, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	a.handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func TestNotesSurvive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := testApp(t, dir)
	code, body := ask(t, a, "POST", "/api/notes", `{"text": "first <b>"}`)
	require.Equal(t, http.StatusCreated, code)
	var n note
	require.NoError(t, json.Unmarshal([]byte(body), &n))
	require.Equal(t, int64(1), n.ID)
	code, _ = ask(t, a, "POST", "/api/notes", `{"text": "second"}`)
	require.Equal(t, http.StatusCreated, code)
	code, _ = ask(t, a, "DELETE", "/api/notes/2", "")
	require.Equal(t, http.StatusNoContent, code)

	a = testApp(t, dir) // as after a power cut: nothing was closed
	_, body = ask(t, a, "GET", "/api/notes", "")
	var notes []note
	require.NoError(t, json.Unmarshal([]byte(body), &notes))
	require.Equal(t, []note{n}, notes)
	_, body = ask(t, a, "POST", "/api/notes", `{"text": "third"}`)
	require.Contains(t, body, `"id":3`, "an ID is never given again")

	code, body = ask(t, a, "GET", "/", "")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, body, "Acme &lt;Inc&gt;")
	require.Contains(t, body, "first &lt;b&gt;")
	require.Contains(t, body, "Visit 1 ")
	_, body = ask(t, testApp(t, dir), "GET", "/", "")
	require.Contains(t, body, "Visit 2 ")
}

func TestBadRequests(t *testing.T) {
	t.Parallel()
	a := testApp(t, t.TempDir())
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/api/notes", `{"text": ""}`, 400}, {"POST", "/api/notes", `{"txt": "x"}`, 400}, {"POST", "/api/notes", `x`, 400},
		{"POST", "/api/notes", `{"text": "` + strings.Repeat("x", maxNote+1) + `"}`, 400}, {"POST", "/api/notes", `{"text": "` + strings.Repeat("x", maxBody) + `"}`, 400},
		{"DELETE", "/api/notes/9", "", 404}, {"DELETE", "/api/notes/x", "", 404}, {"GET", "/nothing", "", 404}, {"PUT", "/api/notes", "", 405},
	} {
		code, _ := ask(t, a, c.method, c.path, c.body)
		require.Equal(t, c.want, code, c.method+" "+c.path)
	}
	for range maxNotes {
		a.state.now.Notes = append(a.state.now.Notes, note{})
	}
	code, _ := ask(t, a, "POST", "/api/notes", `{"text": "one more"}`)
	require.Equal(t, http.StatusConflict, code)
}

func TestHealthAndInfo(t *testing.T) {
	t.Parallel()
	a := testApp(t, t.TempDir())
	code, _ := ask(t, a, "GET", "/healthz", "")
	require.Equal(t, http.StatusOK, code)
	a.failHealth = true
	code, _ = ask(t, a, "GET", "/healthz", "")
	require.Equal(t, http.StatusInternalServerError, code)
	_, body := ask(t, a, "GET", "/api/info", "")
	var i info
	require.NoError(t, json.Unmarshal([]byte(body), &i))
	host, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, info{Version: "dev", Tenant: "Acme <Inc>", Greeting: "Hello", Hostname: host, BootedAt: time.Unix(0, 0).UTC()}, i)
}

func TestRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	started := func(env map[string]string) (int, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return run(ctx, func(k string) string { return env[k] }, io.Discard)
	}
	code, err := started(map[string]string{"EXIT_CODE": "3"})
	require.NoError(t, err)
	require.Equal(t, 3, code)
	code, err = started(map[string]string{"CRASH_AFTER": "1ms", "DATA_DIR": dir, "LISTEN": "127.0.0.1:0"})
	require.ErrorIs(t, err, errCrash)
	require.Equal(t, 2, code)
	for _, bad := range []map[string]string{{"EXIT_CODE": "x"}, {"CRASH_AFTER": "x"}, {"DATA_DIR": filepath.Join(dir, "nowhere")}, {"DATA_DIR": dir, "LISTEN": "nowhere:x"}} {
		_, err = started(bad)
		require.Error(t, err, bad)
	}

	ctx, cancel := context.WithCancel(context.Background())
	cancel() // as SIGTERM does
	code, err = run(ctx, func(k string) string {
		return map[string]string{"DATA_DIR": dir, "LISTEN": "127.0.0.1:0"}[k]
	}, io.Discard)
	require.NoError(t, err)
	require.Zero(t, code)
}

func TestStateThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "workspace.json")
	s, err := openState(path)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(path+".new", 0o755)) // in the way of the next write
	_, err = s.add("lost", time.Now())
	require.ErrorContains(t, err, "writing the state")
	require.Empty(t, s.get().Notes, "what is not on the disk is not shown")
	_, err = s.visit()
	require.Error(t, err)
	require.True(t, errors.Is(s.remove(1), errNoNote))

	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, err = openState(path)
	require.ErrorContains(t, err, "reading the state")
}
