DROP TABLE rollout_member;
DROP TABLE rollout;
ALTER TABLE operation DROP COLUMN rollout;
ALTER TABLE instance DROP COLUMN clone;
DROP INDEX installation_member;
ALTER TABLE installation DROP COLUMN own;
ALTER TABLE installation_group
    DROP COLUMN labels,
    DROP COLUMN revision,
    DROP COLUMN latest,
    DROP COLUMN updated_at,
    DROP COLUMN version;
