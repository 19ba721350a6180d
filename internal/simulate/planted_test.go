package simulate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
	"dormouse/internal/pgtest"
	"dormouse/internal/store"
)

// bug is something that is wrong on purpose.
type bug struct {
	name string
	// finds are the invariants that may find it.
	finds    []string
	store    func(*simulation, *store.Store) backend
	provider func(*simulation, provider) provider
	// sql makes it in the database, and undo takes it back.
	sql, undo string
}

// plantedBugs are what TestPlantedBugs must find, one by one. None is in the product's code.
func plantedBugs() []bug {
	return []bug{
		{name: "lost fence: a commit carries whatever epoch the operation has now", finds: []string{"NoStaleWrite"},
			store: func(s *simulation, st *store.Store) backend { return &noFence{st} }},
		{name: "lost fence: a claim does not raise the epoch", finds: []string{"NoStaleWrite"},
			sql: `CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF OLD.epoch > 0 THEN NEW.epoch := OLD.epoch; END IF; RETURN NEW; END $$;
				CREATE TRIGGER planted BEFORE UPDATE ON operation FOR EACH ROW EXECUTE FUNCTION planted()`,
			undo: `DROP TRIGGER planted ON operation; DROP FUNCTION planted`},
		{name: "lost fence: calls carry an epoch above all", finds: []string{"NoFencedEffect", "OneServingMachine"},
			provider: func(_ *simulation, p provider) provider { return &unfenced{provider: p, top: map[string]fleet.Epoch{}} }},
		{name: "lost event", finds: []string{"EventsChain"},
			sql: `CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF NEW.id % 97 = 0 THEN RETURN NULL; END IF; RETURN NEW; END $$;
				CREATE TRIGGER planted BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION planted()`,
			undo: `DROP TRIGGER planted ON event; DROP FUNCTION planted`},
		{name: "event written twice", finds: []string{"EventsChain"},
			sql: `CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF NEW.id % 97 = 0 THEN INSERT INTO event (kind, resource_type, resource_id, owner, operation_id, data)
					VALUES (NEW.kind, NEW.resource_type, NEW.resource_id, NEW.owner, NEW.operation_id, NEW.data); END IF; RETURN NULL; END $$;
				CREATE TRIGGER planted AFTER INSERT ON event FOR EACH ROW EXECUTE FUNCTION planted()`,
			undo: `DROP TRIGGER planted ON event; DROP FUNCTION planted`},
		{name: "double create: a second machine under another ID", finds: []string{"OneServingMachine"},
			provider: func(s *simulation, p provider) provider { return &twice{provider: p, s: s} }},
		{name: "skipped check: a machine counts as off when it was told to stop", finds: []string{"OneServingMachine"},
			provider: func(_ *simulation, p provider) provider { return hasty{p} }},
		{name: "lost patch", finds: []string{"NoChangeLost"},
			store: func(s *simulation, st *store.Store) backend { return &forgetful{st, s} }},
		{name: "lost create: acknowledged and not there", finds: []string{"NoChangeLost"},
			store: func(s *simulation, st *store.Store) backend { return &losesCreates{st, s} }},
		{name: "forgotten hold: a deletion gives no capacity back", finds: []string{"DeletedHoldsNothing", "CapacityIsSumOfHolds"},
			store: func(_ *simulation, st *store.Store) backend { return &holdsOn{st} }},
		{name: "a move that keeps what it held on the other host", finds: []string{"CapacityIsSumOfHolds"},
			store: func(_ *simulation, st *store.Store) backend { return &keepsReservation{st} }},
		{name: "a move whose commit is sent again goes back by half", finds: []string{"RowsAgree", "LeasesOnce", "Quiescence"},
			store: func(s *simulation, st *store.Store) backend { return &swapsAgain{st, s} }},
		{name: "stray that no list shows", finds: []string{"NoStray", "OneServingMachine"},
			provider: func(s *simulation, p provider) provider {
				return &hides{provider: p, s: s, hidden: map[fleet.InstanceID]bool{}}
			}},
		{name: "idempotency keys are not looked at", finds: []string{"RepliesEqual", "NoChangeLost"},
			store: func(_ *simulation, st *store.Store) backend { return keyless{st} }},
		{name: "address given twice", finds: []string{"AddressUsedByOne"},
			store: func(s *simulation, st *store.Store) backend { return &doublesAddresses{st, s} }},
		{name: "a lease that does not end", finds: []string{"Quiescence"},
			store: func(_ *simulation, st *store.Store) backend { return &endlessLease{st} }},
		{name: "a state that goes backward", finds: []string{"EventsChain", "Explained", "NoChangeLost"},
			sql: `CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF NEW.state = 'hibernating' AND NEW.version % 5 = 0 THEN NEW.state := OLD.state; END IF; RETURN NEW; END $$;
				CREATE TRIGGER planted BEFORE UPDATE ON installation FOR EACH ROW EXECUTE FUNCTION planted()`,
			undo: `DROP TRIGGER planted ON installation; DROP FUNCTION planted`},
		{name: "what became of the last members of a rollout is lost", finds: []string{"EndedRolloutRests"},
			sql: `CREATE FUNCTION planted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				IF EXISTS (SELECT FROM rollout WHERE id = NEW.rollout_id AND finished_at IS NOT NULL) THEN RETURN NULL; END IF; RETURN NEW; END $$;
				CREATE TRIGGER planted BEFORE UPDATE ON rollout_member FOR EACH ROW EXECUTE FUNCTION planted()`,
			undo: `DROP TRIGGER planted ON rollout_member; DROP FUNCTION planted`},
	}
}

