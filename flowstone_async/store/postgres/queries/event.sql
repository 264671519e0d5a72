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
-- now. All of them lock the table (which is the parent of its partitions) before they have a number. What was committed meanwhile is seen by the next
-- statement.
SELECT least(latest.number,
    (SELECT min(latest.number + 2147483648
        - (latest.number - numbered.transactionid::text::bigint + 2147483648 & 4294967295))
    FROM pg_locks AS writing
    JOIN pg_locks AS numbered ON numbered.pid = writing.pid
    WHERE writing.locktype = 'relation' AND writing.relation = 'flowstone.event'::regclass
        AND writing.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND writing.mode = 'RowExclusiveLock' AND writing.granted
        AND numbered.locktype = 'transactionid' AND numbered.mode = 'ExclusiveLock' AND numbered.granted)) << 20
FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint) AS latest (number);

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
