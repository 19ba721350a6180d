package api

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"dormouse/internal/fleet"
)

// epochTime is when everything in these tests happens.
var epochTime = time.Date(2026, 5, 4, 10, 0, 0, 0, time.UTC)

// fakeStore keeps everything in memory. It decides by the same tables as the
// real store, and can be told to fail.
type fakeStore struct {
	mu            sync.Mutex
	installations map[fleet.InstallationID]*fleet.InstallationView
	clusters      map[fleet.ClusterID]*fleet.ClusterView
	packages      map[fleet.PackageID]fleet.Package
	operations    map[fleet.OperationID]*fleet.Operation
	groups        map[fleet.GroupID]*fakeGroup
	rollouts      map[fleet.RolloutID]*fleet.RolloutView
	members       map[fleet.RolloutID][]fleet.RolloutMember
	keys          map[string]usedKey
	// fail is returned by every method while it is set.
	fail error
	// read is told of every read of an operation or a rollout.
	read func()
	// meddle is what somebody else does to a group just before it is changed.
	meddle func(*fakeGroup)
	// lying are the installations on the one host that there is.
	instances []fleet.InstanceView
	lying     []fleet.DrainMember
	// created, changed, begun, controlled, hosted and checked are the last requests.
	created    fleet.NewInstallation
	changed    fleet.Change
	begun      fleet.NewRollout
	controlled fleet.RolloutControl
	hosted     fleet.HostControl
	checked    fleet.CheckCluster
}

type usedKey struct {
	hash      string
	operation fleet.OperationID
}

func newFakeStore() *fakeStore {
	return &fakeStore{
		installations: map[fleet.InstallationID]*fleet.InstallationView{},
		clusters:      map[fleet.ClusterID]*fleet.ClusterView{},
		packages:      map[fleet.PackageID]fleet.Package{},
		operations:    map[fleet.OperationID]*fleet.Operation{},
		groups:        map[fleet.GroupID]*fakeGroup{},
		rollouts:      map[fleet.RolloutID]*fleet.RolloutView{},
		members:       map[fleet.RolloutID][]fleet.RolloutMember{},
		keys:          map[string]usedKey{},
		read:          func() {},
		meddle:        func(*fakeGroup) {},
	}
}

func (f *fakeStore) lock() (func(), error) {
	f.mu.Lock()
	return f.mu.Unlock, f.fail
}

// setFail makes every method fail with err, or work again.
func (f *fakeStore) setFail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func (f *fakeStore) operation(id fleet.OperationID, kind fleet.OperationKind, typ fleet.ResourceType, resource, name string) *fleet.Operation {
	op := &fleet.Operation{
		ID: id, Kind: kind, ResourceType: typ, ResourceID: resource, ResourceName: name,
		State: fleet.OperationActive, Step: "resolve", StepNumber: 1, StepsTotal: 6,
		StepSince: epochTime, DueAt: epochTime.Add(time.Second), CreatedAt: epochTime, Revision: 1,
		Steps: []fleet.StepDone{},
	}
	f.operations[id] = op
	return op
}

// replay finds what a key was used for.
func (f *fakeStore) replay(key fleet.IdempotencyKey) (*fleet.Operation, error) {
	used, ok := f.keys[key.Key]
	if key.Key == "" || !ok {
		return nil, nil
	}
	if used.hash != key.RequestHash {
		return nil, fleet.Errorf(fleet.KindConflict, "the Idempotency-Key was used for another request")
	}
	return f.operations[used.operation], nil
}

func (f *fakeStore) remember(key fleet.IdempotencyKey, id fleet.OperationID) {
	if key.Key != "" {
		f.keys[key.Key] = usedKey{key.RequestHash, id}
	}
}

func (f *fakeStore) find(idOrName string) *fleet.InstallationView {
	for _, v := range f.installations {
		if string(v.ID) == idOrName || v.Name == idOrName && v.State != fleet.StateDeleted {
			return v
		}
	}
	return nil
}

