package invariants

// row is a query that must find nothing.
type row struct{ invariant, what, query string }

var rows = []row{
	// What a host holds is what its installations hold, and no more than there is.
	{"CapacityIsSumOfHolds", "a host holds what its installations do not", `SELECT h.name || ': ' || h.memory_held_mib || ', ' || h.disk_held_mib || ' but ' || held.memory || ', ' || held.disk FROM host h,
		LATERAL (SELECT coalesce(sum(x.memory), 0) AS memory, coalesce(sum(x.disk), 0) AS disk FROM (
			SELECT held_memory_mib AS memory, held_disk_mib AS disk FROM installation WHERE held_host_id = h.id
			UNION ALL SELECT reserved_memory_mib, reserved_disk_mib FROM installation WHERE reserved_host_id = h.id) x) held
		WHERE h.memory_held_mib <> held.memory OR h.disk_held_mib <> held.disk`},
	{"CapacityIsSumOfHolds", "something is reserved though no move is under way", `SELECT name || ' ' || state FROM installation WHERE reserved_host_id <> ''`},
	// But on a host that a check has found smaller than it was, which nobody plays where this is asked.
	{"CapacityIsSumOfHolds", "more is held than there is", `SELECT name FROM host WHERE memory_held_mib > memory_mib OR disk_held_mib > disk_mib`},

	// An address is one installation's, which is there, and whoever has a machine on has one on its host.
	{"LeasesOnce", "an address is leased twice", `SELECT host_id || ' ' || address FROM address_lease WHERE installation_id IS NOT NULL GROUP BY host_id, address HAVING count(*) > 1`},
	{"LeasesOnce", "an installation has two addresses", `SELECT installation_id FROM address_lease WHERE installation_id IS NOT NULL GROUP BY installation_id HAVING count(*) > 1`},
	{"LeasesOnce", "an address is leased to nobody that lives", `SELECT l.address FROM address_lease l LEFT JOIN installation i ON i.id = l.installation_id
		WHERE l.installation_id IS NOT NULL AND (i.id IS NULL OR i.deleted_at IS NOT NULL)`},
	{"LeasesOnce", "a machine is on without an address", `SELECT x.id FROM instance x JOIN host h ON h.id = x.host_id
		WHERE x.deleted_at IS NULL AND x.power <> 'off' AND x.power <> 'planned' AND h.address_pool <> ''
		AND NOT EXISTS (SELECT FROM address_lease l WHERE l.installation_id = x.installation_id AND l.host_id = x.host_id)`},

	// Rows that tell of the same thing tell the same.
	{"RowsAgree", "two instances serve", `SELECT installation_id FROM instance WHERE serving AND deleted_at IS NULL GROUP BY installation_id, role HAVING count(*) > 1`},
	{"RowsAgree", "a deleted instance serves or is on", `SELECT id FROM instance WHERE deleted_at IS NOT NULL AND (serving OR power <> 'off')`},
	{"RowsAgree", "a volume is attached to what is not there", `SELECT v.id FROM volume v WHERE v.deleted_at IS NULL AND v.attached_instance_id IS NOT NULL
		AND NOT EXISTS (SELECT FROM instance i WHERE i.id = v.attached_instance_id AND i.deleted_at IS NULL AND i.installation_id = v.installation_id)`},
	{"RowsAgree", "data lie on another host than the one that is held", `SELECT i.name || ' is held on ' || i.held_host_id || ', its data on ' || v.host_id FROM installation i
		JOIN volume v ON v.installation_id = i.id AND v.deleted_at IS NULL AND v.provider_ref <> '' WHERE i.held_host_id <> '' AND i.held_host_id <> v.host_id`},
	{"RowsAgree", "what is stable does not serve from one machine with what it uses held", `SELECT i.name || ' holds ' || i.held_memory_mib FROM installation i
		WHERE i.state = 'stable' AND NOT EXISTS (SELECT FROM instance x WHERE x.installation_id = i.id AND x.deleted_at IS NULL AND x.serving AND x.power = 'on'
			AND x.host_id = i.held_host_id AND (x.spec ->> 'memory_mib')::int = i.held_memory_mib
			AND i.running_package_id = x.spec ->> 'package_id' AND i.verified_package_id = i.running_package_id
			AND NOT EXISTS (SELECT FROM volume v WHERE v.installation_id = i.id AND v.deleted_at IS NULL AND v.attached_instance_id IS DISTINCT FROM x.id))`},
	{"RowsAgree", "what is stable has several machines", `SELECT i.name FROM installation i JOIN instance x ON x.installation_id = i.id AND x.deleted_at IS NULL
		WHERE i.state = 'stable' GROUP BY i.name HAVING count(*) > 1`},
	{"RowsAgree", "what sleeps does not, or what is awake is said to sleep", `SELECT i.name || ' ' || i.held_memory_mib FROM installation i
		WHERE i.state = 'stable' AND i.hibernated OR i.state = 'hibernating' AND (NOT i.hibernated OR i.held_memory_mib <> 0 OR i.running_package_id <> ''
			OR EXISTS (SELECT FROM instance x WHERE x.installation_id = i.id AND x.deleted_at IS NULL AND (x.power NOT IN ('off', 'planned') OR x.serving)))`},
	{"RowsAgree", "a DNS name is not in both of its places", `SELECT coalesce(i.name, d.name) FROM (
			SELECT name, id, unnest(dns_names) AS dns FROM installation WHERE deleted_at IS NULL) i
		FULL JOIN installation_dns_name d ON d.name = i.dns AND d.installation_id = i.id WHERE i.id IS NULL OR d.name IS NULL`},
	{"RowsAgree", "two operations of a resource are active", `SELECT resource_id FROM operation WHERE state = 'active' GROUP BY resource_id HAVING count(*) > 1`},

	// A tombstone has nothing.
	{"DeletedHoldsNothing", "what is deleted holds something", `SELECT i.name FROM installation i WHERE (i.state = 'deleted') <> (i.deleted_at IS NOT NULL) OR i.state = 'deleted' AND (
		held_memory_mib <> 0 OR held_disk_mib <> 0 OR held_host_id <> '' OR reserved_host_id <> ''
		OR EXISTS (SELECT FROM instance x WHERE x.installation_id = i.id AND x.deleted_at IS NULL)
		OR EXISTS (SELECT FROM volume x WHERE x.installation_id = i.id AND x.deleted_at IS NULL)
		OR EXISTS (SELECT FROM address_lease x WHERE x.installation_id = i.id)
		OR EXISTS (SELECT FROM gateway_port x WHERE x.installation_id = i.id)
		OR EXISTS (SELECT FROM installation_dns_name x WHERE x.installation_id = i.id))`},

	// A rollout that has ended has nothing in work, however it ended.
	{"EndedRolloutRests", "a member of a rollout that has ended is in work, and its operation has ended", `SELECT r.state || ' ' || r.id || ': ' || m.name || ' ' || m.state
		FROM rollout r JOIN rollout_member m ON m.rollout_id = r.id WHERE r.finished_at IS NOT NULL AND m.state IN ('rolling', 'verifying', 'rolling-back')
		AND NOT EXISTS (SELECT FROM operation o WHERE o.id = m.operation_id AND o.state IN ('active', 'queued'))`},

	// What failed says why, and nothing is in a state of being worked on that nobody works on.
	{"Explained", "an operation failed or was cancelled without a reason", `SELECT id || ' ' || kind || ' ' || step FROM operation WHERE state IN ('failed', 'cancelled') AND fail_reason = ''`},
	{"Explained", "an installation failed without a reason", `SELECT name || ' ' || state FROM installation WHERE state LIKE '%-failed' AND state_reason = ''`},
	{"Explained", "a state says that work is under way, and there is none", `SELECT i.name || ' ' || i.state FROM installation i
		WHERE (i.state LIKE '%-in-progress' OR i.state LIKE '%-requested') AND NOT EXISTS (SELECT FROM operation o WHERE o.resource_id = i.id AND o.state = 'active')
		UNION ALL SELECT c.name || ' ' || c.state FROM cluster c
		WHERE (c.state LIKE '%-in-progress' OR c.state LIKE '%-requested') AND NOT EXISTS (SELECT FROM operation o WHERE o.resource_id = c.id AND o.state = 'active')`},
}