var smallSize = size{installations: 20, operations: 120, crashes: 6}

func TestPlantedBugs(t *testing.T) {
	db := openDatabase(t, pgtest.NewMigrated(t, migrate))
	for _, b := range plantedBugs() {
		t.Run(b.name, func(t *testing.T) {
			began := time.Now()
			if b.sql != "" {
				_, err := db.admin.Exec(b.sql)
				require.NoError(t, err)
				defer func() {
					_, err := db.admin.Exec(b.undo)
					require.NoError(t, err)
				}()
			}
			for n := 1; n <= 100; n++ {
				out := runSeed(t, db, uint64(n), options{size: smallSize, bug: &b})
				if len(out.violations) == 0 {
					continue
				}
				found := out.violations[0]
				fmt.Printf("found in seed %d after %v by %s: %s (%.150s)\n", n, time.Since(began).Round(10*time.Millisecond), found.Invariant, b.name, found.Detail)
				require.Contains(t, b.finds, found.Invariant, found.Detail)
				return
			}
			require.Fail(t, "100 seeds did not find it")
		})
	}
}

type noFence struct{ *store.Store }

func (b *noFence) Commit(ctx context.Context, results []fleet.Result) ([]fleet.Committed, error) {
	results = slices.Clone(results)
	for i := range results {
		if op, err := b.Operation(ctx, results[i].OperationID); err == nil {
			results[i].Epoch = op.Epoch
		}
	}
	return b.Store.Commit(ctx, results)
}

type unfenced struct {
	provider
	mu  sync.Mutex
	top map[string]fleet.Epoch
}

func (b *unfenced) raise(id string, epoch fleet.Epoch) fleet.Epoch {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.top[id] = max(b.top[id], epoch)
	return b.top[id]
}

func (b *unfenced) Ensure(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	spec.Epoch = b.raise(string(spec.ID), spec.Epoch)
	return b.provider.Ensure(ctx, spec)
}

func (b *unfenced) Power(ctx context.Context, ref fleet.InstanceRef, want fleet.Power) (fleet.InstanceStatus, error) {
	ref.Epoch = b.raise(string(ref.ID), ref.Epoch)
	return b.provider.Power(ctx, ref, want)
}

func (b *unfenced) Delete(ctx context.Context, ref fleet.InstanceRef) error {
	ref.Epoch = b.raise(string(ref.ID), ref.Epoch)
	return b.provider.Delete(ctx, ref)
}

type twice struct {
	provider
	s *simulation
}

func (b *twice) Ensure(ctx context.Context, spec fleet.InstanceSpec) (fleet.InstanceStatus, error) {
	if spec.Volume == nil && b.s.hash("twice", string(spec.ID)) < 0.05 {
		other := spec
		other.ID = fleet.InstanceID(fleet.DeriveID(string(spec.ID), "twice"))
		_, _ = b.provider.Ensure(ctx, other)
	}
	return b.provider.Ensure(ctx, spec)
}

// hasty believes that what stops is off.
type hasty struct{ provider }

func (b hasty) Power(ctx context.Context, ref fleet.InstanceRef, want fleet.Power) (fleet.InstanceStatus, error) {
	st, err := b.provider.Power(ctx, ref, want)
	if want == fleet.PowerOff && st.Power == fleet.PowerPending {
		st.Power = fleet.PowerOff
	}
	return st, err
}

type forgetful struct {
	*store.Store
	s *simulation
}

func (b *forgetful) ChangeInstallation(ctx context.Context, in fleet.Change) (fleet.Accepted, error) {
	if len(in.Env) > 0 && b.s.hash("forget", in.Key.Key) < 0.03 {
		in.Env = nil
	}
	return b.Store.ChangeInstallation(ctx, in)
}

