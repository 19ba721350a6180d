package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

const createWeb = `{"name":"web","labels":{"tier":"free"},"package":"workspace@1.0","env":{"MODE":"fast"}}`

// web creates a group with a member for each name.
func (h *harness) web(t testing.TB, members ...string) client.Group {
	t.Helper()
	g := call[client.Group](t, h, http.StatusCreated, "POST", "/api/v1/groups", createWeb)
	for _, name := range members {
		h.join(t, name, `"group":"web"`)
	}
	return g
}

// join creates an installation that rests, with more fields than the least.
func (h *harness) join(t testing.TB, name, more string) client.Installation {
	t.Helper()
	in := call[client.Installation](t, h, http.StatusAccepted, "POST", "/api/v1/installations", fmt.Sprintf(`{"name":%q,"owner":"o",%s}`, name, more))
	h.store.settle(name, fleet.StateStable)
	return in
}

func TestCreateGroup(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	key := header{"Idempotency-Key", "k"}
	w := h.call(t, "POST", "/api/v1/groups", createWeb, key)
	require.Equal(t, http.StatusCreated, w.Code, w.Body)
	require.Equal(t, `"1"`, w.Header().Get("ETag"))
	g := call[client.Group](t, h, http.StatusOK, "GET", w.Header().Get("Location"), "")
	require.Equal(t, client.GroupConfig{Package: "workspace@1.0", Env: map[string]string{"MODE": "fast"}, Unverifiable: "keep"}, g.Config)
	require.Equal(t, g.Config, g.LatestConfig)
	require.Equal(t, [2]int64{1, 1}, [2]int64{g.Revision, g.LatestRevision})
	require.Equal(t, map[string]string{"tier": "free"}, g.Labels)
	require.Nil(t, g.Rollout)

	w = h.call(t, "POST", "/api/v1/groups", createWeb, key)
	require.Equal(t, http.StatusCreated, w.Code)
	require.Equal(t, "true", w.Header().Get("Idempotency-Replayed"))
	h.refused(t, http.StatusConflict, "POST", "/api/v1/groups", strings.Replace(createWeb, "web", "other", 1), key)
	h.refused(t, http.StatusConflict, "POST", "/api/v1/groups", createWeb)
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/groups/other", "")
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/groups/No_Name", "")
	require.Equal(t, `"1"`, h.call(t, "GET", "/api/v1/groups/web", "").Header().Get("ETag"))
}

func TestCreateGroupRefuses(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for body, field := range map[string]string{
		`{"package":"p"}`: "name", `{"name":"Web","package":"p"}`: "name", `{"name":"web"}`: "package", `{"name":"web","package":"p@"}`: "package",
		`{"name":"web","package":"p","memory_mib":31}`: "memory_mib", `{"name":"web","package":"p","vcpus":65}`: "vcpus", `{"name":"web","package":"p","memory_mib":-1}`: "memory_mib",
		`{"name":"web","package":"p","unverifiable":""}`: "unverifiable", `{"name":"web","package":"p","unverifiable":"skip"}`: "unverifiable",
		`{"name":"web","package":"p","env":{"A B":"x"}}`: `env."A B"`, `{"name":"web","package":"p","labels":{"":"x"}}`: `labels.""`,
		`{"name":"web","package":"p","env":null}`: "env", `{"name":"web","package":"p","secrets":{}}`: "secrets", `{"name":"web","package":"p","package":"q"}`: "package",
		`{"name":"web","package":"p","env":{"A":"` + strings.Repeat("x", fleet.MaxEnvironment) + `"}}`: "env",
	} {
		require.Equal(t, field, h.refused(t, http.StatusBadRequest, "POST", "/api/v1/groups", body).Field, body)
	}
	require.Empty(t, h.store.groups)
	require.Equal(t, http.StatusCreated, h.call(t, "POST", "/api/v1/groups", `{"name":"web","package":"p","memory_mib":0,"unverifiable":"move"}`).Code)
}

