package kvm

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

func requireFenced(t *testing.T, err error) {
	t.Helper()
	require.Equal(t, fleet.KindFenced, fleet.KindOf(err), "%v", err)
}

func TestFencing(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.spec("serve")
	s.ensure(spec)
	lower := func() {
		t.Helper()
		old := spec
		old.Epoch--
		_, err := s.Ensure(t.Context(), old)
		requireFenced(t, err)
		_, err = s.Power(t.Context(), ref(old), fleet.PowerOff)
		if fleet.KindOf(err) != fleet.KindNotFound {
			requireFenced(t, err)
		}
		requireFenced(t, s.Delete(t.Context(), ref(old)))
	}
	lower()
	s.reopen()
	lower()
	spec.Epoch = 9
	_, err := s.Power(t.Context(), ref(spec), fleet.PowerOn)
	require.NoError(t, err)
	lower()
	require.Equal(t, fleet.Epoch(9), s.journalled(spec).Epoch)
	require.NoError(t, s.Delete(t.Context(), ref(spec)))
	lower()
	s.reopen()
	lower()

	// The same epoch may make it again, and a delete of what is gone fences too.
	s.ensure(spec)
	s.await(spec, healthy)
	require.NoError(t, s.Delete(t.Context(), ref(spec)))
	spec.Epoch = 12
	require.NoError(t, s.Delete(t.Context(), ref(spec)))
	lower()
}

func TestTombstonesAreForgottenInTime(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	spec := s.spec("serve")
	require.NoError(t, s.Delete(t.Context(), ref(spec)))
	s.reopen()
	require.FileExists(t, s.instanceJournal.path(string(spec.ID)))
	s.o.Clock = func() time.Time { return time.Now().Add(tombstoneAge + time.Hour) }
	s.reopen()
	require.NoFileExists(t, s.instanceJournal.path(string(spec.ID)))
}

func TestJournal(t *testing.T) {
	t.Parallel()
	j, err := openJournal(filepath.Join(t.TempDir(), "journal"))
	require.NoError(t, err)
	spec := &fleet.InstanceSpec{ID: "a", Env: map[string]string{"SECRET": "x"}}
	rec := instanceRecord{Version: journalVersion, ID: "a", Epoch: 7, Spec: spec, Want: fleet.PowerOn, Process: &process{PID: 1, StartTicks: 2}}
	require.NoError(t, j.save("a", rec))
	info, err := os.Stat(j.path("a"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm(), "it holds secrets")
	require.NoFileExists(t, j.path("a")+tempSuffix)
	var ids []string
	require.NoError(t, j.each(func(id string, body []byte) error {
		ids = append(ids, id)
		got, err := decodeInstance(id, body)
		require.NoError(t, err)
		require.Equal(t, rec, got)
		return nil
	}))
	require.Equal(t, []string{"a"}, ids)
	require.NoError(t, j.remove("a"))
	require.NoError(t, j.remove("a"))

	for body, complaint := range map[string]string{
		`{`:                             "unexpected end",
		`{"version": 2, "id": "a"}`:     "run the newer program",
		`{"version": 1, "id": "other"}`: "belongs to",
		`{"version": 1, "id": "a"}`:     "no spec",
	} {
		_, err := decodeInstance("a", []byte(body))
		require.ErrorContains(t, err, complaint)
	}
}

func TestUIDs(t *testing.T) {
	t.Parallel()
	u := newUIDs(1000, 3)
	require.True(t, u.keep(1001, "b"))
	require.True(t, u.keep(1001, "b"))
	require.False(t, u.keep(1001, "c"), "one user, one instance")
	require.False(t, u.keep(999, "c"))
	require.False(t, u.keep(0, "c"))
	a, err := u.take("a")
	require.NoError(t, err)
	c, err := u.take("c")
	require.NoError(t, err)
	require.Equal(t, []int{1000, 1002}, []int{a, c})
	_, err = u.take("d")
	require.Equal(t, fleet.KindCapacity, fleet.KindOf(err))
	u.release(1001)
	d, err := u.take("d")
	require.NoError(t, err)
	require.Equal(t, 1001, d)

	none := newUIDs(0, 0)
	require.True(t, none.keep(0, "a"))
	require.False(t, none.keep(5, "a"))
	uid, err := none.take("a")
	require.NoError(t, err)
	require.Zero(t, uid)
}

func TestFailedCreationLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	volumeless := s.spec("serve")
	volumeless.Volume = &fleet.VolumeRef{ID: fleet.VolumeID(fleet.NewID())}
	for _, spec := range []fleet.InstanceSpec{s.spec("absent"), volumeless} {
		_, err := s.Ensure(t.Context(), spec)
		require.Equal(t, fleet.KindNotFound, fleet.KindOf(err), "%v", err)
		_, err = s.Observe(t.Context(), ref(spec))
		require.Equal(t, fleet.KindNotFound, fleet.KindOf(err))
	}
	for _, bad := range []func(*fleet.InstanceSpec){
		func(spec *fleet.InstanceSpec) { spec.ID = "../x" },
		func(spec *fleet.InstanceSpec) { spec.MemoryMiB = 0 },
		func(spec *fleet.InstanceSpec) { spec.Image = "" },
		func(spec *fleet.InstanceSpec) { spec.Volume = &fleet.VolumeRef{ID: "../x"} },
	} {
		spec := s.spec("serve")
		bad(&spec)
		_, err := s.Ensure(t.Context(), spec)
		require.Equal(t, fleet.KindInvalid, fleet.KindOf(err), "%v", err)
	}
	requireEmpty(t, s)
}

// requireEmpty checks that nothing but tombstones is left.
func requireEmpty(t *testing.T, s *stage) {
	t.Helper()
	for _, dir := range []string{s.instanceDir, s.volumeDir} {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, entries)
	}
	page, _, err := s.List(t.Context(), "cluster", "")
	require.NoError(t, err)
	require.Empty(t, page)
	ports, err := s.net.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, ports)
	require.NoError(t, s.instanceJournal.each(func(id string, body []byte) error {
		rec, err := decodeInstance(id, body)
		require.NoError(t, err)
		require.False(t, rec.DeletedAt.IsZero())
		return nil
	}))
}

func TestListPages(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	want := map[fleet.InstanceID]bool{}
	for range listPage + 3 {
		spec := s.spec("x")
		i := s.instance(spec.ID)
		i.rec.Spec = &spec
		want[spec.ID] = true
	}
	other := s.spec("x")
	other.ClusterID = "other"
	s.instance(other.ID).rec.Spec = &other
	var pages int
	for after := ""; ; {
		page, next, err := s.List(t.Context(), "cluster", after)
		require.NoError(t, err)
		pages++
		for _, st := range page {
			require.True(t, want[st.ID], "listed once, and of this cluster")
			delete(want, st.ID)
		}
		if next == "" {
			break
		}
		after = next
	}
	require.Empty(t, want)
	require.Equal(t, 2, pages)
}
