package integration

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"dormouse/internal/api"
	"dormouse/internal/store"
	"dormouse/internal/supervisor/idle"
)

// unwatched tells an API of no change, so that it looks again by itself.
type unwatched struct{}

func (unwatched) Changed(string) <-chan struct{} { return nil }

// noImages is the name of a field that is not called as its method is.
type noImages = api.Images

// front is a control plane's HTTP.
type front struct {
	w      *world
	server *httptest.Server
}

// api serves the API from a store; packages, images, kernels, consoles and secrets it has none.
func (w *world) api(st *store.Store) *front {
	w.t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	h, err := api.New(api.Options{Store: st, Schedules: idle.Schedules{}, Packages: struct{ api.Packages }{}, Images: struct{ noImages }{},
		ImageContents: struct{ api.ImageContents }{}, Kernels: struct{ api.Kernels }{}, Tracer: struct{ api.Tracer }{}, Consoles: struct{ api.Consoles }{}, Watch: unwatched{},
		Seal: struct{ api.Sealer }{}, Planner: struct{ api.Planner }{}, GatewayURL: func(name string) string { return "http://" + name }, Log: log})
	require.NoError(w.t, err)
	f := &front{w: w, server: httptest.NewServer(h)}
	w.t.Cleanup(f.server.Close)
	return f
}

// get returns the status and what the answer says, into a value that may be nil.
func (f *front) get(path string, into any) *http.Response {
	f.w.t.Helper()
	answer, err := http.Get(f.server.URL + path)
	require.NoError(f.w.t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(f.w.t, err)
	if into != nil && strings.Contains(answer.Header.Get("Content-Type"), "json") {
		require.NoError(f.w.t, json.Unmarshal(body, into), "%s", body)
	}
	return answer
}
