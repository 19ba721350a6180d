package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/lib/pq"

	"dormouse/internal/fleet"
)

const (
	rolloutColumns = `to_jsonb(r) || jsonb_build_object('group_name', g.name) AS rollout`

	rolloutByIDSQL = `SELECT ` + rolloutColumns + `, ` + operationColumns + `,
	(SELECT jsonb_agg(c) FROM (SELECT m.ring, m.state, count(*) AS n FROM rollout_member m WHERE m.rollout_id = r.id GROUP BY 1, 2 ORDER BY 1, 2) c) AS counts,
	(SELECT jsonb_agg(f) FROM (SELECT m.*, m.ord AS "order" FROM rollout_member m
		WHERE m.rollout_id = r.id AND m.state = 'failed' ORDER BY m.finished_at DESC NULLS LAST LIMIT 20) f) AS failures
FROM rollout r JOIN installation_group g ON g.id = r.group_id
LEFT JOIN LATERAL (SELECT * FROM operation a WHERE a.resource_id = r.id ORDER BY a.generation DESC LIMIT 1) o ON true
WHERE r.id = $1`
)

type rolloutRow struct {
	Rollout  jsonText `db:"rollout"`
	Counts   jsonText `db:"counts"`
	Failures jsonText `db:"failures"`
	operationRow
}

func (r rolloutRow) view() (v fleet.RolloutView, err error) {
	err = parts(part{r.Rollout, &v.Rollout}, part{r.Counts, &v.Counts}, part{r.Failures, &v.Failures})
	for _, c := range v.Counts {
		if c.State != fleet.MemberGone {
			v.Total += c.N
		}
	}
	op, err2 := r.operation()
	v.Operation = op
	err = shown(&v.Detail, errors.Join(err, err2))
	return v, err
}

// Rollout returns one, with the counts of its members.
func (s *Store) Rollout(ctx context.Context, id fleet.RolloutID) (fleet.RolloutView, error) {
	var v fleet.RolloutView
	err := s.read(func(tx *Tx) (err error) {
		v, err = tx.rollout(ctx, id)
		return err
	})
	return v, err
}

func (t *Tx) rollout(ctx context.Context, id fleet.RolloutID) (fleet.RolloutView, error) {
	var r rolloutRow
	err := t.get(ctx, "reading a rollout", &r, rolloutByIDSQL, id)
	if fleet.KindOf(err) == fleet.KindNotFound {
		return fleet.RolloutView{}, fleet.Errorf(fleet.KindNotFound, "there is no rollout %q: see `cloudctl rollout list`", id)
	}
	if err != nil {
		return fleet.RolloutView{}, err
	}
	return r.view()
}

// ListRollouts returns at most q.Limit rollouts, newest first, without their counts.
func (s *Store) ListRollouts(ctx context.Context, q fleet.RolloutQuery) ([]fleet.RolloutView, error) {
	out := []fleet.RolloutView{}
	err := s.read(func(tx *Tx) error {
		var where []string
		var args []any
		add := func(condition string, arg any) {
			args = append(args, arg)
			where = append(where, fmt.Sprintf(condition, len(args)))
		}
		if q.Before != "" {
			add("r.id < $%d", q.Before)
		}
		if q.Group != "" {
			g, err := tx.group(ctx, q.Group)
			if err != nil {
				return err
			}
			add("r.group_id = $%d", g.ID)
		}
		query := `SELECT ` + rolloutColumns + ` FROM rollout r JOIN installation_group g ON g.id = r.group_id`
		if len(where) > 0 {
			query += " WHERE " + strings.Join(where, " AND ")
		}
		args = append(args, q.Limit)
		var rows []jsonText
		if err := tx.list(ctx, "listing rollouts", &rows, query+fmt.Sprintf(" ORDER BY r.id DESC LIMIT $%d", len(args)), args...); err != nil {
			return err
		}
		for _, r := range rows {
			var v fleet.RolloutView
			if err := shown(&v.Detail, r.into(&v.Rollout)); err != nil {
				return err
			}
			out = append(out, v)
		}
		return nil
	})
	return out, err
}

