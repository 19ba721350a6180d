-- Which key seals the tenants' secrets: every provisioner must have the same one,
-- and compares at its start. There is one row at most. The check value is an
-- HMAC-SHA256 of a fixed text under the key, and tells nothing of it.
CREATE TABLE secret_key (
    only_one    boolean PRIMARY KEY DEFAULT true CONSTRAINT secret_key_only_one CHECK (only_one),
    id          text NOT NULL,
    check_value text NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT dormouse_now()
);