func (f *fakeStore) CreateInstallation(_ context.Context, in NewInstallation) (Accepted, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return Accepted{}, err
	}
	f.created = in
	op, err := f.replay(in.Key)
	if err != nil {
		return Accepted{}, err
	}
	if op != nil {
		return Accepted{Installation: *f.installations[fleet.InstallationID(op.ResourceID)], Operation: *op, Replayed: true}, nil
	}
	if f.find(in.Name) != nil {
		return Accepted{}, fleet.Errorf(fleet.KindConflict, "an installation named %q exists already", in.Name)
	}
	v := &fleet.InstallationView{
		Installation: fleet.Installation{
			ID: in.ID, Owner: in.Owner, Name: in.Name, State: fleet.StateCreationRequested, Generation: 1, Version: 1,
			MemoryMiB: in.MemoryMiB, DiskMiB: in.DiskMiB, VCPUs: in.VCPUs, Env: in.Env, Secrets: in.Secrets, Labels: in.Labels,
			WhenFull: in.WhenFull, DNSNames: in.DNSNames, Idle: in.Idle, Wake: in.Wake, CreatedAt: epochTime, UpdatedAt: epochTime,
		},
		ClusterName: "local", PackageRef: in.PackageRef,
		Ports: []fleet.Port{{Number: 8080, Protocol: fleet.ProtocolHTTP, Name: "web"}},
	}
	if in.Group.Join != "" || len(in.Group.Match) > 0 {
		if err := f.enter(v, in.Group, fleet.Own{MemoryMiB: in.MemoryMiB, VCPUs: in.VCPUs, Env: in.Env}); err != nil {
			return Accepted{}, err
		}
	}
	op = f.operation(in.OperationID, fleet.OperationCreate, fleet.ResourceInstallation, string(in.ID), in.Name)
	v.Operation = op
	f.installations[in.ID] = v
	f.remember(in.Key, op.ID)
	return Accepted{Installation: *v, Operation: *op}, nil
}

func (f *fakeStore) ChangeInstallation(_ context.Context, in Change) (Accepted, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return Accepted{}, err
	}
	f.changed = in
	op, err := f.replay(in.Key)
	if err != nil {
		return Accepted{}, err
	}
	if op != nil {
		return Accepted{Installation: *f.installations[fleet.InstallationID(op.ResourceID)], Operation: *op, Replayed: true}, nil
	}
	v := f.find(in.IDOrName)
	if v == nil {
		return Accepted{}, fleet.Errorf(fleet.KindNotFound, "there is no installation %q", in.IDOrName)
	}
	if in.IfMatch != 0 && in.IfMatch != v.Version {
		return Accepted{}, fleet.Errorf(fleet.KindStale, "installation %s is at version %d, not %d", v.Name, v.Version, in.IfMatch)
	}
	kind := in.Kind
	if kind == "" {
		kind, _ = fleet.RetryOf(v.State)
	}
	if kind == fleet.OperationClone && v.State == fleet.StateHibernating {
		op = f.operation(in.OperationID, kind, fleet.ResourceInstallation, string(v.ID), v.Name)
		v.Operation = op
		return Accepted{Installation: *v, Operation: *op}, nil
	}
	if !slices.Contains(fleet.Accepts(v.State), kind) {
		return Accepted{}, fleet.Errorf(fleet.KindNotAccepted, "installation %s is %s and does not accept this now", v.Name, v.State)
	}
	if err := fleet.CheckSealedEnvironment(patched(v.Env, in.Env), patched(v.Secrets, in.Secrets)); err != nil {
		return Accepted{}, err
	}
	op = f.operation(in.OperationID, kind, fleet.ResourceInstallation, string(v.ID), v.Name)
	v.State, v.Operation = kind.RequestedState(), op
	v.Version++
	v.Generation++
	v.Env, v.Labels, v.Secrets = patched(v.Env, in.Env), patched(v.Labels, in.Labels), patched(v.Secrets, in.Secrets)
	if in.DNSNames != nil {
		v.DNSNames = *in.DNSNames
	}
	in.Idle.Apply(&v.Idle)
	in.Wake.Apply(&v.Wake)
	if in.PackageRef != nil {
		v.PackageRef = *in.PackageRef
	}
	if in.MemoryMiB != nil {
		v.MemoryMiB = *in.MemoryMiB
	}
	if in.Group != nil {
		v.GroupID, v.GroupName, v.GroupRevision, v.Own = "", "", 0, fleet.Own{}
		if in.Group.Join != "" || len(in.Group.Match) > 0 {
			if err := f.enter(v, *in.Group, fleet.Own{}); err != nil {
				return Accepted{}, err
			}
		}
	}
	f.remember(in.Key, op.ID)
	return Accepted{Installation: *v, Operation: *op}, nil
}