func TestUpdateGroupMakesARevision(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.web(t, "acme")
	w := h.call(t, "PATCH", "/api/v1/groups/web", `{"package":"workspace@1.1","memory_mib":256,"env":{"A":"1","MODE":null},"unverifiable":"move"}`,
		header{"Content-Type", "application/merge-patch+json"}, header{"If-Match", `"1"`}, header{"Idempotency-Key", "k"})
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	require.Equal(t, `"2"`, w.Header().Get("ETag"))
	g := call[client.Group](t, h, http.StatusOK, "GET", "/api/v1/groups/web", "")
	require.Equal(t, client.GroupConfig{Package: "workspace@1.1", MemoryMiB: 256, Env: map[string]string{"A": "1"}, Unverifiable: "move"}, g.LatestConfig)
	require.Equal(t, "workspace@1.0", g.Config.Package, "members get it from a rollout only")
	require.Equal(t, [2]int64{1, 2}, [2]int64{g.Revision, g.LatestRevision})
	require.Equal(t, 1, g.Members)
	require.Equal(t, []client.RevisionMembers{{Revision: 1, Members: 1}}, g.MembersByRevision)

	p := h.refused(t, http.StatusPreconditionFailed, "PATCH", "/api/v1/groups/web", `{"vcpus":2}`, header{"If-Match", `"1"`})
	require.Equal(t, "stale", p.Kind)
	for _, null := range []string{`{"memory_mib":null}`, `{"memory_mib":0}`} {
		g = call[client.Group](t, h, http.StatusOK, "PATCH", "/api/v1/groups/web", null)
		require.Zero(t, g.LatestConfig.MemoryMiB, "left to the members")
	}
	require.Equal(t, int64(3), g.LatestRevision, "what changes nothing makes no revision")
	require.Empty(t, call[client.Group](t, h, http.StatusOK, "PATCH", "/api/v1/groups/web", `{"env":null}`).LatestConfig.Env)

	for body, field := range map[string]string{
		`{}`: "", `{"package":null}`: "package", `{"unverifiable":null}`: "unverifiable", `{"memory_mib":1}`: "memory_mib", `{"vcpus":-1}`: "vcpus",
		`{"name":"other"}`: "name", `{"env":{"1":null}}`: "env.1", `{"labels":{"a b":null}}`: `labels."a b"`, `{"unverifiable":"x"}`: "unverifiable",
	} {
		require.Equal(t, field, h.refused(t, http.StatusBadRequest, "PATCH", "/api/v1/groups/web", body).Field, body)
	}
	h.refused(t, http.StatusNotFound, "PATCH", "/api/v1/groups/other", `{"vcpus":2}`)
	h.refused(t, http.StatusNotFound, "PATCH", "/api/v1/groups/other", `{"labels":{"a":"b"}}`)
}

func TestGroupLabelsAreMerged(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.web(t)
	patch := func(body string, headers ...header) client.Group {
		return call[client.Group](t, h, http.StatusOK, "PATCH", "/api/v1/groups/web", body, headers...)
	}
	g := patch(`{"labels":{"zone":"a"}}`)
	require.Equal(t, map[string]string{"tier": "free", "zone": "a"}, g.Labels)
	require.Equal(t, int64(1), g.LatestRevision, "labels are no configuration")

	// Somebody else's label comes in between reading and writing: it must not be lost.
	meddled := false
	h.store.meddle = func(g *fakeGroup) {
		if !meddled {
			meddled = true
			g.Version++
			g.Labels = map[string]string{"tier": "free", "zone": "a", "theirs": "1"}
		}
	}
	g = patch(`{"labels":{"ours":"1","zone":null}}`)
	require.Equal(t, map[string]string{"tier": "free", "theirs": "1", "ours": "1"}, g.Labels)

	// With a condition of the caller's own it is the caller's to decide.
	meddled = false
	h.refused(t, http.StatusPreconditionFailed, "PATCH", "/api/v1/groups/web", `{"labels":{"x":"1"}}`, header{"If-Match", etag(g.Version)})

	h.store.meddle = func(g *fakeGroup) { g.Version++ }
	require.Equal(t, "unavailable", h.refused(t, http.StatusServiceUnavailable, "PATCH", "/api/v1/groups/web", `{"labels":{"x":"1"}}`).Kind)
	h.store.meddle = func(*fakeGroup) {}
	require.Empty(t, patch(`{"labels":null}`).Labels)

	many := make([]string, maxLabels+1)
	for i := range many {
		many[i] = fmt.Sprintf(`"l%d":""`, i)
	}
	require.Equal(t, "labels", h.refused(t, http.StatusBadRequest, "PATCH", "/api/v1/groups/web", `{"labels":{`+strings.Join(many, ",")+`}}`).Field)
}

