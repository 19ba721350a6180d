package store

import (
	"context"
	"slices"
	"strings"

	"dormouse/internal/fleet"
)

const (
	// groupSQL counts members by an index of members only.
	groupSQL = `SELECT to_jsonb(g) AS grp, cur.config AS config, new.config AS latest_config,
	(SELECT jsonb_object_agg(m.number, m.n) FROM (
		SELECT coalesce(i.group_revision, 0) AS number, count(*) AS n FROM installation i
		WHERE i.group_id = g.id AND i.deleted_at IS NULL GROUP BY 1) m) AS members,
	(SELECT to_jsonb(r) || jsonb_build_object('group_name', g.name) FROM rollout r WHERE r.group_id = g.id ORDER BY r.id DESC LIMIT 1) AS rollout
FROM installation_group g
JOIN group_revision cur ON cur.group_id = g.id AND cur.number = g.revision
JOIN group_revision new ON new.group_id = g.id AND new.number = g.latest
`
	groupByIDSQL   = groupSQL + `WHERE g.id = $1 AND g.deleted_at IS NULL`
	groupByNameSQL = groupSQL + `WHERE g.name = $1 AND g.deleted_at IS NULL`
	listGroupsSQL  = groupSQL + `WHERE g.deleted_at IS NULL AND g.id > $1 ORDER BY g.id LIMIT $2`
)

type groupRow struct {
	Group        jsonText `db:"grp"`
	Config       jsonText `db:"config"`
	LatestConfig jsonText `db:"latest_config"`
	Members      jsonText `db:"members"`
	Rollout      jsonText `db:"rollout"`
}

func (r groupRow) view() (v fleet.GroupView, err error) {
	if err := r.Rollout.into(&v.Rollout); err != nil { // it is shown only
		if err := shown(&v.Rollout.Detail, err); err != nil {
			return v, err
		}
	}
	return v, parts(part{r.Group, &v.Group}, part{r.Config, &v.Config}, part{r.LatestConfig, &v.LatestConfig}, part{r.Members, &v.Members})
}

// Group finds one that is not deleted, by ID or by name.
func (s *Store) Group(ctx context.Context, idOrName string) (fleet.GroupView, error) {
	var v fleet.GroupView
	err := s.read(func(tx *Tx) (err error) {
		v, err = tx.group(ctx, idOrName)
		return err
	})
	return v, err
}

func (t *Tx) group(ctx context.Context, idOrName string) (fleet.GroupView, error) {
	var r groupRow
	err := error(fleet.Errorf(fleet.KindNotFound, "no such ID"))
	if fleet.ValidID(idOrName) {
		err = t.get(ctx, "reading a group", &r, groupByIDSQL, idOrName)
	}
	if fleet.KindOf(err) == fleet.KindNotFound {
		err = t.get(ctx, "reading a group", &r, groupByNameSQL, idOrName)
	}
	if fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.GroupView{}, noGroup(idOrName)
	}
	if err != nil {
		return fleet.GroupView{}, err
	}
	return r.view()
}

func noGroup(idOrName string) error {
	return fleet.Errorf(fleet.KindNotFound, "there is no group %q: see `cloudctl group list`", idOrName)
}

// ListGroups returns groups in order of ID.
func (s *Store) ListGroups(ctx context.Context, page fleet.Page) ([]fleet.GroupView, error) {
	out := []fleet.GroupView{}
	err := s.read(func(tx *Tx) error {
		var rows []groupRow
		if err := tx.list(ctx, "listing groups", &rows, listGroupsSQL, page.After, page.Limit); err != nil {
			return err
		}
		for _, r := range rows {
			v, err := r.view()
			var unsaid string // a group has no place for it: Group, which is read to be changed, refuses it
			if err := shown(&unsaid, err); err != nil {
				return err
			}
			out = append(out, v)
		}
		return nil
	})
	return out, err
}

const revisionsSQL = `SELECT to_jsonb(r) AS revision FROM group_revision r WHERE r.group_id = $1 AND r.number > $2 ORDER BY r.number LIMIT $3`

// GroupRevisions returns a group's revisions in order of their numbers, from the one after after.
func (s *Store) GroupRevisions(ctx context.Context, idOrName string, after fleet.RevisionNumber, limit int) ([]fleet.GroupRevision, error) {
	out := []fleet.GroupRevision{}
	err := s.read(func(tx *Tx) error {
		g, err := tx.group(ctx, idOrName)
		if err != nil {
			return err
		}
		var rows []jsonText
		if err := tx.list(ctx, "listing revisions", &rows, revisionsSQL, g.ID, after, limit); err != nil {
			return err
		}
		for _, r := range rows {
			var rev fleet.GroupRevision
			if err := r.into(&rev); err != nil {
				return err
			}
			out = append(out, rev)
		}
		return nil
	})
	return out, err
}

