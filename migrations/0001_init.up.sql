-- The hot tables (installation, instance, volume, operation, event) carry no
-- foreign keys: each would cost a statement per row written. Their references
-- are kept by the store's transactions and checked by a test
-- (docs/decisions/0003-no-foreign-keys-on-hot-tables.md).

-- All time in the schema comes from here, so that a test can put another clock in.
CREATE FUNCTION dormouse_now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT now()';

CREATE SEQUENCE operation_epoch;

CREATE TABLE cluster (
    id                  text PRIMARY KEY,
    name                text NOT NULL,
    provider            text NOT NULL,
    state               text NOT NULL CONSTRAINT cluster_state CHECK (state IN (
        'creation-requested', 'creation-in-progress', 'creation-failed', 'stable',
        'deletion-requested', 'deletion-in-progress', 'deletion-failed', 'deleted')),
    state_reason        text NOT NULL DEFAULT '',
    state_detail        text NOT NULL DEFAULT '',
    settings            jsonb NOT NULL DEFAULT '{}',
    allow_installations boolean NOT NULL DEFAULT true,
    check_report        jsonb NOT NULL DEFAULT '{}',
    created_at          timestamptz NOT NULL DEFAULT dormouse_now(),
    updated_at          timestamptz NOT NULL DEFAULT dormouse_now(),
    deleted_at          timestamptz
);
CREATE UNIQUE INDEX cluster_name ON cluster (name) WHERE deleted_at IS NULL;

CREATE TABLE host (
    id              text PRIMARY KEY,
    cluster_id      text NOT NULL REFERENCES cluster (id),
    name            text NOT NULL,
    state           text NOT NULL CONSTRAINT host_state CHECK (state IN ('up', 'cordoned', 'draining', 'down')),
    memory_mib      bigint NOT NULL,
    disk_mib        bigint NOT NULL,
    memory_held_mib bigint NOT NULL DEFAULT 0 CONSTRAINT host_memory_held CHECK (memory_held_mib >= 0),
    disk_held_mib   bigint NOT NULL DEFAULT 0 CONSTRAINT host_disk_held CHECK (disk_held_mib >= 0),
    address_pool    text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL DEFAULT dormouse_now()
);
CREATE INDEX host_cluster ON host (cluster_id, (memory_mib - memory_held_mib) DESC);

CREATE TABLE address_lease (
    id              text PRIMARY KEY,
    host_id         text NOT NULL,
    address         text NOT NULL,
    mac             text NOT NULL,
    installation_id text,
    leased_at       timestamptz,
    released_at     timestamptz
);
CREATE UNIQUE INDEX address_lease_address ON address_lease (host_id, address);
CREATE UNIQUE INDEX address_lease_installation ON address_lease (installation_id) WHERE installation_id IS NOT NULL;
-- Never used first, then the one that has been free the longest.
CREATE INDEX address_lease_free ON address_lease (host_id, released_at NULLS FIRST, id) WHERE installation_id IS NULL;

CREATE TABLE package (
    id         text PRIMARY KEY,
    name       text NOT NULL,
    version    text NOT NULL,
    digest     text NOT NULL,
    size_bytes bigint NOT NULL,
    kernel     text NOT NULL,
    manifest   jsonb NOT NULL,
    warnings   jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT dormouse_now(),
    deleted_at timestamptz
);
CREATE UNIQUE INDEX package_name_version ON package (name, version) WHERE deleted_at IS NULL;

CREATE TABLE installation_group (
    id         text PRIMARY KEY,
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT dormouse_now(),
    deleted_at timestamptz
);
CREATE UNIQUE INDEX installation_group_name ON installation_group (name) WHERE deleted_at IS NULL;

CREATE TABLE group_revision (
    group_id   text NOT NULL REFERENCES installation_group (id),
    number     bigint NOT NULL,
    config     jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT dormouse_now(),
    PRIMARY KEY (group_id, number)
);

