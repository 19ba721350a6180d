-- Groups, their revisions, and the rollouts that move members between them.

ALTER TABLE installation_group
    ADD COLUMN labels     jsonb NOT NULL DEFAULT '{}',
    -- What new members pin, and the newest there is.
    ADD COLUMN revision   bigint NOT NULL DEFAULT 1,
    ADD COLUMN latest     bigint NOT NULL DEFAULT 1,
    ADD COLUMN updated_at timestamptz NOT NULL DEFAULT dormouse_now(),
    ADD COLUMN version    bigint NOT NULL DEFAULT 1;

-- What an installation sets itself, which wins over its group. The columns
-- beside it hold what comes of both.
ALTER TABLE installation ADD COLUMN own jsonb NOT NULL DEFAULT '{}';
CREATE INDEX installation_member ON installation (group_id, id) WHERE deleted_at IS NULL AND group_id IS NOT NULL;

-- A throw-away copy of a sleeper.
ALTER TABLE instance ADD COLUMN clone boolean NOT NULL DEFAULT false;

-- For which rollout it works: null for none.
ALTER TABLE operation ADD COLUMN rollout jsonb;

CREATE TABLE rollout (
    id            text PRIMARY KEY,
    group_id      text NOT NULL REFERENCES installation_group (id),
    from_revision bigint NOT NULL,
    to_revision   bigint NOT NULL,
    spec          jsonb NOT NULL,
    state         text NOT NULL CONSTRAINT rollout_state CHECK (state IN (
        'running', 'paused', 'halted', 'rolling-back', 'succeeded', 'rolled-back', 'cancelled', 'superseded')),
    reason        text NOT NULL DEFAULT '',
    detail        text NOT NULL DEFAULT '',
    ring          integer NOT NULL DEFAULT 0,
    wave          integer NOT NULL DEFAULT 0,
    wave_since    timestamptz,
    progress_at   timestamptz,
    forced        boolean NOT NULL DEFAULT false,
    -- The claim under which a step last wrote it.
    decided_epoch bigint NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT dormouse_now(),
    finished_at   timestamptz,
    version       bigint NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX rollout_open ON rollout (group_id) WHERE finished_at IS NULL;
CREATE INDEX rollout_group ON rollout (group_id, id);

CREATE TABLE rollout_member (
    rollout_id      text NOT NULL,
    installation_id text NOT NULL,
    name            text NOT NULL,
    ring            integer NOT NULL,
    wave            integer NOT NULL,
    ord             integer NOT NULL,
    from_revision   bigint NOT NULL,
    cluster_id      text NOT NULL,
    memory_mib      integer NOT NULL,
    labels          jsonb NOT NULL DEFAULT '{}',
    state           text NOT NULL CONSTRAINT rollout_member_state CHECK (state IN (
        'waiting', 'rolling', 'verifying', 'done', 'asleep-verified', 'unverifiable', 'failed',
        'rolling-back', 'rolled-back', 'gone')),
    reason          text NOT NULL DEFAULT '',
    detail          text NOT NULL DEFAULT '',
    attempts        integer NOT NULL DEFAULT 0,
    operation_id    text NOT NULL DEFAULT '',
    started_at      timestamptz,
    finished_at     timestamptz,
    health          text NOT NULL DEFAULT '',
    bad_since       timestamptz,
    observed_at     timestamptz,
    PRIMARY KEY (rollout_id, installation_id)
);
-- Those that are in work now, which are few.
CREATE INDEX rollout_member_busy ON rollout_member (rollout_id) WHERE state IN ('rolling', 'verifying', 'rolling-back');
