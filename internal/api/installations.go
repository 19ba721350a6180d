package api

import (
	"context"
	"net/http"
	"slices"

	"github.com/gorilla/mux"

	"dormouse/client"
	"dormouse/internal/fleet"
)

func (s *server) listInstallations(w http.ResponseWriter, r *http.Request) error {
	q, err := installationQuery(r)
	if err != nil {
		return err
	}
	views, err := s.Store.ListInstallations(r.Context(), q)
	if err != nil {
		return err
	}
	views, next := cut(q.Page, views, func(v *InstallationView) string { return string(v.ID) })
	s.writeInstallations(w, views, next)
	return nil
}

func installationQuery(r *http.Request) (InstallationQuery, error) {
	var q InstallationQuery
	query, err := parseQuery(r)
	if err != nil {
		return q, err
	}
	if q.Page, err = page(query); err != nil {
		return q, err
	}
	q.Owner, q.Cluster, q.State = query.Get("owner"), query.Get("cluster"), fleet.State(query.Get("state"))
	if query.Has("owner") && checkOwner(q.Owner) != nil {
		return q, invalidQuery("owner", "it must be 1 to %d printable characters", maxOwner)
	}
	if query.Has("cluster") && !isDNSLabel(q.Cluster) {
		return q, invalidQuery("cluster", "it must be a cluster's name")
	}
	if query.Has("state") && !slices.Contains(fleet.States(), q.State) {
		return q, invalidQuery("state", "there is no state %s", printable(string(q.State)))
	}
	q.Group = query.Get("group")
	if query.Has("group") && !isDNSLabel(q.Group) {
		return q, invalidQuery("group", "it must be a group's name")
	}
	q.Labels, err = labels(query)
	return q, err
}

func (s *server) createInstallation(w http.ResponseWriter, r *http.Request) error {
	var in client.CreateInstallation
	m, body, err := decodeBody(r, &in, "application/json")
	if err != nil {
		return err
	}
	idle, wake := idleOf(in.Idle), wakeOf(in.Wake)
	if err := firstError(checkCreate(&in, m), s.checkSleep(&in.DNSNames, idle, wake, m)); err != nil {
		return err
	}
	n := NewInstallation{
		ID: fleet.InstallationID(s.NewID()), OperationID: fleet.OperationID(s.NewID()),
		Name: in.Name, Owner: in.Owner, PackageRef: in.Package, ClusterName: in.Cluster,
		MemoryMiB: in.MemoryMiB, DiskMiB: in.DiskMiB, VCPUs: in.VCPUs,
		Env: in.Env, Labels: in.Labels, WhenFull: fleet.WhenFull(in.WhenFull),
		DNSNames: in.DNSNames,
		Group:    fleet.GroupMembership{Join: in.Group, Match: in.GroupMatch},
	}
	idleChange(idle, m).Apply(&n.Idle)
	wakeChange(wake, m).Apply(&n.Wake)
	if n.Key, err = s.idempotencyKey(r, body); err != nil {
		return err
	}
	if n.Secrets, err = s.sealAll(n.ID, in.Secrets); err != nil {
		return err
	}
	accepted, err := s.Store.CreateInstallation(r.Context(), n)
	if err != nil {
		return err
	}
	return s.writeAccepted(w, accepted)
}

// checkCreate validates a request to create an installation and fills in its
// defaults, but for what is left to its group.
func checkCreate(in *client.CreateInstallation, m members) error {
	if err := firstError(m.noNull(), checkJoin(in.Group, in.GroupMatch, m)); err != nil {
		return err
	}
	grouped := m.present["group"] || m.present["group_match"]
	left := func(field string) bool { return grouped && !m.present[field] }
	setDefault(&in.MemoryMiB, defaultMemoryMiB, m.present["memory_mib"] || grouped)
	setDefault(&in.DiskMiB, defaultDiskMiB, m.present["disk_mib"])
	setDefault(&in.VCPUs, defaultVCPUs, m.present["vcpus"] || grouped)
	if !m.present["when_full"] {
		in.WhenFull = string(fleet.WhenFullWait)
	}
	if in.WhenFull != string(fleet.WhenFullWait) && in.WhenFull != string(fleet.WhenFullRefuse) {
		return fleet.InvalidField("when_full", "when_full must be wait or refuse")
	}
	if m.present["cluster"] && !isDNSLabel(in.Cluster) {
		return fleet.InvalidField("cluster", "cluster %s is not a cluster's name", printable(in.Cluster))
	}
	return firstError(
		checkInstallationName(in.Name), checkOwner(in.Owner),
		unless(left("package"), func() error { return checkPackageRef(in.Package) }),
		unless(left("memory_mib"), func() error { return checkRange("memory_mib", in.MemoryMiB, minMemoryMiB, maxMemoryMiB) }),
		checkRange("disk_mib", in.DiskMiB, minDiskMiB, maxDiskMiB),
		unless(left("vcpus"), func() error { return checkRange("vcpus", in.VCPUs, minVCPUs, maxVCPUs) }),
		checkEnv("env", in.Env), checkEnv("secrets", in.Secrets), fleet.CheckEnvironment(in.Env, in.Secrets),
		checkLabels(in.Labels),
	)
}

func unless(left bool, check func() error) error {
	if left {
		return nil
	}
	return check()
}

