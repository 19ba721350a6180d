DROP TABLE idempotency_key, event, operation, volume, instance, installation, group_revision, installation_group,
    package, address_lease, host, cluster;
DROP SEQUENCE operation_epoch;
DROP FUNCTION dormouse_now();
