-- The server itself.

-- name: server
-- What has to be known before anything is kept on it.
SELECT current_setting('server_version_num')::integer, pg_is_in_recovery(),
    current_setting('default_transaction_read_only')::boolean;

-- name: ping
SELECT coalesce($1::timestamptz, statement_timestamp()), current_setting('server_version'),
    (SELECT max(number) FROM flowstone.migration);

-- name: may_identify
-- Whether we may ask for the number of the cluster.
SELECT has_function_privilege('pg_control_system()', 'EXECUTE');

-- name: identity
-- What no other store has, nor a copy of this one: the cluster's number, the database in it, when the schema was made.
SELECT concat_ws(' ', c.system_identifier, d.oid, m.at)
FROM pg_control_system() AS c
CROSS JOIN (SELECT oid FROM pg_database WHERE datname = current_database()) AS d
CROSS JOIN (
    SELECT date_part('epoch', applied_at) AS at FROM flowstone.migration ORDER BY number LIMIT 1
) AS m;

-- name: indexes
-- The indexes of our tables, those of partitions left out: name, table, columns, whether it is partial, and whether queries may use it.
SELECT i.relname::text, t.relname::text,
    ARRAY (SELECT pg_get_indexdef(x.indexrelid, n, false) FROM generate_series(1, x.indnkeyatts) AS n ORDER BY n),
    x.indpred IS NOT NULL, x.indisvalid AND x.indisready
FROM pg_index AS x
JOIN pg_class AS i ON i.oid = x.indexrelid
JOIN pg_class AS t ON t.oid = x.indrelid
WHERE t.relnamespace = to_regnamespace('flowstone') AND t.relkind IN ('r', 'p') AND NOT t.relispartition;
