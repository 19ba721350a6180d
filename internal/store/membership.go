package store

import (
	"context"

	"dormouse/internal/fleet"
)

// membership is the group that an installation enters, and what it sets itself.
type membership struct {
	group struct {
		ID       fleet.GroupID        `db:"id"`
		Name     string               `db:"name"`
		Revision fleet.RevisionNumber `db:"revision"`
		Config   jsonText             `db:"config"`
		Locked   bool                 `db:"locked"`
	}
	config fleet.GroupConfig
	own    fleet.Own
}

const (
	enterSQL = `SELECT g.id, g.name, g.revision, r.config, pg_advisory_xact_lock_shared(hashtextextended(g.id, 0)) IS NULL AS locked
FROM installation_group g JOIN group_revision r ON r.group_id = g.id AND r.number = g.revision
`
	enterByNameSQL = enterSQL + `WHERE g.name = $1 AND g.deleted_at IS NULL`
	enterByIDSQL   = enterSQL + `WHERE g.id = $1 AND g.deleted_at IS NULL`

	// emptiestSQL counts members by an index of members only.
	emptiestSQL = `SELECT g.id FROM installation_group g WHERE g.deleted_at IS NULL AND g.labels @> $1::jsonb
ORDER BY (SELECT count(*) FROM installation m WHERE m.group_id = g.id AND m.deleted_at IS NULL), g.id LIMIT 1`
)

// join finds the group to enter, and keeps it from being deleted before this
// transaction ends. It waits for nobody else who joins.
func (t *Tx) join(ctx context.Context, in fleet.GroupMembership) (membership, error) {
	var m membership
	name, query := in.Join, enterByNameSQL
	if name == "" {
		match, err := encode(in.Match)
		if err != nil {
			return m, err
		}
		query = enterByIDSQL
		err = t.get(ctx, "choosing a group", &name, emptiestSQL, match)
		if fleet.KindOf(err) == fleet.KindNotFound {
			return m, fleet.InvalidField("group_match", "no group has all of these labels: see `cloudctl group list`")
		}
		if err != nil {
			return m, err
		}
	}
	err := t.get(ctx, "finding the group", &m.group, query, name)
	if fleet.KindOf(err) == fleet.KindNotFound {
		return m, fleet.InvalidField("group", "there is no group %q: see `cloudctl group list`", name)
	}
	if err != nil {
		return m, err
	}
	return m, m.group.Config.into(&m.config)
}

// enter fills a create in with what the group says, where there is one.
func (t *Tx) enter(ctx context.Context, in fleet.NewInstallation) (fleet.NewInstallation, membership, error) {
	if in.Group.Join == "" && len(in.Group.Match) == 0 {
		return in, membership{}, nil
	}
	m, err := t.join(ctx, in.Group)
	if err != nil {
		return in, m, err
	}
	m.own = fleet.Own{MemoryMiB: in.MemoryMiB, VCPUs: in.VCPUs, Env: in.Env, Idle: in.Idle, Wake: in.Wake}
	if in.PackageRef == "" {
		in.PackageRef = m.config.PackageRef
	} else {
		var p fleet.Package
		if p, err = t.pkg(ctx, in.PackageRef); err != nil {
			return in, m, fleet.InvalidField("package", "%w", err)
		}
		m.own.PackageID = p.ID
	}
	settled := fleet.Installation{Own: m.own}
	m.config.Settle(&settled)
	in.MemoryMiB, in.VCPUs, in.Env = settled.MemoryMiB, settled.VCPUs, settled.Env
	in.Idle, in.Wake = settled.Idle, settled.Wake
	return in, m, fleet.CheckSealedEnvironment(in.Env, in.Secrets)
}
