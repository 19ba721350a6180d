ALTER TABLE package DROP COLUMN evidence;