type losesCreates struct {
	*store.Store
	s *simulation
}

func (b *losesCreates) CreateInstallation(ctx context.Context, in fleet.NewInstallation) (fleet.Accepted, error) {
	acc, err := b.Store.CreateInstallation(ctx, in)
	if err == nil && !acc.Replayed && b.s.hash("lose", in.Key.Key) < 0.05 {
		for _, undo := range []string{`DELETE FROM installation WHERE id = $1`, `DELETE FROM operation WHERE resource_id = $1`, `DELETE FROM event WHERE resource_id = $1`} {
			if _, err := b.s.db.admin.Exec(undo, in.ID); err != nil {
				return acc, err
			}
		}
	}
	return acc, err
}

type holdsOn struct{ *store.Store }

func (b *holdsOn) Commit(ctx context.Context, results []fleet.Result) ([]fleet.Committed, error) {
	results = slices.Clone(results)
	for i := range results {
		if results[i].To == string(fleet.StateDeleted) {
			results[i].Changes.Hold = nil
		}
	}
	return b.Store.Commit(ctx, results)
}

type keepsReservation struct{ *store.Store }

func (b *keepsReservation) Commit(ctx context.Context, results []fleet.Result) ([]fleet.Committed, error) {
	results = slices.Clone(results)
	for i := range results {
		if r := results[i].Changes.Reserve; r != nil && r.HostID == "" {
			results[i].Changes.Reserve = nil
		}
	}
	return b.Store.Commit(ctx, results)
}

// swapsAgain has some moves held where their data no longer are.
type swapsAgain struct {
	*store.Store
	s *simulation
}

const swapAgainSQL = `UPDATE installation SET held_host_id = reserved_host_id, held_memory_mib = reserved_memory_mib, held_disk_mib = reserved_disk_mib,
	reserved_host_id = held_host_id, reserved_memory_mib = held_memory_mib, reserved_disk_mib = held_disk_mib WHERE id = $1 AND reserved_host_id <> ''`

func (b *swapsAgain) Commit(ctx context.Context, results []fleet.Result) ([]fleet.Committed, error) {
	out, err := b.Store.Commit(ctx, results)
	for i := range out {
		if r := results[i]; r.Changes.HoldOn != "" && !out[i].Stale && b.s.hash("again", string(r.OperationID)) < 0.5 {
			if _, err := b.s.db.admin.Exec(swapAgainSQL, r.InstallationID); err != nil {
				return out, err
			}
		}
	}
	return out, err
}

// hides leaves some machines that it was to delete, and does not list them.
type hides struct {
	provider
	s      *simulation
	mu     sync.Mutex
	hidden map[fleet.InstanceID]bool
}

func (b *hides) Delete(ctx context.Context, ref fleet.InstanceRef) error {
	if b.s.hash("hide", string(ref.ID)) < 0.05 {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.hidden[ref.ID] = true
		return nil
	}
	return b.provider.Delete(ctx, ref)
}

func (b *hides) List(ctx context.Context, cluster fleet.ClusterID, after string) ([]fleet.InstanceStatus, string, error) {
	page, next, err := b.provider.List(ctx, cluster, after)
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(page, func(st fleet.InstanceStatus) bool { return b.hidden[st.ID] }), next, err
}

type keyless struct{ *store.Store }

func (b keyless) ChangeInstallation(ctx context.Context, in fleet.Change) (fleet.Accepted, error) {
	in.Key = fleet.IdempotencyKey{}
	return b.Store.ChangeInstallation(ctx, in)
}

// doublesAddresses says of some addresses that they are the last one's that was given.
type doublesAddresses struct {
	*store.Store
	s *simulation
}

func (b *doublesAddresses) Commit(ctx context.Context, results []fleet.Result) ([]fleet.Committed, error) {
	out, err := b.Store.Commit(ctx, results)
	for i := range out {
		if l := out[i].Lease; l != nil && b.s.hash("double", string(l.InstallationID), string(out[i].OperationID)) < 0.3 {
			changed := *l
			changed.Address = "10.70.0.9"
			out[i].Lease = &changed
		}
	}
	return out, err
}

type endlessLease struct{ *store.Store }

func (b *endlessLease) Claim(ctx context.Context, in fleet.ClaimRequest) ([]fleet.Snapshot, error) {
	in.Lease = 1000 * time.Hour
	return b.Store.Claim(ctx, in)
}

func (b *endlessLease) Extend(_ context.Context, held map[fleet.OperationID]fleet.Epoch, _ time.Duration) (map[fleet.OperationID]bool, error) {
	still := map[fleet.OperationID]bool{}
	for id := range maps.Keys(held) {
		still[id] = true
	}
	return still, nil
}
