-- Hosts that are cordoned, drained and removed, and what a move holds meanwhile.

ALTER TABLE host
    -- The last operation that drained it, and how many it moves at a time.
    ADD COLUMN drain_operation_id text NOT NULL DEFAULT '',
    ADD COLUMN drain_at_once      integer NOT NULL DEFAULT 0;

-- What a move holds on another host: where it goes, or where it comes back to.
ALTER TABLE installation
    ADD COLUMN reserved_host_id    text NOT NULL DEFAULT '',
    ADD COLUMN reserved_memory_mib bigint NOT NULL DEFAULT 0,
    ADD COLUMN reserved_disk_mib   bigint NOT NULL DEFAULT 0;

-- During a move it has an address on both hosts; the one on the host that it is held on counts.
DROP INDEX address_lease_installation;
CREATE UNIQUE INDEX address_lease_installation ON address_lease (installation_id, host_id) WHERE installation_id IS NOT NULL;
