package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
)

// rolloutA is the ID of the rollout that these tests look at.
const rolloutA = "06f0c1q2v3n8e5d7g9h1j2k3l4"

func webGroup() client.Group {
	return client.Group{
		ID: "06f0c1q2v3n8e5d7g9h1j2k3aa", Name: "web", Labels: map[string]string{"tier": "free"}, Revision: 1, LatestRevision: 2,
		Config:       client.GroupConfig{Package: "workspace@1.0", Env: map[string]string{"MODE": "fast"}, Unverifiable: "keep"},
		LatestConfig: client.GroupConfig{Package: "workspace@1.1", MemoryMiB: 256, VCPUs: 2, Env: map[string]string{"A": "\x1b[31m"}, Unverifiable: "move"},
		Members:      12, MembersByRevision: []client.RevisionMembers{{Revision: 1, Members: 9}, {Revision: 2, Members: 3}},
		Rollout: &client.RolloutSummary{ID: rolloutA, Group: "web", FromRevision: 1, ToRevision: 2, State: "halted", Reason: "judged-bad", Detail: "bad for all"},
		Version: 4, CreatedAt: noon.Add(-72 * time.Hour), UpdatedAt: noon,
	}
}

func TestGroupGoldens(t *testing.T) {
	t.Parallel()
	quiet := webGroup()
	quiet.Name, quiet.LatestRevision, quiet.Rollout, quiet.Members, quiet.MembersByRevision = "quiet", 1, nil, 0, nil
	member := installation("stable", nil)
	member.Group, member.GroupRevision, member.Own = "web", 2, &client.Own{Package: "workspace@1.1", MemoryMiB: 128, VCPUs: 1, Env: map[string]string{"LOG": "debug"}}
	f := newFake(t, map[string]http.HandlerFunc{
		"GET /groups":     answer(200, client.Page[client.Group]{Items: []client.Group{webGroup(), quiet}}),
		"GET /groups/web": answer(200, webGroup()),
		"GET /groups/web/revisions": answer(200, client.Page[client.GroupRevision]{Items: []client.GroupRevision{
			{Revision: 1, Config: webGroup().Config, CreatedAt: noon.Add(-72 * time.Hour)}, {Revision: 2, Config: webGroup().LatestConfig, CreatedAt: noon.Add(-time.Hour)}}}),
		"GET /installations/acme": answer(200, member),
	})
	goldens(t, f, map[string]string{"group-list": "group list", "group-get": "group get web", "group-revisions": "group revisions web", "installation-member": "installation get acme"})
}

func TestWhatIsSentAboutGroups(t *testing.T) {
	t.Parallel()
	op := operation()
	in := answer(202, installation("x", &op))
	f := newFake(t, map[string]http.HandlerFunc{
		"POST /groups": answer(201, webGroup()), "PATCH /groups/web": answer(200, webGroup()), "POST /installations": in, "PATCH /installations/acme": in,
	})
	for line, body := range map[string]string{
		"group create web --package workspace@1 --memory 1GiB --cpus 2 --env A=1 --label tier=free --unverifiable move": `{"name":"web","package":"workspace@1","memory_mib":1024,"vcpus":2,"env":{"A":"1"},"labels":{"tier":"free"},"unverifiable":"move"}`,
		"group create web --package workspace": `{"name":"web","package":"workspace"}`,
		"group update web --package workspace@2 --memory 256MiB --env A=1 --unset-env B --label x=y --unset-label z --unverifiable keep": `{"package":"workspace@2","memory_mib":256,"env":{"A":"1","B":null},"labels":{"x":"y","z":null},"unverifiable":"keep"}`,
		"group update web --leave-to-members memory,cpus":                                            `{"memory_mib":0,"vcpus":0}`,
		"installation create acme --owner alice --group web":                                         `{"name":"acme","owner":"alice","group":"web"}`,
		"installation create acme --owner alice --group-match tier=free --group-match a=b":           `{"name":"acme","owner":"alice","group_match":{"tier":"free","a":"b"}}`,
		"installation update acme --group web --from-group package,memory,cpus --from-group package": `{"group":"web","from_group":["package","memory_mib","vcpus"]}`,
		"installation update acme --leave-group --keep-configuration --memory 1GiB":                  `{"group":null,"keep_configuration":true,"memory_mib":1024}`,
		"installation update acme --leave-group":                                                     `{"group":null}`,
		"installation update acme --group-match tier=free":                                           `{"group_match":{"tier":"free"}}`,
	} {
		r := newRun(f.URL)
		require.Equal(t, exitDone, r.line(t, line), r.err)
		all := f.asked()
		require.JSONEq(t, body, all[len(all)-1].body, line)
	}
	r := newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, "group update web --cpus 3"))
	require.Equal(t, "revision 2 is the newest; bring the members there with: cloudctl rollout create web\n", r.err.String())
}

