package store

import (
	"database/sql"
	"errors"
	"time"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

// pageRow is a row of pageSQL. What comes from an instance or a host may be null.
type pageRow struct {
	id, owner, name, clusterID, state, stateReason, stateDetail string
	packageID, verifiedID, runningID, groupID                   string
	generation, version, groupRevision                          int64
	memoryMiB, diskMiB, vcpus                                   int
	env, secrets, labels, own                                   sql.RawBytes
	createdAt, updatedAt, awakeSince                            time.Time
	dnsNames                                                    pq.StringArray
	idle, wake, gatewayPorts                                    sql.RawBytes
	wakes                                                       int64
	asleepSince, lastActiveAt                                   sql.NullTime
	instance                                                    struct {
		id, power, image, host maybeText
		serving                sql.NullBool
		endpoints, exit, saved sql.RawBytes
		restarts, memoryMiB    sql.NullInt64
		createdAt              sql.NullTime
	}
	operation operationRow
}

// dests are where the columns of pageSQL go, in their order. sqlx would find
// them by name, for every row: half of what a page costs.
func (r *pageRow) dests() []any {
	x, o := &r.instance, &r.operation
	return []any{
		&r.id, &r.owner, &r.name, &r.clusterID, &r.state, &r.stateReason, &r.stateDetail, &r.generation, &r.packageID,
		&r.memoryMiB, &r.diskMiB, &r.vcpus, &r.env, &r.secrets, &r.labels, &r.verifiedID, &r.runningID,
		&r.createdAt, &r.updatedAt, &r.version, &r.groupID, &r.groupRevision, &r.own,
		&r.dnsNames, &r.idle, &r.wake, &r.awakeSince, &r.asleepSince, &r.wakes, &r.lastActiveAt, &r.gatewayPorts,
		&x.id, &x.serving, &x.power, &x.endpoints, &x.exit, &x.restarts, &x.saved, &x.createdAt, &x.image, &x.memoryMiB, &x.host,
		&o.ID, &o.Kind, &o.State, &o.Step, &o.StepNumber, &o.StepsTotal, &o.StepSince, &o.Steps, &o.Attempt, &o.Executor, &o.Worker,
		&o.DueAt, &o.StepDeadlineAt, &o.WaitReason, &o.WaitDetail, &o.FailReason, &o.Error, &o.Revision, &o.CreatedAt, &o.StartedAt,
	}
}

// pageReader makes a page of the rows of pageSQL.
type pageReader struct {
	row   pageRow
	dests []any
	views []fleet.InstallationView
}

func newPageReader(limit int) *pageReader {
	p := &pageReader{views: make([]fleet.InstallationView, 0, min(limit, 1000))}
	p.dests = p.row.dests()
	return p
}

func (p *pageReader) read(rows *sql.Rows) error {
	r := &p.row
	if err := rows.Scan(p.dests...); err != nil {
		return err
	}
	instance, malformed := r.readInstance()
	if n := len(p.views); n > 0 && string(p.views[n-1].ID) == r.id {
		// Another instance of the same one.
		if err := shown(&p.views[n-1].StateDetail, malformed); err != nil {
			return err
		}
		if v := &p.views[n-1]; shownBefore(instance, v.Instance) {
			v.Instance, v.HostName = instance, string(r.instance.host)
		}
		return nil
	}
	v, err := r.view()
	if err = errors.Join(err, shown(&v.StateDetail, malformed)); err != nil {
		return err
	}
	v.Instance = instance
	p.views = append(p.views, v)
	return nil
}

// shownBefore tells which of an installation's instances is shown: the one that
// serves, or else the newest.
func shownBefore(a, b *fleet.Instance) bool {
	if a.Serving != b.Serving {
		return a.Serving
	}
	return a.CreatedAt.After(b.CreatedAt)
}

func (r *pageRow) view() (fleet.InstallationView, error) {
	v := fleet.InstallationView{
		Installation: fleet.Installation{
			ID: fleet.InstallationID(r.id), Owner: r.owner, Name: r.name, ClusterID: fleet.ClusterID(r.clusterID),
			State: fleet.State(r.state), StateReason: fleet.Reason(r.stateReason), StateDetail: r.stateDetail,
			Generation: r.generation, PackageID: fleet.PackageID(r.packageID), MemoryMiB: r.memoryMiB, DiskMiB: r.diskMiB, VCPUs: r.vcpus,
			VerifiedPackageID: fleet.PackageID(r.verifiedID), RunningPackageID: fleet.PackageID(r.runningID),
			CreatedAt: r.createdAt.UTC(), UpdatedAt: r.updatedAt.UTC(), Version: r.version,
			GroupID: fleet.GroupID(r.groupID), GroupRevision: fleet.RevisionNumber(r.groupRevision),
			DNSNames: namesOf(r.dnsNames), AwakeSince: r.awakeSince.UTC(), AsleepSince: timeOf(r.asleepSince), Wakes: r.wakes,
		},
		LastActiveAt: timeOf(r.lastActiveAt),
		HostName:     string(r.instance.host),
	}
	var errs [7]error
	v.Env, errs[0] = decodeTexts(r.env)
	v.Secrets, errs[1] = decodeTexts(r.secrets)
	v.Labels, errs[2] = decodeTexts(r.labels)
	errs[3] = (jsonText{r.own}).into(&v.Own)
	errs[4] = (jsonText{r.idle}).into(&v.Idle)
	errs[5] = (jsonText{r.wake}).into(&v.Wake)
	errs[6] = (jsonText{r.gatewayPorts}).into(&v.GatewayPorts)
	malformed := errors.Join(errs[:]...)
	var err error
	if v.Operation, err = r.operation.operation(); v.Operation != nil {
		v.Operation.ResourceType, v.Operation.ResourceID, v.Operation.ResourceName, v.Operation.Owner =
			fleet.ResourceInstallation, r.id, r.name, r.owner
	}
	return v, shown(&v.StateDetail, errors.Join(malformed, err))
}

// readInstance returns nil where there is none.
func (r *pageRow) readInstance() (*fleet.Instance, error) {
	x := &r.instance
	if x.id == "" {
		return nil, nil //nolint:nilnil // absent is an answer here, as in a LEFT JOIN
	}
	out := &fleet.Instance{
		ID: fleet.InstanceID(x.id), InstallationID: fleet.InstallationID(r.id), ClusterID: fleet.ClusterID(r.clusterID),
		Serving: x.serving.Bool, Power: fleet.Power(x.power), Restarts: int(x.restarts.Int64), CreatedAt: timeOf(x.createdAt),
		Spec: fleet.InstanceConfig{Image: fleet.ImageID(x.image), MemoryMiB: int(x.memoryMiB.Int64)},
	}
	var err error
	out.Endpoints, err = decodeArray(x.endpoints, setEndpoint)
	return out, errors.Join(err, jsonText{x.exit}.into(&out.Exit), jsonText{x.saved}.into(&out.Saved))
}
