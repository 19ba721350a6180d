package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/stretchr/testify/require"

	openapi "dormouse/api"
	"dormouse/client"
	"dormouse/internal/fleet"
)

// harness is a whole API over fakes. Every answer that it passes on has been
// validated against the OpenAPI document.
type harness struct {
	store    *fakeStore
	packages *fakePackages
	images   *fakeImages
	consoles *fakeConsoles
	watch    *fakeWatcher
	seal     *fakeSealer
	logs     *logtest.Hook
	handler  http.Handler
	routes   routers.Router
}

func loadDocument(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(openapi.YAML())
	require.NoError(t, err)
	return doc
}

// documentRoutes reads the document once for all tests.
var documentRoutes = sync.OnceValues(func() (routers.Router, error) {
	doc, err := openapi3.NewLoader().LoadFromData(openapi.YAML())
	if err != nil {
		return nil, err
	}
	return gorillamux.NewRouter(doc)
})

func newHarness(t testing.TB, change ...func(*Options)) *harness {
	t.Helper()
	log, hook := logtest.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	h := &harness{
		store: newFakeStore(), packages: &fakePackages{content: map[string]bool{}}, images: newFakeImages(),
		consoles: &fakeConsoles{text: "one\ntwo\n"}, watch: newFakeWatcher(), seal: &fakeSealer{}, logs: hook,
	}
	o := Options{
		Store: h.store, Packages: h.packages, Images: h.images, ImageContents: h.images, Kernels: h.images, Tracer: h.images, Consoles: h.consoles, Watch: h.watch, Seal: h.seal, Planner: fakePlanner{}, Schedules: fakeSchedules{},
		GatewayURL: func(name string) string { return "http://" + name + ".localhost:8065" }, Log: log, NewID: sequence(),
	}
	for _, c := range change {
		c(&o)
	}
	var err error
	h.handler, err = New(o)
	require.NoError(t, err)
	h.routes, err = documentRoutes()
	require.NoError(t, err)
	return h
}

// sequence returns a maker of IDs that sort in the order in which they were
// made; those of fleet do so from one millisecond to the next only.
func sequence() func() string {
	var last atomic.Int64
	return func() string { return fmt.Sprintf("%026d", last.Add(1)) }
}

// header is one header of a request: its name and value.
type header [2]string

func request(method, path, body string, headers ...header) *http.Request {
	r := httptest.NewRequest(method, "http://127.0.0.1:8075"+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		r.Header.Del(h[0])
		if h[1] != "" {
			r.Header.Set(h[0], h[1])
		}
	}
	return r
}

// call makes a request and validates the answer.
func (h *harness) call(t testing.TB, method, path, body string, headers ...header) *httptest.ResponseRecorder {
	t.Helper()
	return h.do(t, request(method, path, body, headers...))
}

func (h *harness) do(t testing.TB, r *http.Request) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, r)
	h.validate(t, r, w)
	return w
}

func (h *harness) validate(t testing.TB, r *http.Request, w *httptest.ResponseRecorder) {
	t.Helper()
	require.NotEmpty(t, w.Header().Get("X-Request-ID"))
	route, params, err := h.routes.FindRoute(r)
	if err != nil { // not of this API: a problem document it is nonetheless
		problemIn(t, w)
		return
	}
	if streamed := w.Header().Get("Content-Type"); strings.HasPrefix(streamed, "text/plain") || streamed == "application/x-ndjson" {
		require.Equal(t, http.StatusOK, w.Code)
		return
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route},
		Status:                 w.Code, Header: w.Header(), Body: io.NopCloser(bytes.NewReader(w.Body.Bytes())),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	})
	require.NoError(t, err, "%s %s → %d %s", r.Method, r.URL, w.Code, w.Body)
}

// call makes a request that must be answered with that status, and decodes the answer.
func call[T any](t testing.TB, h *harness, status int, method, path, body string, headers ...header) T {
	t.Helper()
	w := h.call(t, method, path, body, headers...)
	require.Equal(t, status, w.Code, w.Body.String())
	var v T
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &v))
	return v
}