const membersSQL = `SELECT to_jsonb(m) || jsonb_build_object('order', m.ord) AS member FROM rollout_member m
WHERE m.rollout_id = $1 AND m.installation_id > $2 AND ($3 = '' OR m.state = $3) ORDER BY m.installation_id LIMIT $4`

// RolloutMembers returns members in order of their installations' IDs.
func (s *Store) RolloutMembers(ctx context.Context, q fleet.MemberQuery) ([]fleet.RolloutMember, error) {
	out := []fleet.RolloutMember{}
	err := s.read(func(tx *Tx) error {
		if _, err := tx.rollout(ctx, q.Rollout); err != nil {
			return err
		}
		return tx.decode(ctx, "listing members", membersSQL, func(j jsonText) error {
			var m fleet.RolloutMember
			err := j.into(&m)
			err = shown(&m.Detail, err)
			out = append(out, m)
			return err
		}, q.Rollout, q.After, q.State, q.Limit)
	})
	return out, err
}

// decode calls f with the one JSON column of every row.
func (t *Tx) decode(ctx context.Context, what, query string, f func(jsonText) error, args ...any) error {
	var rows []jsonText
	if err := t.list(ctx, what, &rows, query, args...); err != nil {
		return err
	}
	for _, r := range rows {
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}

// candidatesSQL returns the members of a group that do not pin a revision.
const candidatesSQL = `SELECT jsonb_build_object('installation_id', i.id, 'name', i.name, 'from_revision', i.group_revision, 'cluster_id', i.cluster_id,
	'memory_mib', i.memory_mib, 'labels', i.labels, 'state', 'waiting', 'asleep', i.state = 'hibernating', 'malformed', ` + malformedSQL + `,
	'busy', EXISTS (SELECT FROM operation o WHERE o.resource_id = i.id AND o.state = 'active')) AS member
FROM installation i
WHERE i.group_id = $1 AND i.deleted_at IS NULL AND i.group_revision <> $2
	AND NOT EXISTS (SELECT FROM rollout_member m WHERE m.rollout_id = $3 AND m.installation_id = i.id)`

// RolloutCandidates returns what a rollout of a group to a revision (0: the
// newest) would move, and the rollout as it would be.
func (s *Store) RolloutCandidates(ctx context.Context, group string, to fleet.RevisionNumber) ([]fleet.RolloutMember, fleet.Rollout, error) {
	var members []fleet.RolloutMember
	var r fleet.Rollout
	err := s.read(func(tx *Tx) error {
		g, err := tx.group(ctx, group)
		if err != nil {
			return err
		}
		if r, err = planned(g, to); err != nil {
			return err
		}
		members, err = tx.candidates(ctx, r)
		return err
	})
	return members, r, err
}

func planned(g fleet.GroupView, to fleet.RevisionNumber) (fleet.Rollout, error) {
	if to == 0 {
		to = g.Latest
	}
	if to < 1 || to > g.Latest {
		return fleet.Rollout{}, fleet.InvalidField("to_revision", "group %s has no revision %d: its newest is %d", g.Name, to, g.Latest)
	}
	return fleet.Rollout{GroupID: g.ID, GroupName: g.Name, From: g.Revision, To: to, State: fleet.RolloutRunning}, nil
}

func (t *Tx) candidates(ctx context.Context, r fleet.Rollout) ([]fleet.RolloutMember, error) {
	out := []fleet.RolloutMember{}
	err := t.decode(ctx, "finding what a rollout moves", candidatesSQL, func(j jsonText) error {
		var l fleet.MemberLook
		err := shown(&l.Malformed, j.into(&l))
		if l.Malformed != "" {
			unreadableMember(&l.RolloutMember, l.Malformed)
		}
		out = append(out, l.RolloutMember)
		return err
	}, r.GroupID, r.To, r.ID)
	return out, err
}

const (
	// looksSQL reads members with what became of their work.
	looksSQL = `SELECT to_jsonb(m) || jsonb_build_object('order', m.ord, 'pinned', coalesce(i.group_revision, 0),
	'installation', CASE WHEN i.id IS NULL OR i.deleted_at IS NOT NULL OR i.group_id IS DISTINCT FROM $2 THEN 'deleted' ELSE i.state END,
	'asleep', coalesce(i.state = 'hibernating', false), 'verified', coalesce(i.verified_package_id = i.package_id, false),
	'busy', EXISTS (SELECT FROM operation b WHERE b.resource_id = m.installation_id AND b.state = 'active' AND b.id <> m.operation_id),
	'malformed', coalesce(` + malformedSQL + `, ''), 'work', coalesce(o.state, ''), 'recalled', coalesce(o.rollout ? 'recalled', false),
	'work_reason', coalesce(o.fail_reason, ''), 'work_error', coalesce(o.error, '')) AS look
FROM rollout_member m
LEFT JOIN installation i ON i.id = m.installation_id
LEFT JOIN operation o ON o.id = m.operation_id
WHERE m.rollout_id = $1`
	// looksInWorkSQL reads each part by its index.
	looksInWorkSQL = looksSQL + ` AND m.state IN ('rolling', 'verifying', 'rolling-back')`
	looksAtSomeSQL = looksInWorkSQL + ` UNION ALL ` + looksSQL + ` AND m.installation_id = ANY ($3) AND m.state NOT IN ('rolling', 'verifying', 'rolling-back')`

	rolloutLookSQL = `SELECT ` + rolloutColumns + `, r.version, r.decided_epoch AS epoch, rev.config AS config, dormouse_now() AS now
FROM rollout r JOIN installation_group g ON g.id = r.group_id
JOIN group_revision rev ON rev.group_id = r.group_id AND rev.number = r.to_revision
WHERE r.id = $1`
)

// LookAtRollout returns a rollout and its members: all unless the rollout is as
// known or has ended, else those in work and those that known asks for. A member that can't be read is returned as far as it
// can; the rollout itself must be readable.
func (s *Store) LookAtRollout(ctx context.Context, id fleet.RolloutID, known fleet.RolloutKnown) (fleet.RolloutLook, error) {
	var look fleet.RolloutLook
	err := s.read(func(tx *Tx) error {
		var row struct {
			Rollout jsonText     `db:"rollout"`
			Version int64        `db:"version"`
			Epoch   fleet.Epoch  `db:"epoch"`
			Config  jsonText     `db:"config"`
			Now     sql.NullTime `db:"now"`
		}
		if err := tx.get(ctx, "looking at a rollout", &row, rolloutLookSQL, id); err != nil {
			return err
		}
		look.Now = timeOf(row.Now)
		if err := row.Rollout.into(&look.Rollout); err != nil {
			return err
		}
		if err := row.Config.into(&look.To); err != nil {
			return err
		}
		look.Seen = fleet.RolloutSeen{Version: row.Version, Epoch: row.Epoch}
		look.Whole = look.Seen != known.Seen && !look.Rollout.State.Finished()
		query, args := looksInWorkSQL, []any{id, look.Rollout.GroupID}
		switch {
		case !look.Whole && len(known.Also) > 0:
			query, args = looksAtSomeSQL, append(args, pq.Array(known.Also))
		case look.Whole:
			query = looksSQL
			var err error
			if look.Joined, err = tx.candidates(ctx, look.Rollout); err != nil {
				return err
			}
		}
		return tx.decode(ctx, "looking at a rollout's members", query, func(j jsonText) error {
			var l fleet.MemberLook
			err := shown(&l.Malformed, j.into(&l))
			look.Members = append(look.Members, l)
			return err
		}, args...)
	})
	return look, err
}