func TestAnIdempotentGroupPatchIsReplayedAfterTheDeletion(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.web(t)
	key := header{"Idempotency-Key", "k"}
	const patch = `{"labels":{"zone":"a"}}`
	call[client.Group](t, h, http.StatusOK, "PATCH", "/api/v1/groups/web", patch, key)
	require.Equal(t, http.StatusNoContent, h.call(t, "DELETE", "/api/v1/groups/web", "").Code)
	w := h.call(t, "PATCH", "/api/v1/groups/web", patch, key)
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	require.Equal(t, "true", w.Header().Get("Idempotency-Replayed"))
	require.Contains(t, h.refused(t, http.StatusNotFound, "PATCH", "/api/v1/groups/web", patch, header{"Idempotency-Key", "new"}).Detail, "web")
}

func TestDeleteGroup(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.web(t, "acme")
	require.Equal(t, "not-accepted", h.refused(t, http.StatusConflict, "DELETE", "/api/v1/groups/web", "").Kind)
	h.store.settle("acme", fleet.StateDeleted)
	h.refused(t, http.StatusPreconditionFailed, "DELETE", "/api/v1/groups/web", "", header{"If-Match", `"7"`})
	h.refused(t, http.StatusBadRequest, "DELETE", "/api/v1/groups/web", `{"force":true}`)
	conditions := []header{{"If-Match", `"1"`}, {"Idempotency-Key", "k"}}
	for range 2 { // the second time it is gone, and the key is known
		require.Equal(t, http.StatusNoContent, h.call(t, "DELETE", "/api/v1/groups/web", "", conditions...).Code)
	}
	h.refused(t, http.StatusNotFound, "DELETE", "/api/v1/groups/web", "")
	h.refused(t, http.StatusNotFound, "DELETE", "/api/v1/groups/web", "", header{"If-Match", `"1"`})
}

func TestListGroupsAndRevisions(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.web(t)
	call[client.Group](t, h, http.StatusCreated, "POST", "/api/v1/groups", `{"name":"other","package":"p"}`)
	one := call[client.Page[client.Group]](t, h, http.StatusOK, "GET", "/api/v1/groups?limit=1", "")
	require.Equal(t, "web", one.Items[0].Name)
	two := call[client.Page[client.Group]](t, h, http.StatusOK, "GET", "/api/v1/groups?limit=1&cursor="+one.NextCursor, "")
	require.Equal(t, "other", two.Items[0].Name)
	require.Empty(t, two.NextCursor)

	for _, version := range []string{"1.1", "1.2"} {
		call[client.Group](t, h, http.StatusOK, "PATCH", "/api/v1/groups/web", `{"package":"workspace@`+version+`"}`)
	}
	var packages []string
	const path = "/api/v1/groups/web/revisions?limit=2"
	for next := path; next != ""; {
		p := call[client.Page[client.GroupRevision]](t, h, http.StatusOK, "GET", next, "")
		for _, r := range p.Items {
			packages = append(packages, fmt.Sprint(r.Revision, " ", r.Config.Package))
		}
		next = ""
		if p.NextCursor != "" {
			next = path + "&cursor=" + p.NextCursor
		}
	}
	require.Equal(t, []string{"1 workspace@1.0", "2 workspace@1.1", "3 workspace@1.2"}, packages)
	for query, field := range map[string]string{"limit=0": "limit", "cursor=!": "cursor", "cursor=eA": "cursor", "cursor=LTE": "cursor", "x=1": "x"} {
		require.Equal(t, "query."+field, h.refused(t, http.StatusBadRequest, "GET", "/api/v1/groups/web/revisions?"+query, "").Field)
	}
	h.refused(t, http.StatusNotFound, "GET", "/api/v1/groups/none/revisions", "")
}
