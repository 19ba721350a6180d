package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// TestSurface is the API as curl sees it. It runs on the simulator: nothing boots.
func TestSurface(t *testing.T) {
	t.Parallel()
	e := suite.Shared(t)
	pkg := upload(t, e, suite.Workspace(t, "1.0.0"))
	simulate(t, e, "surface")

	t.Run("System", func(t *testing.T) {
		t.Parallel()
		for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ok", "/metrics": "dormouse_"} {
			a := call(t, e, "GET", path, "")
			require.Equal(t, 200, a.Status, path)
			require.Contains(t, a.Body, want, path)
		}
		document := decoded[struct {
			OpenAPI string
			Paths   map[string]map[string]any
		}](t, call(t, e, "GET", "/api/v1/openapi.json", "").Body)
		require.True(t, strings.HasPrefix(document.OpenAPI, "3."))
		require.Contains(t, document.Paths["/api/v1/installations"], "post")
		require.Contains(t, document.Paths["/api/v1/operations/{id}"], "get")
	})
	t.Run("Idempotency", func(t *testing.T) {
		t.Parallel()
		body := `{"name": "twice", "owner": "dave", "package": "` + pkg + `", "cluster": "surface"}`
		first := call(t, e, "POST", "/api/v1/installations", body, "Idempotency-Key", "key-1")
		require.Equal(t, 202, first.Status, "%s", first.Body)
		second := call(t, e, "POST", "/api/v1/installations", body, "Idempotency-Key", "key-1")
		require.Equal(t, 202, second.Status, "%s", second.Body)
		one, two := decoded[client.Installation](t, first.Body), decoded[client.Installation](t, second.Body)
		require.Equal(t, one.ID, two.ID)
		require.Equal(t, one.Operation.ID, two.Operation.ID)
		require.Equal(t, "true", second.Header.Get("Idempotency-Replayed"))
		require.Equal(t, "/api/v1/operations/"+one.Operation.ID, first.Header.Get("Location"))
		other := problem(t, e, 409, "POST", "/api/v1/installations", strings.Replace(body, "twice", "thrice", 1), "Idempotency-Key", "key-1")
		require.Equal(t, "conflict", other.Kind)

		// A long poll comes back with the change and not with its own end.
		begin := time.Now()
		op := decoded[client.Operation](t, call(t, e, "GET", "/api/v1/operations/"+one.Operation.ID+"?wait=30s", "").Body)
		require.True(t, op.Finished(), "%+v", op)
		require.Less(t, time.Since(begin), 25*time.Second)

		// Conditions.
		now := call(t, e, "GET", "/api/v1/installations/twice", "")
		require.Equal(t, `"`+itoa(int(decoded[client.Installation](t, now.Body).Version))+`"`, now.Header.Get("ETag"))
		stale := problem(t, e, 412, "POST", "/api/v1/installations/twice/hibernate", "", "If-Match", `"1000000"`)
		require.Equal(t, "stale", stale.Kind)
		matched := call(t, e, "POST", "/api/v1/installations/twice/hibernate", "", "If-Match", now.Header.Get("ETag"))
		require.Equal(t, 202, matched.Status, "%s", matched.Body)
		taken := problem(t, e, 409, "POST", "/api/v1/installations", body)
		require.Equal(t, "conflict", taken.Kind)
		notNow := problem(t, e, 409, "POST", "/api/v1/installations/twice/retry", "")
		require.Equal(t, "not-accepted", notNow.Kind)
		require.Contains(t, notNow.Accepts, "delete")
		require.Equal(t, 202, call(t, e, "DELETE", "/api/v1/installations/twice", "").Status)
	})
	t.Run("Refusals", func(t *testing.T) {
		t.Parallel()
		with := func(field string) string {
			return `{"name": "fine", "owner": "dave", "package": "` + pkg + `", "cluster": "surface", ` + field + `}`
		}
		for name, c := range map[string]struct {
			body, field string
			status      int
		}{
			"UnknownField":   {with(`"colour": "blue"`), "colour", 400},
			"WrongType":      {with(`"memory_mib": "many"`), "memory_mib", 400},
			"Negative":       {with(`"memory_mib": -1`), "memory_mib", 400},
			"NoLabel":        {strings.Replace(with(`"vcpus": 1`), "fine", "Not_A_Label", 1), "name", 400},
			"LongName":       {strings.Replace(with(`"vcpus": 1`), "fine", strings.Repeat("a", 64), 1), "name", 400},
			"NoPackage":      {strings.Replace(with(`"vcpus": 1`), pkg, "missing@9.9", 1), "package", 400},
			"AnotherCluster": {strings.Replace(with(`"vcpus": 1`), "surface", "nowhere", 1), "cluster", 400},
			"NoJSON":         {`{"name": `, "", 400},
			"Twice":          {with(`"owner": "eve"`), "owner", 400},
		} {
			p := problem(t, e, c.status, "POST", "/api/v1/installations", c.body)
			if c.field != "" {
				require.Equal(t, c.field, p.Field, "%s: %+v", name, p)
			}
			require.NotEmpty(t, p.Detail, name)
		}
		_, err := e.Client.Installations.Get(t.Context(), "fine")
		require.True(t, client.IsNotFound(err))
		problem(t, e, 404, "GET", "/api/v1/installations/nobody", "")
		problem(t, e, 404, "GET", "/api/v2/installations", "")
		problem(t, e, 400, "GET", "/api/v1/installations?colour=blue", "")
		problem(t, e, 404, "GET", "/api/v1/operations/"+strings.Repeat("0", 26), "")
		wrong, err := e.Call(t.Context(), "PUT", "/api/v1/installations", "{}")
		require.NoError(t, err)
		require.Equal(t, 405, wrong.Status)
		require.Equal(t, "GET, POST", wrong.Header.Get("Allow"))
		inUse := problem(t, e, 409, "POST", "/api/v1/clusters", `{"name": "surface", "provider": "sim"}`)
		require.Equal(t, "conflict", inUse.Kind)
		problem(t, e, 400, "POST", "/api/v1/clusters", `{"name": "odd", "provider": "abacus"}`)
	})
	t.Run("Packages", func(t *testing.T) {
		t.Parallel()
		refusedPackages(t, e)
	})
}