func (f *fakeStore) Installation(_ context.Context, _, idOrName string) (InstallationView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return InstallationView{}, err
	}
	v := f.find(idOrName)
	if v == nil {
		return InstallationView{}, fleet.Errorf(fleet.KindNotFound, "there is no installation %q", idOrName)
	}
	return *v, nil
}

func (f *fakeStore) ListInstallations(_ context.Context, q InstallationQuery) ([]InstallationView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return nil, err
	}
	var all []InstallationView
	for _, v := range f.installations {
		labelled := true
		for k, want := range q.Labels {
			labelled = labelled && v.Labels[k] == want
		}
		if labelled && string(v.ID) > q.After && (q.Owner == "" || q.Owner == v.Owner) &&
			(q.Cluster == "" || q.Cluster == v.ClusterName) && (q.Group == "" || q.Group == v.GroupName) && (q.State == "" || q.State == v.State) {
			all = append(all, *v)
		}
	}
	return first(all, q.Limit, func(v InstallationView) string { return string(v.ID) }), nil
}

// first returns the first items in order of ID.
func first[T any](all []T, limit int, id func(T) string) []T {
	slices.SortFunc(all, func(a, b T) int { return strings.Compare(id(a), id(b)) })
	return all[:min(limit, len(all))]
}

// settle makes an installation rest in a state.
func (f *fakeStore) settle(name string, state fleet.State) fleet.InstallationView {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := f.find(name)
	v.State = state
	v.Operation.State, v.Operation.FinishedAt = fleet.OperationSucceeded, epochTime
	v.Operation.Revision++
	v.Instance = &fleet.Instance{
		ID: fleet.InstanceID(fleet.NewID()), InstallationID: v.ID, Power: fleet.PowerOn, CreatedAt: epochTime,
		Spec:      fleet.InstanceConfig{Image: "abc", MemoryMiB: v.MemoryMiB},
		Endpoints: []fleet.Endpoint{{Port: 8080, Protocol: fleet.ProtocolHTTP, Address: "10.96.0.2:8080"}, {Port: 22, Protocol: fleet.ProtocolTCP, Address: "10.96.0.2:22"}},
		Exit:      &fleet.Exit{Reason: fleet.ReasonProgramExited, Code: 3, At: epochTime, LastLines: []string{"bye"}},
	}
	return *v
}

// advance changes an operation as a worker would.
func (f *fakeStore) advance(id fleet.OperationID, change func(*fleet.Operation)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	op := f.operations[id]
	op.Revision++
	change(op)
}

func (f *fakeStore) ListInstances(_ context.Context, q fleet.InstanceQuery) ([]fleet.InstanceView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return nil, err
	}
	var all []fleet.InstanceView
	for _, v := range f.instances {
		if string(v.ID) > q.After && (q.Installation == "" || q.Installation == v.InstallationName) && (q.Cluster == "" || q.Cluster == v.ClusterName) {
			all = append(all, v)
		}
	}
	return first(all, q.Limit, func(v fleet.InstanceView) string { return string(v.ID) }), nil
}

func (f *fakeStore) Instance(_ context.Context, id fleet.InstanceID) (fleet.InstanceView, error) {
	unlock, err := f.lock()
	defer unlock()
	if err != nil {
		return fleet.InstanceView{}, err
	}
	for _, v := range f.instances {
		if v.ID == id {
			return v, nil
		}
	}
	return fleet.InstanceView{}, fleet.Errorf(fleet.KindNotFound, "there is no instance %q", id)
}
