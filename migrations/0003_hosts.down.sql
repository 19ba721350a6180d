DROP INDEX address_lease_installation;
CREATE UNIQUE INDEX address_lease_installation ON address_lease (installation_id) WHERE installation_id IS NOT NULL;
ALTER TABLE installation
    DROP COLUMN reserved_host_id,
    DROP COLUMN reserved_memory_mib,
    DROP COLUMN reserved_disk_mib;
ALTER TABLE host
    DROP COLUMN drain_operation_id,
    DROP COLUMN drain_at_once;