CREATE TABLE installation (
    id                  text PRIMARY KEY,
    owner               text NOT NULL,
    name                text NOT NULL,
    cluster_id          text NOT NULL,
    state               text NOT NULL CONSTRAINT installation_state CHECK (state IN (
        'creation-requested', 'creation-in-progress', 'creation-failed', 'stable',
        'update-requested', 'update-in-progress', 'update-failed',
        'restart-requested', 'restart-in-progress', 'restart-failed',
        'hibernation-requested', 'hibernation-in-progress', 'hibernation-failed', 'hibernating',
        'wake-up-requested', 'wake-up-in-progress', 'wake-up-failed',
        'exited', 'crash-looping',
        'deletion-requested', 'deletion-in-progress', 'deletion-failed', 'deleted')),
    state_reason        text NOT NULL DEFAULT '',
    state_detail        text NOT NULL DEFAULT '',
    generation          bigint NOT NULL DEFAULT 1,
    package_id          text NOT NULL,
    memory_mib          integer NOT NULL,
    disk_mib            integer NOT NULL,
    vcpus               integer NOT NULL,
    env                 jsonb NOT NULL DEFAULT '{}',
    secrets             jsonb NOT NULL DEFAULT '{}',
    labels              jsonb NOT NULL DEFAULT '{}',
    when_full           text NOT NULL DEFAULT 'wait',
    group_id            text,
    group_revision      bigint,
    verified_package_id text NOT NULL DEFAULT '',
    running_package_id  text NOT NULL DEFAULT '',
    saved_package_id    text NOT NULL DEFAULT '',
    hibernated          boolean NOT NULL DEFAULT false,
    held_host_id        text NOT NULL DEFAULT '',
    held_memory_mib     bigint NOT NULL DEFAULT 0,
    held_disk_mib       bigint NOT NULL DEFAULT 0,
    created_at          timestamptz NOT NULL DEFAULT dormouse_now(),
    updated_at          timestamptz NOT NULL DEFAULT dormouse_now(),
    deleted_at          timestamptz,
    version             bigint NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX installation_name ON installation (name) WHERE deleted_at IS NULL;
CREATE INDEX installation_alive ON installation (id) WHERE deleted_at IS NULL;
CREATE INDEX installation_owner ON installation (owner, id) WHERE deleted_at IS NULL;
CREATE INDEX installation_cluster ON installation (cluster_id, id) WHERE deleted_at IS NULL;
CREATE INDEX installation_state ON installation (state, id) WHERE deleted_at IS NULL;
-- Labels cost nothing where there are none.
CREATE INDEX installation_labels ON installation USING gin (labels jsonb_path_ops) WHERE deleted_at IS NULL AND labels <> '{}';
-- Who uses a package. What runs or was verified is mostly what is desired, and then it is in the first index only.
CREATE INDEX installation_package ON installation (package_id) WHERE deleted_at IS NULL;
CREATE INDEX installation_running ON installation (running_package_id)
    WHERE deleted_at IS NULL AND running_package_id NOT IN ('', package_id);
CREATE INDEX installation_verified ON installation (verified_package_id)
    WHERE deleted_at IS NULL AND verified_package_id NOT IN ('', package_id);

CREATE TABLE instance (
    id              text PRIMARY KEY,
    installation_id text NOT NULL,
    role            text NOT NULL,
    cluster_id      text NOT NULL,
    host_id         text NOT NULL,
    provider_ref    text NOT NULL DEFAULT '',
    spec            jsonb NOT NULL,
    serving         boolean NOT NULL DEFAULT false,
    power           text NOT NULL CONSTRAINT instance_power CHECK (power IN ('planned', 'on', 'off', 'pending')),
    endpoints       jsonb,
    exit_record     jsonb,
    restarts        integer NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT dormouse_now(),
    deleted_at      timestamptz
);
CREATE UNIQUE INDEX instance_serving ON instance (installation_id, role) WHERE serving AND deleted_at IS NULL;
CREATE INDEX instance_installation ON instance (installation_id) WHERE deleted_at IS NULL;
CREATE INDEX instance_cluster ON instance (cluster_id, id) WHERE deleted_at IS NULL;

CREATE TABLE volume (
    id                   text PRIMARY KEY,
    installation_id      text NOT NULL,
    role                 text NOT NULL,
    cluster_id           text NOT NULL,
    host_id              text NOT NULL,
    provider_ref         text NOT NULL DEFAULT '',
    size_mib             integer NOT NULL,
    attached_instance_id text,
    created_at           timestamptz NOT NULL DEFAULT dormouse_now(),
    deleted_at           timestamptz
);
CREATE UNIQUE INDEX volume_attached ON volume (attached_instance_id) WHERE attached_instance_id IS NOT NULL AND deleted_at IS NULL;
CREATE UNIQUE INDEX volume_installation ON volume (installation_id, role) WHERE deleted_at IS NULL;
CREATE INDEX volume_cluster ON volume (cluster_id, id) WHERE deleted_at IS NULL;

CREATE TABLE operation (
    id               text PRIMARY KEY,
    kind             text NOT NULL,
    resource_type    text NOT NULL,
    resource_id      text NOT NULL,
    resource_name    text NOT NULL,
    owner            text NOT NULL DEFAULT '',
    class            smallint NOT NULL DEFAULT 0,
    state            text NOT NULL CONSTRAINT operation_state CHECK (state IN ('queued', 'active', 'succeeded', 'failed', 'cancelled')),
    -- What the resource's state becomes when a queued operation becomes active.
    request_state    text NOT NULL,
    step             text NOT NULL DEFAULT '',
    step_number      integer NOT NULL DEFAULT 1,
    steps_total      integer NOT NULL DEFAULT 1,
    step_since       timestamptz NOT NULL DEFAULT dormouse_now(),
    steps            jsonb NOT NULL DEFAULT '[]',
    attempt          integer NOT NULL DEFAULT 0,
    executor         text NOT NULL DEFAULT '',
    worker           text NOT NULL DEFAULT '',
    epoch            bigint NOT NULL DEFAULT 0,
    -- The earliest time at which it may be claimed; a claim moves it to the end of the lease.
    due_at           timestamptz NOT NULL DEFAULT dormouse_now(),
    step_deadline_at timestamptz,
    generation       bigint NOT NULL DEFAULT 0,
    wait_reason      text NOT NULL DEFAULT '',
    wait_detail      text NOT NULL DEFAULT '',
    error_kind       text NOT NULL DEFAULT '',
    fail_reason      text NOT NULL DEFAULT '',
    error            text NOT NULL DEFAULT '',
    observed         jsonb NOT NULL DEFAULT '{}',
    revision         bigint NOT NULL DEFAULT 1,
    created_at       timestamptz NOT NULL DEFAULT dormouse_now(),
    started_at       timestamptz,
    finished_at      timestamptz
);
CREATE UNIQUE INDEX operation_active ON operation (resource_id) WHERE state = 'active';
CREATE INDEX operation_due ON operation (class, due_at) WHERE state = 'active';
-- A resource's operations follow one another by generation; the newest that is not queued is the one shown.
CREATE INDEX operation_resource ON operation (resource_id, generation DESC);
-- What follows the active one, in order.
CREATE INDEX operation_queued ON operation (resource_id, generation) WHERE state = 'queued';
CREATE INDEX operation_worker ON operation (worker) WHERE state = 'active' AND worker <> '';
-- The states that are few, for lists by state; an operation that simply succeeds is never in it.
CREATE INDEX operation_rare ON operation (state, id) WHERE state IN ('failed', 'cancelled');

CREATE TABLE event (
    id            bigserial PRIMARY KEY,
    -- A reader that goes by id alone misses rows whose transaction commits late:
    -- it must read in the order of (txid, id), up to pg_snapshot_xmin.
    txid          xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at            timestamptz NOT NULL DEFAULT dormouse_now(),
    kind          text NOT NULL,
    resource_type text NOT NULL,
    resource_id   text NOT NULL,
    owner         text NOT NULL DEFAULT '',
    operation_id  text NOT NULL DEFAULT '',
    data          jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX event_order ON event (txid, id);
CREATE INDEX event_resource ON event (resource_id, id);

CREATE TABLE idempotency_key (
    key          text PRIMARY KEY,
    request_hash text NOT NULL,
    resource_id  text NOT NULL,
    operation_id text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT dormouse_now()
);
CREATE INDEX idempotency_key_age ON idempotency_key (created_at);
