package main

import (
	"context"
	"fmt"
	"time"

	"dormouse/client"
)

// patterns is how many installations of a multitude are really created.
const patterns = 100

// multitudeSQL makes $1 copies of each of the installations that are there, with
// their instances, operations and events: owners a thousand, half of them labelled, one
// in ten in the group, one in a thousand failed, and one in fifty at work.
var multitudeSQL = []string{
	`CREATE TEMP TABLE copies AS SELECT i.id AS of, left(md5(i.id || n), 26) AS id, i.name || '-' || n AS name,
		row_number() OVER () AS n FROM installation i, generate_series(1, $1::int) n`,
	`INSERT INTO installation SELECT r.* FROM copies c JOIN installation i ON i.id = c.of, (SELECT id FROM installation_group) g,
		LATERAL jsonb_populate_record(i, jsonb_build_object('id', c.id, 'name', c.name, 'owner', 'owner' || c.n % 1000,
			'state', CASE WHEN c.n % 1000 = 1 THEN 'update-failed' WHEN c.n % 50 = 2 THEN 'restart-in-progress' ELSE 'stable' END,
			'labels', CASE WHEN c.n % 2 = 0 THEN jsonb_build_object('stage', 'production', 'customer', 'c' || c.n / 50) ELSE '{}' END,
			'group_id', CASE WHEN c.n % 10 = 3 THEN g.id END, 'group_revision', CASE WHEN c.n % 10 = 3 THEN 1 END)) r`,
	`INSERT INTO instance SELECT r.* FROM copies c JOIN instance x ON x.installation_id = c.of,
		LATERAL jsonb_populate_record(x, jsonb_build_object('id', left(md5(x.id || c.n), 26), 'installation_id', c.id)) r`,
	`INSERT INTO operation SELECT r.* FROM copies c JOIN operation o ON o.resource_id = c.of,
		LATERAL jsonb_populate_record(o, jsonb_build_object('id', left(md5(o.id || c.n), 26), 'resource_id', c.id, 'resource_name', c.name)) r`,
	`INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, owner, state, request_state, generation, step, steps_total, wait_reason)
		SELECT left(md5(id || 'restart'), 26), 'restart', 'installation', id, name, owner, 'active', 'restart-requested', 2, 'await-healthy', 4, 'waiting-for-health'
		FROM installation WHERE state = 'restart-in-progress'`,
	`INSERT INTO event (kind, resource_type, resource_id, owner, operation_id, data)
		SELECT e.kind, e.resource_type, c.id, e.owner, e.operation_id, e.data FROM copies c JOIN event e ON e.resource_id = c.of`,
	`DROP TABLE copies`,
}

// multitude is a database of about so many installations and a server that has only the API.
func (b *bench) multitude(ctx context.Context, name string, size int) (*database, *provisioner, error) {
	d, err := b.newDatabase(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	p, err := b.startProvisioner(ctx, start{name: name, database: d.url})
	if err != nil {
		return nil, nil, err
	}
	err = b.furnish(ctx, p, nil)
	if err == nil {
		_, err = p.client.Groups.Create(ctx, client.CreateGroup{Name: groupName, Package: packageName})
	}
	if err == nil {
		_, err = fill(ctx, p, "pattern", patterns)
	}
	if err == nil {
		err = worked(ctx, d, time.Minute)
	}
	if err := firstOf(err, p.stop()); err != nil {
		return nil, nil, err
	}
	b.say("making %d installations out of %d", size, patterns)
	one, err := d.look.Conn(ctx) // for the temporary table
	if err != nil {
		return nil, nil, err
	}
	defer one.Close()
	for i, statement := range multitudeSQL {
		var args []any
		if i == 0 {
			args = append(args, size/patterns-1)
		}
		if _, err := one.ExecContext(ctx, statement, args...); err != nil {
			return nil, nil, fmt.Errorf("multiplying the installations: %w", err)
		}
	}
	if err := d.settled(ctx); err != nil {
		return nil, nil, err
	}
	p, err = b.startProvisioner(ctx, start{name: name, database: d.url, roles: "api"})
	return d, p, err
}
