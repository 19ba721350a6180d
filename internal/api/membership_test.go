package api

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func TestCreateInAGroup(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	g := h.web(t)
	in := h.join(t, "acme", `"group":"web"`)
	require.Equal(t, "web", in.Group)
	require.Equal(t, int64(1), in.GroupRevision)
	require.Equal(t, &client.Own{}, in.Own)
	require.Equal(t, "workspace@1.0", in.Package)
	require.Equal(t, "fast", in.Env["MODE"])
	n := h.store.created
	require.Equal(t, fleet.GroupMembership{Join: "web"}, n.Group)
	require.Equal(t, [3]int{0, 1024, 0}, [3]int{n.MemoryMiB, n.DiskMiB, n.VCPUs}, "a group has no disk to leave")
	require.Empty(t, n.PackageRef)

	in = h.join(t, "big", `"group_match":{"tier":"free"},"memory_mib":512,"env":{"MODE":"own"}`)
	require.Equal(t, "web", in.Group)
	require.Equal(t, &client.Own{MemoryMiB: 512, Env: map[string]string{"MODE": "own"}}, in.Own)
	require.Equal(t, fleet.GroupMembership{Match: map[string]string{"tier": "free"}}, h.store.created.Group)

	alone := h.join(t, "alone", `"package":"workspace@1.0"`)
	require.Nil(t, alone.Own)
	require.Empty(t, alone.Group)
	page := call[client.Page[client.Installation]](t, h, http.StatusOK, "GET", "/api/v1/installations?group=web", "")
	require.Len(t, page.Items, 2)
	require.Equal(t, 2, call[client.Group](t, h, http.StatusOK, "GET", "/api/v1/groups/"+g.ID, "").Members)
	require.Equal(t, "query.group", h.refused(t, http.StatusBadRequest, "GET", "/api/v1/installations?group=", "").Field)

	for body, field := range map[string]string{
		`{"name":"a","owner":"o","group":"Web"}`:                               "group",
		`{"name":"a","owner":"o","group":""}`:                                  "group",
		`{"name":"a","owner":"o","group":null}`:                                "group",
		`{"name":"a","owner":"o","group":"none"}`:                              "group",
		`{"name":"a","owner":"o","group_match":{}}`:                            "group_match",
		`{"name":"a","owner":"o","group_match":{"a b":"x"}}`:                   `group_match."a b"`,
		`{"name":"a","owner":"o","group_match":{"tier":null}}`:                 "group_match.tier",
		`{"name":"a","owner":"o","group":"web","group_match":{"tier":"free"}}`: "group_match",
		`{"name":"a","owner":"o","group":"web","package":""}`:                  "package",
		`{"name":"a","owner":"o","group":"web","memory_mib":0}`:                "memory_mib",
		`{"name":"a","owner":"o","group":"web","vcpus":65}`:                    "vcpus",
		`{"name":"a","owner":"o"}`:                                             "package",
	} {
		require.Equal(t, field, h.refused(t, http.StatusBadRequest, "POST", "/api/v1/installations", body).Field, body)
	}
}

func TestChangeOfMembership(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.web(t, "acme")
	patch := func(body string) client.Installation {
		in := call[client.Installation](t, h, http.StatusAccepted, "PATCH", "/api/v1/installations/acme", body)
		h.store.settle("acme", fleet.StateStable)
		return in
	}
	in := patch(`{"group":null,"keep_configuration":true}`)
	require.Empty(t, in.Group)
	require.Nil(t, in.Own)
	require.Equal(t, &fleet.GroupMembership{KeepConfiguration: true}, h.store.changed.Group)
	in = patch(`{"group_match":{"tier":"free"}}`)
	require.Equal(t, "web", in.Group)
	require.Equal(t, &fleet.GroupMembership{Match: map[string]string{"tier": "free"}}, h.store.changed.Group)
	patch(`{"group":"web","from_group":["package","vcpus"]}`)
	require.Equal(t, &fleet.GroupMembership{Join: "web"}, h.store.changed.Group)
	require.Equal(t, []string{"package", "vcpus"}, h.store.changed.FromGroup)
	patch(`{"memory_mib":256}`)
	require.Nil(t, h.store.changed.Group, "what is absent stays")

	for body, field := range map[string]string{
		`{"group":""}`: "group", `{"group":"A"}`: "group", `{"group":7}`: "group", `{"group":"web","group_match":{"a":"b"}}`: "group_match",
		`{"group_match":{}}`: "group_match", `{"group_match":null}`: "group_match", `{"group_match":{"a":null}}`: "group_match.a",
		`{"keep_configuration":true}`: "keep_configuration", `{"group":"web","keep_configuration":true}`: "keep_configuration",
		`{"keep_configuration":null}`: "keep_configuration", `{"from_group":[]}`: "from_group", `{"from_group":null}`: "from_group",
		`{"from_group":["env"]}`: "from_group", `{"from_group":["package","package"]}`: "from_group", `{"from_group":[null]}`: "from_group",
		`{"from_group":["package"],"package":"p"}`: "from_group", `{"group":null,"from_group":["package"]}`: "from_group",
		`{"from_group":"package"}`: "from_group",
	} {
		require.Equal(t, field, h.refused(t, http.StatusBadRequest, "PATCH", "/api/v1/installations/acme", body).Field, body)
	}
}

// A verification leaves a sleeper's state alone and gives way to any request.
func TestAVerificationDoesNotStandInTheWay(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	v := h.acme(t, fleet.StateHibernating)
	h.store.advance(v.Operation.ID, func(op *fleet.Operation) {
		op.Kind, op.State, op.Rollout = fleet.OperationVerify, fleet.OperationActive, &fleet.RolloutWork{ID: "r1"}
		op.StepNumber, op.StepsTotal = 6, 6
	})
	e := call[client.Explanation](t, h, http.StatusOK, "GET", "/api/v1/installations/acme/explain", "")
	require.Equal(t, []string{"update", "wake", "delete"}, e.Accepts)
	require.Contains(t, e.Next, "the installation sleeps on")
	require.Equal(t, "r1", e.Operation.RolloutID)
}