// refused makes a request that must fail with that status, and returns why.
func (h *harness) refused(t testing.TB, status int, method, path, body string, headers ...header) client.Problem {
	t.Helper()
	w := h.call(t, method, path, body, headers...)
	require.Equal(t, status, w.Code, w.Body.String())
	return problemIn(t, w)
}

func problemIn(t testing.TB, w *httptest.ResponseRecorder) client.Problem {
	t.Helper()
	require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"), w.Body.String())
	var p client.Problem
	d := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&p))
	require.Equal(t, w.Code, p.Status)
	require.Equal(t, w.Header().Get("X-Request-ID"), p.RequestID)
	require.NotEmpty(t, p.Title)
	require.NotEmpty(t, p.Detail)
	require.Equal(t, "urn:dormouse:problem:"+p.Kind, p.Type)
	return p
}

const createAcme = `{"name":"acme","owner":"acme-corp","package":"workspace@1.0"}`

// acme creates an installation that rests in that state.
func (h *harness) acme(t testing.TB, state fleet.State) fleet.InstallationView {
	t.Helper()
	call[client.Installation](t, h, http.StatusAccepted, "POST", "/api/v1/installations", createAcme)
	return h.store.settle("acme", state)
}

type fakePackages struct {
	mu      sync.Mutex
	content map[string]bool
	removed []string
	// err is returned by Import once it has read the body.
	err error
	// overlay and source are what came last.
	overlay string
	source  PackageSource
	// reading is told when Import has begun.
	reading func()
}

func (f *fakePackages) Import(_ context.Context, s PackageSource) (fleet.Package, error) {
	name, version := s.Name, s.Version
	if f.reading != nil {
		f.reading()
	}
	var read [2][]byte
	for i, r := range []io.Reader{s.Overlay, s.Body} { // in this order
		if r == nil {
			continue
		}
		var err error
		if read[i], err = io.ReadAll(r); err != nil {
			if fleet.KindOf(err) == fleet.KindInvalid {
				return fleet.Package{}, err
			}
			return fleet.Package{}, errors.New("the importer hides why")
		}
	}
	body := read[1]
	f.mu.Lock()
	defer f.mu.Unlock()
	f.overlay, f.source = string(read[0]), s
	if f.err != nil {
		return fleet.Package{}, f.err
	}
	if name == "" {
		name, version = "workspace", "1.0"
	}
	digest := fleet.DeriveID(string(body))
	f.content[digest] = true
	return fleet.Package{Name: name, Version: version, Digest: digest, SizeBytes: int64(len(body)), Kernel: cmp.Or(s.Kernel, fleet.KernelLinux),
		Manifest: fleet.Manifest{Program: "/workspace"}, Warnings: []string{"imports fork"}}, nil
}

func (f *fakePackages) RemovePackage(digest string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.content, digest)
	f.removed = append(f.removed, digest)
	return nil
}

type fakeConsoles struct {
	text    string
	err     error
	options fleet.ConsoleOptions
	// reader is used instead of text where it is set.
	reader func(context.Context) io.ReadCloser
}

func (f *fakeConsoles) Console(ctx context.Context, _ fleet.Instance, o fleet.ConsoleOptions) (io.ReadCloser, error) {
	f.options = o
	if f.err != nil {
		return nil, f.err
	}
	if f.reader != nil {
		return f.reader(ctx), nil
	}
	return io.NopCloser(strings.NewReader(f.text)), nil
}

type fakeWatcher struct {
	mu       sync.Mutex
	channels map[string]chan struct{}
}

func newFakeWatcher() *fakeWatcher { return &fakeWatcher{channels: map[string]chan struct{}{}} }

func (f *fakeWatcher) Changed(id string) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.channels[id] == nil {
		f.channels[id] = make(chan struct{})
	}
	return f.channels[id]
}

// tell closes the channel of everybody who waits for that operation.
func (f *fakeWatcher) tell(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c := f.channels[id]; c != nil {
		close(c)
		delete(f.channels, id)
	}
}

type fakeSealer struct{ err error }

func (f *fakeSealer) Seal(value, context string) (string, error) {
	return "sealed:" + context + ":" + strings.Repeat("x", len(value)), f.err
}
