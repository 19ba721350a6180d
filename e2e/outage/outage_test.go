package outage

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// suite is what this package's one test uses. Only TestMain ends it.
var suite = harness.NewSuite()

func TestMain(m *testing.M) { os.Exit(suite.Main(m)) }

// Deadlines for conditions.
const (
	soon = time.Minute
	late = 6 * time.Minute
	tick = 50 * time.Millisecond
)

func contains(err error, words string) bool { return strings.Contains(err.Error(), words) }

func TestOutage(t *testing.T) {
	length := 20 * time.Second
	if text := os.Getenv("DORMOUSE_OUTAGE"); text != "" {
		var err error
		length, err = time.ParseDuration(text)
		require.NoError(t, err, "DORMOUSE_OUTAGE")
	}
	pg := newPostgres(t)
	e := suite.Own(t, harness.Options{Database: pg.url()})
	require.NoError(t, e.Migrate(t.Context()))
	require.NoError(t, e.Start(t.Context()))
	require.NoError(t, e.CreateCluster(t.Context()))
	x := &scene{t: t, env: e, booted: map[string]time.Time{}}
	x.upload()
	names := []string{"runner", "early", "late"}
	for _, name := range names {
		x.create(name)
	}
	for _, name := range names[1:] {
		x.hibernate(name)
	}

	v := &visitor{env: e, name: "runner"}
	visiting, leave := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		v.visit(visiting)
	}()
	pg.stop(t)
	began := time.Now()
	require.Eventually(t, func() bool { return e.Client.Ready(t.Context()) != nil }, soon, tick, "the API notices")
	early := x.wake("early")

	v.restart(true)
	require.NoError(t, e.End(syscall.SIGTERM), "it ends without a database too")
	require.NoError(t, e.Launch())
	require.NoError(t, e.AwaitAnswer(t.Context(), "runner", "/api/info", nil), "from its own copy of the routes")
	v.restart(false)
	x.same("early")
	lateWake := x.wake("late")
	require.Error(t, e.Client.Ready(t.Context()), "there is no control plane meanwhile")

	select { // the rest of the outage passes while somebody visits
	case <-time.After(length - time.Since(began)):
	case <-t.Context().Done():
	}
	for _, name := range names {
		x.same(name)
	}
	pg.start(t)
	away := time.Since(began)
	back := time.Now()
	require.NoError(t, e.AwaitReady(t.Context()))
	for _, name := range names {
		x.await(name, "stable")
		require.Len(t, e.MachinesOf(x.get(name).Instance.ID), 1)
	}
	reconciled := time.Since(back)
	for _, name := range names {
		x.same(name)
	}
	x.hibernate("late")
	if length >= time.Minute { // who has no time for it is not made to wait for minutes either
		x.idleAgain("early")
	}
	leave()
	<-left

	fmt.Printf("outage.away %.0f s\noutage.visits %d requests\noutage.failed %d requests\noutage.refused_while_restarted %d requests\noutage.gap_max %.2f s\n",
		away.Seconds(), v.visits, len(v.failed), v.refused, v.gap.Seconds())
	fmt.Printf("outage.wake_without_database %.2f s\noutage.wake_after_restart %.2f s\noutage.reconciled %.2f s\n", early.Seconds(), lateWake.Seconds(), reconciled.Seconds())
	require.Empty(t, v.failed, "the tenant that runs is served all the time")
	for _, name := range names {
		x.delete(name)
	}
	require.Empty(t, e.Machines())
}

// scene asks for things and looks at them.
type scene struct {
	t      *testing.T
	env    *harness.Environment
	pkg    string
	booted map[string]time.Time
}

func (x *scene) upload() {
	r := x.env.Cloudctl(x.t.Context(), "-o", "json", "package", "create", suite.Workspace(x.t, "1.0.0"))
	require.Zero(x.t, r.Code, "%s", r)
	var p client.Package
	require.NoError(x.t, json.Unmarshal([]byte(r.Stdout), &p))
	x.pkg = p.Name + "@" + p.Version
}

func (x *scene) follow(in client.Installation, err error) {
	x.t.Helper()
	require.NoError(x.t, err)
	op, err := x.env.Client.Operations.Follow(x.t.Context(), in.Operation.ID, nil)
	require.NoError(x.t, err)
	require.Equal(x.t, "succeeded", op.State, "%+v", op)
}

// create makes an installation and leaves a note in it.
func (x *scene) create(name string) {
	x.t.Helper()
	x.follow(x.env.Client.Installations.Create(x.t.Context(), client.CreateInstallation{Name: name, Owner: "outage", Package: x.pkg, Cluster: harness.Cluster, MemoryMiB: 128, DiskMiB: 32}))
	a, err := x.env.Visit(x.t.Context(), name, "POST", "/api/notes", fmt.Sprintf(`{"text": "of %s"}`, name))
	require.NoError(x.t, err)
	require.Equal(x.t, 201, a.Status, "%s", a.Body)
	x.booted[name] = x.info(name)
}

func (x *scene) hibernate(name string) {
	x.t.Helper()
	x.follow(x.env.Client.Installations.Hibernate(x.t.Context(), name))
	x.await(name, "hibernating")
	require.Empty(x.t, x.env.MachinesOf(x.get(name).Instance.ID))
}

func (x *scene) delete(name string) {
	x.t.Helper()
	in, err := x.env.Client.Installations.Delete(x.t.Context(), name)
	require.NoError(x.t, err)
	_, err = x.env.Client.Operations.Follow(x.t.Context(), in.Operation.ID, nil)
	require.NoError(x.t, err)
}

func (x *scene) get(name string) client.Installation {
	x.t.Helper()
	in, err := x.env.Client.Installations.Get(x.t.Context(), name)
	require.NoError(x.t, err)
	return in
}

func (x *scene) await(name, state string) {
	x.t.Helper()
	var in client.Installation
	require.Eventually(x.t, func() bool {
		var err error
		in, err = x.env.Client.Installations.Get(x.t.Context(), name)
		return err == nil && in.State == state
	}, late, tick, "%s becomes %s: %+v", name, state, &in)
}

// info tells when the program began, from one visit.
func (x *scene) info(name string) time.Time {
	x.t.Helper()
	a, err := x.env.Visit(x.t.Context(), name, "GET", "/api/info", "")
	require.NoError(x.t, err)
	require.Equal(x.t, 200, a.Status, "%s: %s", name, a.Body)
	var info struct {
		BootedAt time.Time `json:"booted_at"`
	}
	require.NoError(x.t, a.Decode(&info))
	return info.BootedAt
}

// same sees that a tenant answers, with its memory and its note.
func (x *scene) same(name string) {
	x.t.Helper()
	require.Equal(x.t, x.booted[name], x.info(name), "%s has been booted", name)
	a, err := x.env.Visit(x.t.Context(), name, "GET", "/api/notes", "")
	require.NoError(x.t, err)
	require.Contains(x.t, a.Body, "of "+name)
}

// wake visits a sleeper, which answers where it was.
func (x *scene) wake(name string) time.Duration {
	x.t.Helper()
	began := time.Now()
	x.info(name)
	took := time.Since(began)
	x.same(name)
	return took
}

// idleAgain sees that the idle policy is followed as before, which takes a minute or two.
func (x *scene) idleAgain(name string) {
	x.t.Helper()
	seconds := 60
	_, err := x.env.Client.Installations.Update(x.t.Context(), name, client.UpdateInstallation{Idle: &client.UpdateIdlePolicy{IdleAfterSeconds: &seconds}})
	require.NoError(x.t, err)
	x.await(name, "hibernating")
	x.wake(name)
	x.await(name, "stable")
}
