-- Sleep and the gateway: names, idle policies, the gateway's ports, activity.

ALTER TABLE installation
    ADD COLUMN dns_names        text[] NOT NULL DEFAULT '{}',
    -- What comes of the group's and of its own.
    ADD COLUMN idle             jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN wake             jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN awake_since      timestamptz NOT NULL DEFAULT dormouse_now(),
    ADD COLUMN asleep_since     timestamptz,
    ADD COLUMN wakes            bigint NOT NULL DEFAULT 0,
    -- Up to when its schedules have been carried out, and when they are due again.
    ADD COLUMN schedule_seen_at timestamptz,
    ADD COLUMN schedule_due_at  timestamptz,
    -- Of the policy, what the search for idle ones compares; null is never. What can't be read is never.
    ADD COLUMN idle_after       integer GENERATED ALWAYS AS (CASE
        WHEN idle -> 'never' = 'true' OR idle ->> 'idle_after_seconds' !~ '^[1-9][0-9]{0,8}$' THEN NULL
        ELSE (idle ->> 'idle_after_seconds')::integer END) STORED,
    ADD COLUMN minimum_awake    integer NOT NULL GENERATED ALWAYS AS (CASE
        WHEN idle ->> 'minimum_awake_seconds' ~ '^[0-9]{1,9}$' THEN (idle ->> 'minimum_awake_seconds')::integer ELSE 0 END) STORED;
UPDATE installation SET asleep_since = updated_at WHERE state = 'hibernating';
-- Those that are awake and may fall asleep by themselves: what sleeps is not in it.
CREATE INDEX installation_idle ON installation (awake_since) WHERE state = 'stable' AND idle_after IS NOT NULL;
CREATE INDEX installation_schedule ON installation (schedule_due_at) WHERE schedule_due_at IS NOT NULL AND deleted_at IS NULL;

-- The names in installation.dns_names of those that are not deleted.
CREATE TABLE installation_dns_name (
    name            text PRIMARY KEY,
    installation_id text NOT NULL
);
CREATE INDEX installation_dns_name_installation ON installation_dns_name (installation_id);

-- TCP ports of the gateway, leased to ports of installations.
CREATE TABLE gateway_port (
    port            integer PRIMARY KEY,
    installation_id text,
    guest_port      integer,
    leased_at       timestamptz,
    released_at     timestamptz
);
CREATE UNIQUE INDEX gateway_port_installation ON gateway_port (installation_id, guest_port) WHERE installation_id IS NOT NULL;
-- Never used first, then the one that has been free the longest.
CREATE INDEX gateway_port_free ON gateway_port (released_at NULLS FIRST, port) WHERE installation_id IS NULL;

-- Pools of addresses and ports of which less than a tenth is free, since when it is known.
CREATE TABLE pool_low (
    pool  text PRIMARY KEY,
    since timestamptz NOT NULL DEFAULT dormouse_now()
);

-- What gateways have told of an installation's visitors.
CREATE TABLE installation_activity (
    installation_id text PRIMARY KEY,
    last_active_at  timestamptz NOT NULL,
    requests        bigint NOT NULL DEFAULT 0,
    bytes_in        bigint NOT NULL DEFAULT 0,
    bytes_out       bigint NOT NULL DEFAULT 0,
    -- What was open when it was told.
    open            bigint NOT NULL DEFAULT 0,
    told_at         timestamptz NOT NULL DEFAULT dormouse_now()
);
CREATE INDEX installation_activity_last ON installation_activity (last_active_at);

-- What is kept of a sleeping machine's memory.
ALTER TABLE instance ADD COLUMN saved jsonb;
-- A host's gateway reads who lies there.
CREATE INDEX instance_host ON instance (host_id, installation_id) WHERE deleted_at IS NULL;
