-- What boots have told of a package that reading it could not.
ALTER TABLE package ADD COLUMN evidence jsonb NOT NULL DEFAULT '[]';
