-- What the tables hold and what weighs on them; asked by people, not by engines.

-- name: table_sizes
-- Our tables, largest first: rows (about), bytes with indexes, dead rows, partitions.
SELECT t.relname::text AS name, sum(greatest(s.n_live_tup, c.reltuples, 0))::bigint AS rows,
    sum(pg_total_relation_size(c.oid))::bigint AS size, coalesce(sum(s.n_dead_tup), 0)::bigint AS dead,
    count(i.inhrelid) AS partitions
FROM pg_class AS c
LEFT JOIN pg_inherits AS i ON i.inhrelid = c.oid
JOIN pg_class AS t ON t.oid = coalesce(i.inhparent, c.oid)
LEFT JOIN pg_stat_user_tables AS s ON s.relid = c.oid
WHERE c.relnamespace = to_regnamespace('flowstone') AND c.relkind = 'r'
GROUP BY t.relname
ORDER BY size DESC, name;

-- name: partition_sizes
-- The partitions of events and steps, by name: rows (about), and bytes with indexes.
SELECT c.relname::text AS name, greatest(s.n_live_tup, c.reltuples, 0)::bigint AS rows,
    pg_total_relation_size(c.oid) AS size
FROM pg_inherits AS i
JOIN pg_class AS c ON c.oid = i.inhrelid
LEFT JOIN pg_stat_user_tables AS s ON s.relid = c.oid
WHERE i.inhparent IN ('flowstone.event'::regclass, 'flowstone.step'::regclass)
ORDER BY name;

-- name: stray_days
-- Days whose events are in the default partition, of its first 100,000 rows, and how many rows.
SELECT e.born, count(*)
FROM (SELECT born FROM flowstone.event_default ORDER BY born LIMIT 100000) AS e
GROUP BY e.born
ORDER BY e.born;

-- name: unswept
-- How many deleted scatters have left something, and since when nothing was deleted of the one that has waited for longest.
SELECT count(DISTINCT scatter) AS scatters, min(at) AS since
FROM (SELECT scatter, at FROM flowstone.scatter_remains UNION ALL SELECT scatter, at FROM flowstone.scatter_trim) AS n;

-- name: runs_by_state
SELECT state, count(*), min(created_at) FILTER (WHERE finished_at IS NULL) FROM flowstone.run GROUP BY state;

-- name: pressure
-- Seconds since the oldest transaction began that keeps dead rows from being removed, how many transactions ago whatever
-- does so began, and how full the queue of notifications is.
SELECT max(extract(epoch FROM clock_timestamp() - a.xact_start)) FILTER (
        WHERE a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)::double precision AS seconds,
    coalesce(greatest(max(age(a.backend_xmin)), max(age(a.backend_xid)),
        (SELECT max(greatest(age(xmin), age(catalog_xmin))) FROM pg_replication_slots),
        (SELECT max(age(transaction)) FROM pg_prepared_xacts)), 0) AS transactions,
    pg_notification_queue_usage() AS notifications
FROM pg_stat_activity AS a
WHERE a.pid <> pg_backend_pid()
    AND (a.datname = current_database() OR a.datname IS NULL);

-- name: held
-- Who has kept dead rows of this database from being removed for more than $1 seconds, longest first: sessions in a
-- transaction, and prepared transactions. Last, slots of standbys that are not there: since when is not known.
SELECT h.kind, h.name, h.who, h.seconds
FROM (
    SELECT 'session' AS kind, a.pid::text AS name, a.xact_start AS since,
        concat_ws(', ', a.usename, nullif(a.application_name, ''), a.state) AS who,
        extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds
    FROM pg_stat_activity AS a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
        AND (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
    UNION ALL
    SELECT 'prepared', p.gid, p.prepared, p.owner, extract(epoch FROM clock_timestamp() - p.prepared)::float8
    FROM pg_prepared_xacts AS p
    WHERE p.database = current_database()
    UNION ALL
    SELECT 'slot', s.slot_name, NULL, NULL, NULL
    FROM pg_replication_slots AS s
    WHERE s.xmin IS NOT NULL AND NOT s.active
) AS h
WHERE h.seconds > $1 OR h.seconds IS NULL
ORDER BY h.since, h.name;
