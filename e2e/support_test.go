package e2e

import (
	"encoding/json"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

// suite is what the tests of this package share. Only TestMain ends it.
var suite = harness.NewSuite()

func TestMain(m *testing.M) { os.Exit(suite.Main(m)) }

// Deadlines for conditions: a cold boot takes seconds, and minutes where the
// machine has to do ten of them at once.
const (
	soon = 30 * time.Second
	late = 6 * time.Minute
	tick = 50 * time.Millisecond
)

// info is what the workspace's /api/info answers.
type info struct {
	Version  string    `json:"version"`
	Greeting string    `json:"greeting"`
	Hostname string    `json:"hostname"`
	BootedAt time.Time `json:"booted_at"`
}

// ctl runs cloudctl, which must do what it is asked.
func ctl(t *testing.T, e *harness.Environment, args ...string) harness.Result {
	t.Helper()
	r := e.Cloudctl(t.Context(), args...)
	require.Zero(t, r.Code, "%s", r)
	return r
}

// installation runs cloudctl and reads the installation that it prints.
func installation(t *testing.T, e *harness.Environment, args ...string) client.Installation {
	t.Helper()
	r := ctl(t, e, append([]string{"-o", "json", "installation"}, args...)...)
	return decoded[client.Installation](t, r.Stdout)
}

func decoded[T any](t *testing.T, text string) T {
	t.Helper()
	var out T
	require.NoError(t, json.Unmarshal([]byte(text), &out), "%s", text)
	return out
}

// upload makes a package, of a directory or of what else the arguments name, and
// returns its name@version.
func upload(t *testing.T, e *harness.Environment, source ...string) string {
	t.Helper()
	p := decoded[client.Package](t, ctl(t, e, append([]string{"-o", "json", "package", "create"}, source...)...).Stdout)
	require.NotEmpty(t, p.ID)
	require.Len(t, p.Digest, 64)
	return p.Name + "@" + p.Version
}

// visit decodes what an installation answers, which must be 200.
func visit[T any](t *testing.T, e *harness.Environment, name, path string) T {
	t.Helper()
	var out T
	a, err := e.Visit(t.Context(), name, "GET", path, "")
	require.NoError(t, err)
	require.Equal(t, 200, a.Status, "%s", a.Body)
	require.NoError(t, a.Decode(&out))
	return out
}

// addNote writes a note, and requireNote sees that it is there.
func addNote(t *testing.T, e *harness.Environment, name, text string) {
	t.Helper()
	a, err := e.Visit(t.Context(), name, "POST", "/api/notes", `{"text": "`+text+`"}`)
	require.NoError(t, err)
	require.Equal(t, 201, a.Status, "%s", a.Body)
}

func requireNote(t *testing.T, e *harness.Environment, name, text string) {
	t.Helper()
	var texts []string
	for _, n := range visit[[]struct{ Text string }](t, e, name, "/api/notes") {
		texts = append(texts, n.Text)
	}
	require.Contains(t, texts, text)
}

// requireGone sees, from outside, that nothing of a deleted installation is left.
func requireGone(t *testing.T, e *harness.Environment, in client.Installation) {
	t.Helper()
	_, err := e.Client.Installations.Get(t.Context(), in.Name)
	require.True(t, client.IsNotFound(err), "the name is still known: %v", err)
	instances, err := e.Query(t.Context(), "SELECT id FROM instance WHERE installation_id = '"+in.ID+"'")
	require.NoError(t, err)
	volumes, err := e.Query(t.Context(), "SELECT id FROM volume WHERE installation_id = '"+in.ID+"'")
	require.NoError(t, err)
	for _, table := range []string{"instance", "volume", "address_lease"} {
		where := " WHERE installation_id = '" + in.ID + "'"
		if table != "address_lease" {
			where += " AND deleted_at IS NULL"
		}
		rows, err := e.Query(t.Context(), "SELECT id FROM "+table+where)
		require.NoError(t, err)
		require.Empty(t, rows, "live rows of %s", table)
	}
	for _, row := range instances {
		require.Empty(t, e.MachinesOf(row[0]))
		require.NotContains(t, e.Files("host", "instances"), row[0])
	}
	for _, row := range volumes {
		require.NotContains(t, e.Files("host", "volumes"), row[0]+".raw")
	}
}

// requireTaps sees that there are as many taps as running machines, once things are at rest.
func requireTaps(t *testing.T, e *harness.Environment) {
	t.Helper()
	require.Eventually(t, func() bool {
		taps, err := e.Taps(t.Context())
		return err == nil && len(taps) == len(e.Machines())
	}, soon, tick, "a tap without a machine")
}

func itoa(n int) string { return strconv.Itoa(n) }