const insertGroupSQL = `WITH key AS (
	INSERT INTO idempotency_key (key, request_hash, resource_id, operation_id) SELECT $1, $2, $3, '' WHERE $1 <> '' RETURNING key
), g AS (
	INSERT INTO installation_group (id, name, labels)
	SELECT $3, $4, $5::jsonb FROM (SELECT count(*) FROM key) AS after_the_key RETURNING id
), rev AS (
	INSERT INTO group_revision (group_id, number, config) SELECT id, 1, $6::jsonb FROM g
)
INSERT INTO event (kind, resource_type, resource_id, data)
SELECT 'group.created', 'group', id, jsonb_build_object('name', $4::text, 'revision', 1) FROM g`

// CreateGroup makes a group with its first revision.
func (s *Store) CreateGroup(ctx context.Context, in fleet.NewGroup) (fleet.GroupView, error) {
	v, err := s.groupRequest(ctx, in.Key, func(tx *Tx) (string, error) {
		config := fleet.GroupConfig{Unverifiable: fleet.UnverifiableKeep}
		if err := tx.applyGroupChange(ctx, &config, in.Config); err != nil {
			return "", err
		}
		if config.PackageID == "" {
			return "", fleet.InvalidField("package", "a group needs a package: name one, as in `cloudctl group create NAME --package PACKAGE`")
		}
		labels, err := encodeAll(in.Labels)
		if err != nil {
			return "", err
		}
		text, err := encode(config)
		if err != nil {
			return "", err
		}
		_, err = tx.exec(ctx, "creating the group", insertGroupSQL, in.Key.Key, in.Key.RequestHash, in.ID, in.Name, labels[0], text)
		return string(in.ID), err
	})
	if constraintOf(err) == "installation_group_name" {
		return v, fleet.Errorf(fleet.KindConflict, "a group named %q exists already: choose another name", in.Name)
	}
	return v, err
}

// groupRequest runs accept once per idempotency key and returns the group that it names.
func (s *Store) groupRequest(ctx context.Context, key fleet.IdempotencyKey, accept func(*Tx) (string, error)) (fleet.GroupView, error) {
	var v fleet.GroupView
	err := s.InTx(ctx, func(tx *Tx) error {
		id, known, err := tx.once(ctx, key, accept)
		if err != nil {
			return err
		}
		v, err = tx.group(ctx, id)
		v.Replayed = known
		return err
	})
	if constraintOf(err) == "idempotency_key_pkey" {
		return s.groupRequest(ctx, key, accept) // the same request came in at the same moment: now its answer is there
	}
	return v, err
}

// once runs accept where the key is new, and returns the resource that the
// first request with this key named.
func (t *Tx) once(ctx context.Context, key fleet.IdempotencyKey, accept func(*Tx) (string, error)) (id string, known bool, err error) {
	var k keyRow
	err = t.get(ctx, "reading the idempotency key", &k, readKeySQL, key.Key)
	if err != nil && fleet.KindOf(err) != fleet.KindNotFound {
		return "", false, err
	}
	if known, err = k.replayed(key); err != nil || known {
		return k.KeyResourceID.String, known, err
	}
	id, err = accept(t)
	return id, false, err
}

const (
	// pickPackageSQL takes a shared lock, so that the package is not deleted before this transaction ends.
	pickPackageSQL = `SELECT p.id, p.name || '@' || p.version AS ref, coalesce((p.manifest ->> 'min_memory_mib')::int, 0) AS min_memory_mib,
	pg_advisory_xact_lock_shared(hashtextextended(p.id, 0)) IS NULL AS locked
FROM package p WHERE p.name = $1 AND ($2 = '' OR p.version = $2) AND p.deleted_at IS NULL ORDER BY p.id DESC LIMIT 1`

	lockGroupSQL = `SELECT id FROM installation_group WHERE id = $1 AND deleted_at IS NULL FOR UPDATE`

	changeGroupSQL = `WITH g AS (
	UPDATE installation_group SET labels = coalesce($2::jsonb, labels), latest = latest + CASE WHEN $3::jsonb IS NULL THEN 0 ELSE 1 END,
		updated_at = dormouse_now(), version = version + 1
	WHERE id = $1 RETURNING id, latest
), rev AS (
	INSERT INTO group_revision (group_id, number, config) SELECT id, latest, $3::jsonb FROM g WHERE $3::jsonb IS NOT NULL
), key AS (
	INSERT INTO idempotency_key (key, request_hash, resource_id, operation_id) SELECT $4, $5, id, '' FROM g WHERE $4 <> ''
)
INSERT INTO event (kind, resource_type, resource_id, data)
SELECT 'group.changed', 'group', id, jsonb_build_object('latest', latest) FROM g`
)

