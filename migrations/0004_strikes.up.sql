-- How often in a row the new release failed on a member: the judge's memory.
ALTER TABLE rollout_member ADD COLUMN strikes integer NOT NULL DEFAULT 0;
