DROP INDEX instance_host;
ALTER TABLE instance DROP COLUMN saved;
DROP TABLE installation_activity;
DROP TABLE gateway_port;
DROP TABLE installation_dns_name;
DROP INDEX installation_schedule;
DROP INDEX installation_idle;
ALTER TABLE installation
    DROP COLUMN minimum_awake,
    DROP COLUMN idle_after,
    DROP COLUMN schedule_due_at,
    DROP COLUMN schedule_seen_at,
    DROP COLUMN wakes,
    DROP COLUMN asleep_since,
    DROP COLUMN awake_since,
    DROP COLUMN wake,
    DROP COLUMN idle,
    DROP COLUMN dns_names;