// setDefault fills in what was not sent; a zero that was sent stays, and is refused.
func setDefault(v *int, def int, sent bool) {
	if !sent {
		*v = def
	}
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *server) sealAll(id fleet.InstallationID, secrets map[string]string) (map[string]string, error) {
	sealed := make(map[string]string, len(secrets))
	for name, value := range secrets {
		v, err := s.Seal.Seal(value, fleet.SecretContext(id, name))
		if err != nil {
			return nil, fleet.Errorf(fleet.KindInternal, "sealing the secret %s: %w", name, err)
		}
		sealed[name] = v
	}
	return sealed, nil
}

// resourceID returns the ID or name in the path. What can be neither is not
// found without asking the store.
func resourceID(r *http.Request, what string) (string, error) {
	id := mux.Vars(r)["id"]
	if !fleet.ValidID(id) && !isDNSLabel(id) {
		return "", fleet.Errorf(fleet.KindNotFound, "there is no %s %s", what, printable(id))
	}
	return id, nil
}

// installation finds the installation that the path names.
func (s *server) installation(r *http.Request) (InstallationView, error) {
	id, err := resourceID(r, "installation")
	if err != nil {
		return InstallationView{}, err
	}
	return s.Store.Installation(r.Context(), "", id)
}

func (s *server) getInstallation(w http.ResponseWriter, r *http.Request) error {
	v, err := s.installation(r)
	if err != nil {
		return err
	}
	w.Header()["Etag"] = []string{etag(v.Version)}
	writeInstallation(w, http.StatusOK, s.wireInstallation(&v))
	return nil
}

func (s *server) deleteInstallation(w http.ResponseWriter, r *http.Request) error {
	return s.act(w, r, fleet.OperationDelete)
}

func (s *server) wakeInstallation(w http.ResponseWriter, r *http.Request) error {
	return s.act(w, r, fleet.OperationWake)
}

func (s *server) restartInstallation(w http.ResponseWriter, r *http.Request) error {
	return s.act(w, r, fleet.OperationRestart)
}

// retryInstallation asks again for whatever failed.
func (s *server) retryInstallation(w http.ResponseWriter, r *http.Request) error {
	return s.act(w, r, "")
}

// act accepts a request without a body on an installation.
func (s *server) act(w http.ResponseWriter, r *http.Request, kind fleet.OperationKind) error {
	id, err := resourceID(r, "installation")
	if err != nil {
		return err
	}
	body, err := emptyBody(r)
	if err != nil {
		return err
	}
	return s.change(w, r, body, Change{IDOrName: id, Kind: kind})
}

// change asks the store for a change whose kind and content are filled in.
func (s *server) change(w http.ResponseWriter, r *http.Request, body []byte, c Change) error {
	var err error
	if c.IfMatch, err = ifMatch(r); err != nil {
		return err
	}
	if c.Key, err = s.idempotencyKey(r, body); err != nil {
		return err
	}
	c.OperationID = fleet.OperationID(s.NewID())
	accepted, err := s.Store.ChangeInstallation(r.Context(), c)
	if fleet.KindOf(err) == fleet.KindNotAccepted {
		return s.sayAccepts(r.Context(), c.IDOrName, err)
	}
	if err != nil {
		return err
	}
	return s.writeAccepted(w, accepted)
}

// sayAccepts adds to a refusal what the installation's state accepts.
func (s *server) sayAccepts(ctx context.Context, idOrName string, refusal error) error {
	v, err := s.Store.Installation(ctx, "", idOrName)
	if err != nil {
		return refusal // it says enough by itself
	}
	return &notAccepted{err: refusal, accepts: accepts(&v)}
}

// accepts are the requests of this API that an installation accepts now: by its
// state where it rests (with retry for what failed or ended), and by the state
// that the last of the open operations leads to where there is work.
func accepts(v *InstallationView) []string {
	requests := []string{}
	from, tail := v.State, openTail(v)
	if tail != "" {
		from = tail.DoneState()
	}
	allowed := fleet.Accepts(from)
	for _, kind := range []fleet.OperationKind{fleet.OperationUpdate, fleet.OperationRestart,
		fleet.OperationHibernate, fleet.OperationWake, fleet.OperationDelete} {
		// What is asked for already is joined, and a delete pre-empts.
		if slices.Contains(allowed, kind) || kind == tail || kind == fleet.OperationDelete && v.State != fleet.StateDeleted {
			requests = append(requests, string(kind))
		}
	}
	if _, ok := fleet.RetryOf(v.State); ok && tail == "" {
		requests = append(requests, "retry")
	}
	return requests
}

// openTail is the kind of the last operation that is not done; "" where all are.
// A verification and a clone do not count, as any request pre-empts them, nor does a move,
// which leaves the state as it is.
func openTail(v *InstallationView) fleet.OperationKind {
	if n := len(v.Queued); n > 0 {
		return v.Queued[n-1]
	}
	if op := v.Operation; op != nil && !op.State.Finished() && op.Kind != fleet.OperationVerify && op.Kind != fleet.OperationClone && op.Kind != fleet.OperationMove {
		return op.Kind
	}
	return ""
}

// writeAccepted answers 202 with the installation and the operation that works on it.
func (s *server) writeAccepted(w http.ResponseWriter, a Accepted) error {
	out := s.wireInstallation(&a.Installation)
	op := wireOperation(&a.Operation)
	out.Operation = &op
	h := w.Header()
	h["Etag"] = []string{etag(a.Installation.Version)}
	h["Location"] = []string{"/api/v1/operations/" + op.ID}
	if a.Replayed {
		h["Idempotency-Replayed"] = []string{"true"}
	}
	writeInstallation(w, http.StatusAccepted, out)
	return nil
}