func TestGroupDelete(t *testing.T) {
	t.Parallel()
	gone := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
	f := newFake(t, map[string]http.HandlerFunc{"GET /groups/web": answer(200, webGroup()), "DELETE /groups/" + webGroup().ID: gone})
	r := newRun(f.URL)
	require.Equal(t, exitDone, r.line(t, "group delete web"), r.err)
	require.Equal(t, "deleted web\n", r.out.String())

	f = newFake(t, map[string]http.HandlerFunc{"GET /groups/web": answer(200, webGroup()), "DELETE /groups/" + webGroup().ID: refuse(409, client.KindNotAccepted, "it has members")})
	r = newRun(f.URL)
	require.Equal(t, exitConflict, r.line(t, "group delete web"))
	require.Contains(t, r.err.String(), "cloudctl group get "+webGroup().ID)
}

func TestUsageOfGroups(t *testing.T) {
	t.Parallel()
	f := newFake(t, nil)
	for line, says := range map[string]string{
		"group create web":                                            `"package" not set`,
		"group create web --package p --cpus -1":                      "above 0",
		"group create web --package p --unverifiable never":           "keep or move",
		"group update web":                                            "nothing to change",
		"group update web --leave-to-members disk":                    "memory, cpus or both",
		"group update web --leave-to-members cpus --cpus 2":           "cpus is set too",
		"installation create a --owner o --group g --group-match a=b": "group-match",
		"installation create a --owner o --group-match a":             "write it KEY=VALUE",
		"installation update a --group g --leave-group":               "leave-group",
		"installation update a --keep-configuration":                  "--leave-group",
		"installation update a --group g --keep-configuration":        "--leave-group",
		"installation update a --from-group disk":                     "package, memory or cpus",
		"rollout create web --slots 0":                                "above 0",
		"rollout create web --slots 0%":                               "up to 100",
		"rollout create web --slots ten":                              "a percentage such as 10%",
		"rollout create web --max-failures 101%":                      "up to 100",
		"rollout create web --to 0":                                   "above 0",
		"rollout create web --first-wave -1":                          "above 0",
		"rollout create web --healthy-for -1s":                        "not negative",
		"rollout create web --metric-url http://p --metric-query q":   "needed together",
		"rollout create web --metric-for 1m":                          "needed together",
		"rollout create web --dry-run --wait":                         "dry-run",
		"rollout create web --ring :percent=1":                        "no name",
		"rollout create web --ring a:percent=0":                       "above 0",
		"rollout create web --ring a:percent":                         "none of label=KEY=VALUE",
		"rollout create web --ring a:label=tier":                      "label=KEY=VALUE",
		"rollout create web --ring a:soak=soon":                       "write it as 30m",
		"rollout create web --ring a:owner=b":                         "owner is none of",
		"rollout status " + rolloutA + " --watch --timeout -1s extra": "needs one ID|GROUP",
	} {
		r := newRun(f.URL)
		require.Equal(t, exitUsage, r.line(t, line), "%s: %s", line, r.err)
		require.Contains(t, r.err.String(), says, line)
		require.Len(t, strings.Split(strings.TrimSpace(r.err.String()), "\n"), 2, r.err)
	}
	require.Empty(t, f.asked())
}
