ALTER TABLE rollout_member DROP COLUMN strikes;