// refusedPackages uploads what can't be run, or would harm.
func refusedPackages(t *testing.T, e *harness.Environment) {
	t.Helper()
	dir := suite.Workspace(t, "1.0.0")
	program, err := os.ReadFile(filepath.Join(dir, "workspace"))
	require.NoError(t, err)
	manifest, err := os.ReadFile(filepath.Join(dir, "package.manifest"))
	require.NoError(t, err)
	arm := bytes.Clone(program)
	arm[18], arm[19] = 183, 0 // e_machine: AArch64
	file := func(name string, body []byte) member { return member{tar.Header{Name: name, Mode: 0o755}, body} }
	good := archive(t, file("package.manifest", manifest), file("workspace", program))
	for name, c := range map[string]struct{ body, says string }{
		"DotDot":         {archive(t, file("package.manifest", manifest), file("workspace", program), file("../evil", []byte("x"))), "evil"},
		"AbsoluteName":   {archive(t, file("package.manifest", manifest), file("/etc/evil", []byte("x"))), "evil"},
		"LinkOut":        {archive(t, file("package.manifest", manifest), member{tar.Header{Name: "workspace", Typeflag: tar.TypeLink, Linkname: "../../../etc/passwd"}, nil}), "passwd"},
		"AnotherMachine": {archive(t, file("package.manifest", manifest), file("workspace", arm)), "64"},
		"Truncated":      {good[:len(good)/2], ""},
		"NoArchive":      {"this is no archive", ""},
		"Empty":          {"", ""},
		"NoManifest":     {archive(t, file("workspace", program)), "package.manifest"},
		"NoProgram":      {archive(t, file("package.manifest", manifest)), "workspace"},
	} {
		p := problem(t, e, 400, "POST", "/api/v1/packages?name=evil&version=1", c.body, "Content-Type", "application/gzip")
		require.Contains(t, p.Detail, c.says, "%s: %+v", name, p)
	}
	list := decoded[client.Page[client.Package]](t, call(t, e, "GET", "/api/v1/packages?limit=100", "").Body)
	for _, p := range list.Items {
		require.NotEqual(t, "evil", p.Name)
	}
	require.NoFileExists(t, filepath.Join(e.DataDir, "evil"))
}

type member struct {
	header tar.Header
	body   []byte
}

func archive(t *testing.T, members ...member) string {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for _, m := range members {
		m.header.Size = int64(len(m.body))
		require.NoError(t, w.WriteHeader(&m.header))
		_, err := w.Write(m.body)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return out.String()
}

func call(t *testing.T, e *harness.Environment, method, path, body string, header ...string) harness.Answer {
	t.Helper()
	a, err := e.Call(t.Context(), method, path, body, header...)
	require.NoError(t, err)
	return a
}

// problem makes a request that must be refused, with a problem document.
func problem(t *testing.T, e *harness.Environment, status int, method, path, body string, header ...string) client.Problem {
	t.Helper()
	a := call(t, e, method, path, body, header...)
	require.Equal(t, status, a.Status, "%s %s %.200s: %s", method, path, body, a.Body)
	require.Equal(t, "application/problem+json", a.Header.Get("Content-Type"), "%s", a.Body)
	p := decoded[client.Problem](t, a.Body)
	require.Equal(t, status, p.Status)
	require.NotEmpty(t, p.Kind)
	require.NotEmpty(t, p.Title)
	require.NotEqual(t, http.StatusInternalServerError, p.Status)
	return p
}

// simulate makes a cluster of the simulator.
func simulate(t *testing.T, e *harness.Environment, name string, settings ...string) {
	t.Helper()
	args := []string{"cluster", "create", name, "--provider", "sim", "--wait"}
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	ctl(t, e, args...)
}
