package store

import (
	"fmt"

	"github.com/stretchr/testify/require"

	"dormouse/internal/fleet"
)

// bulkSQL fills the tables as a fleet of $1 installations in service has them,
// each with an instance, two operations and four events; one in a hundred
// sleeps, one in a thousand has failed, and ten thousand are deleted. Of those in
// service, one in five hundred may fall asleep by itself, as most that may do sleep.
func bulkSQL(n int) []string {
	id := func(prefix, i string) string {
		return fmt.Sprintf("'%s' || lpad((%s)::text, %d, '0')", prefix, i, fleet.IDLength-len(prefix))
	}
	return []string{
		fmt.Sprintf(`INSERT INTO installation (id, owner, name, cluster_id, state, package_id, memory_mib, disk_mib, vcpus, env, labels,
				verified_package_id, running_package_id, hibernated, held_host_id, held_memory_mib, held_disk_mib, deleted_at,
				awake_since, dns_names, idle, schedule_due_at)
			SELECT %s, 'owner' || n %% 1000, 'tenant-' || n, c.id,
				CASE WHEN n %% 11 = 5 THEN 'deleted' WHEN n %% 1000 = 0 THEN 'update-failed' WHEN n %% 100 = 0 THEN 'hibernating' ELSE 'stable' END, p.id,
				128, 1024, 1, '{"GREETING": "hello", "MODE": "production"}',
				CASE WHEN n %% 2 = 0 THEN jsonb_build_object('stage', 'production', 'customer', 'c' || n / 50) ELSE '{}' END,
				p.id, p.id, false, h.id, 128, 1024, CASE WHEN n %% 11 = 5 THEN dormouse_now() END,
				dormouse_now() - interval '1 day', CASE WHEN n %% 10 = 0 AND n %% 11 <> 5 THEN ARRAY['www.tenant-' || n || '.example'] ELSE '{}' END,
				CASE WHEN n %% 100 = 0 OR n %% 500 = 1 THEN '{"idle_after_seconds": 900}'::jsonb ELSE '{}' END,
				CASE WHEN n %% 50 = 0 THEN dormouse_now() + interval '1 hour' END
			FROM generate_series(1, %d) n, (SELECT id FROM cluster ORDER BY name LIMIT 1) c, (SELECT id FROM package LIMIT 1) p, (SELECT id FROM host LIMIT 1) h`,
			id("a", "n"), n),
		`INSERT INTO instance (id, installation_id, role, cluster_id, host_id, provider_ref, spec, serving, power, endpoints, deleted_at)
			SELECT 'b' || substr(i.id, 2), i.id, 'application', i.cluster_id, i.held_host_id, 'vm' || i.id,
				jsonb_build_object('generation', 1, 'package_id', i.package_id, 'image', repeat('0123456789abcdef', 4), 'kernel', 'linux',
					'memory_mib', 128, 'vcpus', 1, 'manifest', p.manifest, 'env', i.env),
				i.state = 'stable', CASE i.state WHEN 'stable' THEN 'on' ELSE 'off' END,
				'[{"port": 80, "protocol": "http", "address": "10.77.0.2:80"}]', i.deleted_at
			FROM installation i JOIN package p ON p.id = i.package_id`,
		`INSERT INTO volume (id, installation_id, role, cluster_id, host_id, provider_ref, size_mib, attached_instance_id, deleted_at)
			SELECT 'v' || substr(id, 2), installation_id, role, cluster_id, host_id, 'disk', 1024, CASE WHEN serving THEN id END, deleted_at FROM instance`,
		`INSERT INTO address_lease (id, host_id, address, mac, installation_id, leased_at, released_at)
			SELECT i.held_host_id || '-x' || i.id, i.held_host_id, '10.78.' || substr(i.id, 2), '', CASE WHEN i.deleted_at IS NULL THEN i.id END,
				dormouse_now(), i.deleted_at FROM installation i`,
		`INSERT INTO installation_dns_name (name, installation_id) SELECT dns_names[1], id FROM installation WHERE dns_names <> '{}'`,
		`INSERT INTO gateway_port (port, installation_id, guest_port) SELECT substr(id, 2)::int, id, 1883 FROM installation WHERE deleted_at IS NULL`,
		`INSERT INTO installation_activity (installation_id, last_active_at, requests) SELECT id, dormouse_now() - interval '1 hour' * (substr(id, 2)::int % 2), 1 FROM installation WHERE deleted_at IS NULL`,
		fmt.Sprintf(`INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, owner, state, request_state, step, step_number,
				steps_total, steps, epoch, generation, observed, created_at, started_at, finished_at)
			SELECT %s, k.kind, 'installation', i.id, i.name, i.owner,
				CASE WHEN k.g = 2 AND i.state = 'update-failed' THEN 'failed' ELSE 'succeeded' END, k.kind || '-requested', 'delete-predecessor', 6, 6,
				jsonb_build_array(
					jsonb_build_object('name', 'prepare', 'started_at', dormouse_now(), 'finished_at', dormouse_now(), 'attempts', 1),
					jsonb_build_object('name', 'start-instance', 'started_at', dormouse_now(), 'finished_at', dormouse_now(), 'attempts', 1),
					jsonb_build_object('name', 'await-healthy', 'started_at', dormouse_now(), 'finished_at', dormouse_now(), 'attempts', 1)),
				1, k.g, jsonb_build_object('successor', i.id), dormouse_now() - interval '10 days', dormouse_now(), dormouse_now()
			FROM installation i, (VALUES (1, 'create'), (2, 'update')) AS k (g, kind)`, id("c", "k.g * 10000000 + substr(i.id, 2)::int")),
		`INSERT INTO operation (id, kind, resource_type, resource_id, resource_name, owner, state, request_state, generation, due_at)
			SELECT 'd' || substr(id, 2), 'hibernate', 'installation', id, name, owner, 'active', 'hibernation-requested', 3,
				dormouse_now() + random() * interval '1 hour'
			FROM installation WHERE state = 'stable' AND substr(id, 2)::int % 200 = 1`,
		`INSERT INTO event (kind, resource_type, resource_id, owner, operation_id, data)
			SELECT 'installation.state', 'installation', o.resource_id, o.owner, o.id, '{"from": "a", "to": "b"}'
			FROM operation o, generate_series(1, 2)`,
		`INSERT INTO idempotency_key (key, request_hash, resource_id, operation_id) SELECT 'key-' || id, 'hash', resource_id, id FROM operation WHERE generation = 1`,
	}
}

// load fills the tables for tests of plans and for measuring.
func (w *world) load(n int) {
	w.t.Helper()
	db := w.plain(w.t)
	for _, statement := range append(bulkSQL(n), "VACUUM ANALYZE") {
		_, err := db.Exec(statement)
		require.NoError(w.t, err)
	}
	require.Greater(w.t, w.count(w.t, "SELECT count(*) FROM operation"), n)
}
