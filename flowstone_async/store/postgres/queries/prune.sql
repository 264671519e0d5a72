-- Forgetting, in small batches.

-- name: finished_runs
-- Runs that ended before $1 seconds ago, with the day on which they were created, at most $2, found through the index on
-- each pipeline's runs. $4 says to leave out the day on which those $1 seconds began, $5 whatever is not older than a day.
-- Those that somebody else is forgetting are left to them.
WITH RECURSIVE names (pipeline) AS (
    (SELECT pipeline FROM flowstone.run ORDER BY pipeline LIMIT 1)
    UNION ALL
    SELECT (SELECT r.pipeline FROM flowstone.run AS r WHERE r.pipeline > n.pipeline ORDER BY r.pipeline LIMIT 1)
    FROM names AS n
    WHERE n.pipeline IS NOT NULL
)
SELECT r.id, (r.created_at AT TIME ZONE 'UTC')::date AS born
FROM names AS n
CROSS JOIN LATERAL (
    SELECT r.id, r.created_at
    FROM flowstone.run AS r
    WHERE r.pipeline = n.pipeline
        AND r.created_at < least($5::date::timestamp AT TIME ZONE 'UTC', CASE WHEN $4::boolean
            THEN date_trunc('day', coalesce($3::timestamptz, statement_timestamp()) - $1 * interval '1 second', 'UTC')
            ELSE coalesce($3::timestamptz, statement_timestamp()) - $1 * interval '1 second' END)
        AND r.finished_at < coalesce($3::timestamptz, statement_timestamp()) - $1 * interval '1 second'
    ORDER BY r.created_at, r.id
    LIMIT $2
    FOR UPDATE SKIP LOCKED
) AS r
LIMIT $2;

-- name: forget_events
-- At most $3 event rows of runs that were created on the day $1: all of them are in one partition.
DELETE FROM flowstone.event AS e
WHERE e.born = $1
    AND e.ctid = ANY (ARRAY (
        SELECT p.ctid FROM flowstone.event AS p WHERE p.born = $1 AND p.run_id = ANY ($2::uuid[]) LIMIT $3))
RETURNING e.first_no;

-- name: forget_runs
-- With the keys that they were submitted under.
WITH forgotten AS (
    DELETE FROM flowstone.run WHERE id = ANY ($1::uuid[]) AND finished_at IS NOT NULL RETURNING id
)
DELETE FROM flowstone.run_key WHERE run_id = ANY (ARRAY (SELECT id FROM forgotten));

-- name: superseded
-- Materializations that were superseded more than $1 seconds ago and are not current, at most $2.
SELECT s.materialization
FROM flowstone.superseded AS s
WHERE s.at < coalesce($3::timestamptz, statement_timestamp()) - $1 * interval '1 second'
ORDER BY s.at
LIMIT $2
FOR UPDATE SKIP LOCKED;

-- name: current_ones
-- Those of some materializations that are current.
SELECT m.id
FROM unnest($1::uuid[]) AS n (id)
CROSS JOIN LATERAL (SELECT m.* FROM flowstone.materialization AS m WHERE m.id = n.id OFFSET 0) AS m
CROSS JOIN LATERAL (
    SELECT FROM flowstone.asset_key AS k
    WHERE k.pipeline = m.pipeline AND k.asset = m.asset AND k.io = m.io AND k.partition = m.partition
        AND k.current = m.id
    OFFSET 0
) AS k;

-- name: forget_superseded
DELETE FROM flowstone.superseded
WHERE materialization = ANY ($1::uuid[])
    AND at < coalesce($3::timestamptz, statement_timestamp()) - $2 * interval '1 second';

-- name: forget_materializations
DELETE FROM flowstone.materialization WHERE id = ANY ($1::uuid[]);

-- name: forget_lineage
DELETE FROM flowstone.lineage AS l
WHERE l.ctid = ANY (ARRAY (
    SELECT e.ctid
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[])
        AS n (pipeline, asset, partition, io, materialization)
    CROSS JOIN LATERAL (
        SELECT e.ctid FROM flowstone.lineage AS e
        WHERE e.pipeline = n.pipeline AND e.asset = n.asset AND e.io = n.io AND e.partition = n.partition
            AND e.materialization = n.materialization
        OFFSET 0
    ) AS e));

-- name: uploads
-- Streams begun more than $1 seconds ago, with whether their record has come.
SELECT u.materialization, m.id IS NOT NULL
FROM (
    SELECT u.materialization FROM flowstone.upload AS u
    WHERE u.at < coalesce($3::timestamptz, statement_timestamp()) - $1 * interval '1 second'
    ORDER BY u.at
    LIMIT $2
    FOR UPDATE SKIP LOCKED
) AS u
LEFT JOIN LATERAL (SELECT m.id FROM flowstone.materialization AS m WHERE m.id = u.materialization OFFSET 0) AS m ON true;

-- name: forget_workers
-- Workers that were declared dead more than a day ago.
DELETE FROM flowstone.worker AS w
WHERE w.dead AND w.lease_until < statement_timestamp() - interval '1 day';

-- name: remains_listed
-- Whether anything is left of deleted scatters: nearly always nothing is, and the statements that delete it take long to plan.
SELECT EXISTS (SELECT FROM flowstone.scatter_trim), EXISTS (SELECT FROM flowstone.scatter_remains);
