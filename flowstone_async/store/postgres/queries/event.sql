-- Events and audit entries. A run's events are in the partition of its day: `born`.

-- name: events
-- Rows that hold a run's events behind $2, with about $3 of them. A row holds at most 1,000 events.
SELECT body
FROM (
    SELECT first_no, body, sum(count) OVER (ORDER BY first_no) - count AS before
    FROM (
        SELECT first_no, count, body
        FROM flowstone.event
        WHERE born = (SELECT (r.created_at AT TIME ZONE 'UTC')::date FROM flowstone.run AS r WHERE r.id = $1)
            AND run_id = $1 AND first_no > greatest($2::bigint - 1000, 0) AND first_no + count > $2::bigint + 1
        ORDER BY first_no
        LIMIT $3::bigint
    ) AS page
) AS counted
WHERE before < $3::bigint + 1000
ORDER BY first_no;

-- name: settled
-- The cursor below which nothing can be written any more: that of the oldest transaction that may be writing events
-- now. Running are those of the snapshot. Writers lock the table (which is the parent of its partitions) before they have
-- a number; so whoever is seen to hold its number, and not the table, writes elsewhere. A number that nobody is seen to
-- hold counts: it is held a moment after it was drawn. What was committed meanwhile is seen by the next statement.
WITH held AS MATERIALIZED (
    SELECT locktype, virtualtransaction AS holder, transactionid::text::bigint AS number
    FROM pg_locks
    WHERE granted AND (locktype = 'transactionid' AND mode = 'ExclusiveLock'
        OR locktype = 'relation' AND mode = 'RowExclusiveLock' AND relation = 'flowstone.event'::regclass
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
)
SELECT least(pg_snapshot_xmax(now.snapshot)::text::bigint,
    (SELECT min(running.number)
    FROM (SELECT xid::text::bigint AS number FROM pg_snapshot_xip(now.snapshot) AS x (xid)) AS running
    WHERE NOT EXISTS (
        SELECT
        FROM held AS elsewhere
        WHERE elsewhere.locktype = 'transactionid' AND elsewhere.number = running.number & 4294967295
            AND NOT EXISTS (
                SELECT FROM held AS writing
                WHERE writing.locktype = 'relation' AND writing.holder = elsewhere.holder)))) << 20
FROM (SELECT pg_current_snapshot() AS snapshot) AS now;

-- name: all_events
-- Rows that hold events of pipelines behind the cursor $2 and below $4, with about $3 of them.
SELECT cursor, run_id, pipeline, body
FROM (
    SELECT cursor, run_id, pipeline, body, sum(count) OVER (ORDER BY cursor) - count AS before
    FROM (
        SELECT e.*
        FROM unnest($1::text[]) AS n (pipeline)
        CROSS JOIN LATERAL (
            SELECT e.cursor, e.run_id, e.pipeline, e.count, e.body
            FROM flowstone.event AS e
            WHERE e.pipeline = n.pipeline AND e.cursor > $2::bigint - 1000 AND e.cursor < $4::bigint
                AND e.count > 0 AND e.cursor + e.count > $2::bigint + 1
            ORDER BY e.cursor
            LIMIT $3::bigint
        ) AS e
        ORDER BY e.cursor
        LIMIT $3::bigint
    ) AS page
) AS counted
WHERE before < $3::bigint + 1000
ORDER BY cursor;

-- name: audit
SELECT no, at, action, subject, actor, actor_kind, run_id, details
FROM flowstone.audit
WHERE $2::bigint IS NULL OR no < $2
ORDER BY no DESC
LIMIT $1;

-- name: commit_instants
-- When steps were committed, by run and number of their first event row.
SELECT e.run_id, e.first_no, e.at
FROM unnest($1::text[], $2::text[]) AS n (run_id, first_no)
CROSS JOIN LATERAL (
    SELECT (r.created_at AT TIME ZONE 'UTC')::date AS born FROM flowstone.run AS r WHERE r.id = n.run_id::uuid OFFSET 0
) AS r
CROSS JOIN LATERAL (
    SELECT e.run_id, e.first_no, e.at FROM flowstone.event AS e
    WHERE e.born = r.born AND e.run_id = n.run_id::uuid AND e.first_no = n.first_no::bigint
    OFFSET 0
) AS e;
