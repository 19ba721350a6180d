package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
)

// drained is a host in the middle of its drain.
func drained() client.Host {
	n := 4
	return client.Host{ID: "h1", Name: "sim-1", Cluster: "local", State: "draining", MemoryMiB: 4096, MemoryHeldMiB: 512, DiskMiB: 20480, DiskHeldMiB: 4096, Installations: &n,
		Drain: &client.Drain{AtOnce: 2, Total: 10, Done: 6, Left: 4, Moving: 1, Waiting: 2, Failed: 1,
			Operation: client.Operation{ID: "op7", Kind: "drain", ResourceType: "host", ResourceID: "h1", ResourceName: "sim-1", State: "active", Step: "move-installations",
				StepNumber: 1, StepsTotal: 1, WaitReason: "waiting-for-moves", WaitDetail: "6 of 10 have left host sim-1", CreatedAt: noon.Add(-time.Minute), StepSince: noon.Add(-time.Minute)},
			Members: []client.DrainMember{
				{InstallationID: "i1", Name: "sick\x1b", State: "stable", Progress: "failed", Failures: 2, Reason: "not-healthy-in-time", Detail: "GET / answers 500"},
				{InstallationID: "i2", Name: "moves", State: "hibernating", Progress: "moving", Busy: "move"},
				{InstallationID: "i3", Name: "busy", State: "update-in-progress", Progress: "waiting", Busy: "update"},
			}}}
}

func hostRoutes() map[string]http.HandlerFunc {
	up := client.Host{ID: "h2", Name: "sim-2", State: "up", MemoryMiB: 4096, DiskMiB: 20480}
	shown := up
	shown.Cluster = "local"
	return map[string]http.HandlerFunc{
		"GET /clusters": answer(200, client.Page[client.Cluster]{Items: []client.Cluster{
			{ID: "c1", Name: "local", Hosts: []client.Host{{ID: "h1", Name: "sim-1"}, up}}, {ID: "c2", Name: "other", Hosts: []client.Host{{ID: "h3", Name: "sim-2"}}}}}),
		"GET /clusters/local":                 answer(200, client.Cluster{ID: "c1", Name: "local", Hosts: []client.Host{{ID: "h1", Name: "sim-1"}, up}}),
		"GET /clusters/c1/hosts":              answer(200, client.Page[client.Host]{Items: []client.Host{drained(), shown}}),
		"GET /clusters/c1/hosts/h1":           answer(200, drained()),
		"GET /clusters/c1/hosts/h2":           answer(200, shown),
		"POST /clusters/c1/hosts/h1/cordon":   answer(200, drained()),
		"POST /clusters/c1/hosts/h2/uncordon": answer(200, shown),
		"POST /clusters/c1/hosts/h1/drain":    answer(202, drained()),
		"DELETE /clusters/c1/hosts/h2":        answer(204, nil),
		"DELETE /clusters/c1/hosts/h1":        refuse(409, client.KindNotAccepted, "host sim-1 is not empty"),
		"GET /operations/op7":                 answer(200, client.Operation{ID: "op7", Kind: "drain", ResourceType: "host", ResourceName: "sim-1", State: "failed", FailReason: "data-cannot-move", Error: "2 stay", Revision: 2}),
		"GET /clusters/c2/hosts":              answer(200, client.Page[client.Host]{}),
		"GET /clusters/elsewhere":             refuse(404, client.KindNotFound, "there is no cluster"),
		"POST /clusters/c2/hosts/h3/uncordon": answer(200, client.Host{Name: "sim-2", Cluster: "other"}),
		"GET /clusters/other":                 answer(200, client.Cluster{ID: "c2", Name: "other", Hosts: []client.Host{{ID: "h3", Name: "sim-2"}}}),
	}
}

func TestHostGoldens(t *testing.T) {
	t.Parallel()
	goldens(t, newFake(t, hostRoutes()), map[string]string{"host-list": "host list", "host-get": "host get sim-1"})
}

func TestHostVerbs(t *testing.T) {
	t.Parallel()
	f := newFake(t, hostRoutes())
	last := func() request { all := f.asked(); return all[len(all)-1] }
	for line, want := range map[string]request{
		"host cordon sim-1":                      {route: "POST /clusters/c1/hosts/h1/cordon"},
		"host uncordon h2":                       {route: "POST /clusters/c1/hosts/h2/uncordon"},
		"host uncordon sim-2 --cluster other":    {route: "POST /clusters/c2/hosts/h3/uncordon"},
		"host drain sim-1":                       {route: "POST /clusters/c1/hosts/h1/drain", body: "{}"},
		"host drain sim-1 --at-once 8":           {route: "POST /clusters/c1/hosts/h1/drain", body: `{"at_once":8}`},
		"host remove sim-2 --cluster local":      {route: "DELETE /clusters/c1/hosts/h2"},
		"host list --cluster local":              {route: "GET /clusters/c1/hosts"},
		"host get sim-2 --cluster local -o json": {route: "GET /clusters/c1/hosts/h2"},
	} {
		r := newRun(f.URL)
		require.Equal(t, exitDone, r.line(t, line), "%s: %s", line, r.err)
		got := last()
		require.Equal(t, want.route, got.route, line)
		if want.body != "" {
			require.JSONEq(t, want.body, got.body)
		}
	}
	for line, want := range map[string]struct {
		code int
		says string
	}{
		"host cordon sim-2":              {exitUsage, "name one of local, other with --cluster"},
		"host cordon nowhere":            {exitNotFound, `there is no host "nowhere"`},
		"host get sim-1 --cluster other": {exitNotFound, `there is no host "sim-1"`},
		"host get x --cluster elsewhere": {exitNotFound, "there is no cluster"},
		"host drain sim-1 --at-once -1":  {exitUsage, "give a number above 0"},
		"host remove sim-1":              {exitConflict, "see its state: cloudctl host list"},
		"host drain sim-1 --wait":        {exitFailed, "see what is left there: cloudctl host get sim-1"},
		"host drain":                     {exitUsage, "HOST"},
	} {
		r := newRun(f.URL)
		require.Equal(t, want.code, r.line(t, line), "%s: %s", line, r.err)
		require.Contains(t, r.err.String(), want.says, line)
	}
	r := newRun(f.URL)
	require.Equal(t, exitFailed, r.line(t, "host drain sim-1 --wait"))
	require.Contains(t, r.out.String(), "6 of 10 done", "the host is shown with what is left")
}