// ChangeGroup changes a group's labels, and makes a new revision where it
// changes the configuration. KindStale where IfMatch is another version.
func (s *Store) ChangeGroup(ctx context.Context, in fleet.ChangeGroup) (fleet.GroupView, error) {
	return s.groupRequest(ctx, in.Key, func(tx *Tx) (string, error) {
		g, err := tx.group(ctx, in.IDOrName)
		if err != nil {
			return "", err
		}
		var id string
		if err := tx.get(ctx, "locking the group", &id, lockGroupSQL, g.ID); err != nil {
			return "", err
		}
		if g, err = tx.group(ctx, id); err != nil { // as it is now that nobody else changes it
			return "", err
		}
		if in.IfMatch != 0 && in.IfMatch != g.Version {
			return "", fleet.Errorf(fleet.KindStale, "group %s is at version %d, not %d: read it again and repeat the change", g.Name, g.Version, in.IfMatch)
		}
		config, args := g.LatestConfig, []any{g.ID, nil, nil}
		if err := tx.applyGroupChange(ctx, &config, in.Config); err != nil {
			return "", err
		}
		if in.Labels != nil {
			if args[1], err = encode(in.Labels); err != nil {
				return "", err
			}
		}
		before, err := encode(g.LatestConfig)
		if err != nil {
			return "", err
		}
		after, err := encode(config)
		if err != nil {
			return "", err
		}
		if after != before {
			args[2] = after
		}
		_, err = tx.exec(ctx, "changing the group", changeGroupSQL, append(args, in.Key.Key, in.Key.RequestHash)...)
		return id, err
	})
}

func (t *Tx) applyGroupChange(ctx context.Context, c *fleet.GroupConfig, in fleet.GroupChange) error {
	if in.PackageRef != nil {
		name, version, _ := strings.Cut(*in.PackageRef, "@")
		var p struct {
			ID           fleet.PackageID `db:"id"`
			Ref          string          `db:"ref"`
			MinMemoryMiB int             `db:"min_memory_mib"`
			Locked       bool            `db:"locked"`
		}
		err := t.get(ctx, "finding the package", &p, pickPackageSQL, name, version)
		if fleet.KindOf(err) == fleet.KindNotFound {
			return fleet.InvalidField("package", "there is no package %q: see `cloudctl package list`", *in.PackageRef)
		}
		if err != nil {
			return err
		}
		c.PackageID, c.PackageRef = p.ID, p.Ref
	}
	if in.MemoryMiB != nil {
		c.MemoryMiB = *in.MemoryMiB
	}
	if in.VCPUs != nil {
		c.VCPUs = *in.VCPUs
	}
	if in.Unverifiable != nil {
		if !slices.Contains([]fleet.UnverifiablePolicy{fleet.UnverifiableKeep, fleet.UnverifiableMove}, *in.Unverifiable) {
			return fleet.InvalidField("unverifiable", "%q is neither %q nor %q", *in.Unverifiable, fleet.UnverifiableKeep, fleet.UnverifiableMove)
		}
		c.Unverifiable = *in.Unverifiable
	}
	in.Idle.Apply(&c.Idle)
	in.Wake.Apply(&c.Wake)
	if len(in.Env) > 0 {
		c.Env = merge(c.Env, in.Env)
	}
	return fleet.CheckEnvironment(c.Env, nil)
}

const (
	groupUsersSQL = `SELECT name FROM installation WHERE group_id = $1 AND deleted_at IS NULL LIMIT 3`

	deleteGroupSQL = `WITH g AS (
	UPDATE installation_group SET deleted_at = dormouse_now(), version = version + 1 WHERE id = $1 AND deleted_at IS NULL RETURNING id
), key AS (
	INSERT INTO idempotency_key (key, request_hash, resource_id, operation_id) SELECT $2, $3, id, '' FROM g WHERE $2 <> ''
)
INSERT INTO event (kind, resource_type, resource_id) SELECT 'group.deleted', 'group', id FROM g`
)

// DeleteGroup refuses with KindNotAccepted while the group has members or a
// rollout that is not finished.
func (s *Store) DeleteGroup(ctx context.Context, idOrName string, key fleet.IdempotencyKey) error {
	return s.InTx(ctx, func(tx *Tx) error {
		_, _, err := tx.once(ctx, key, func(tx *Tx) (string, error) {
			g, err := tx.group(ctx, idOrName)
			if err != nil {
				return "", err
			}
			// Whoever joins holds this lock shared.
			var locked bool
			if err := tx.get(ctx, "locking the group", &locked, lockResourceSQL, g.ID); err != nil {
				return "", err
			}
			if g, err = tx.group(ctx, string(g.ID)); err != nil {
				return "", err
			}
			if g.Rollout != nil && !g.Rollout.State.Finished() {
				return "", fleet.Errorf(fleet.KindNotAccepted, "group %s has rollout %s, which is %s: cancel it first", g.Name, g.Rollout.ID, g.Rollout.State)
			}
			var users []string
			if err := tx.listPlanned(ctx, "looking for members", &users, groupUsersSQL, g.ID); err != nil {
				return "", err
			}
			if len(users) > 0 {
				return "", fleet.Errorf(fleet.KindNotAccepted, "group %s has members, %s among them: let them leave or delete them first", g.Name, strings.Join(users, ", "))
			}
			_, err = tx.exec(ctx, "deleting the group", deleteGroupSQL, g.ID, key.Key, key.RequestHash)
			return string(g.ID), err
		})
		return err
	})
}
