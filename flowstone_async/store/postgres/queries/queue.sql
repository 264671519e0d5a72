-- The queue: runs that are submitted, and workers that claim them.

-- name: submit
SELECT run_id, outcome
FROM flowstone.submit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15);

-- name: claim
-- Give the worker $1 at most $4 queued runs of the pipelines $2 that are due. One branch for each priority, looked into
-- only if those before it gave too few; the lock is taken in the scan, so that two claimers never look at the same run.
-- For each priority, runs are left out that were due before $5, or else more than $6 seconds ago (floors.py): both are
-- arrays as text, as every connection that claims would ask the server what such an array is.
WITH me AS MATERIALIZED (
    SELECT FROM flowstone.worker WHERE id = $1 AND NOT dead AND lease_until > statement_timestamp()
),
found AS MATERIALIZED (
    SELECT q.id, q.priority, q.due_at, q.no
    FROM generate_series(0, 3) AS p (priority)
    CROSS JOIN LATERAL (
        SELECT r.id, r.priority, r.due_at, r.no
        FROM unnest($2::text[]) AS n (pipeline)
        CROSS JOIN LATERAL (
            SELECT r.id, r.priority, r.due_at, r.no
            FROM flowstone.run AS r
            WHERE r.state = 'queued' AND r.pipeline = n.pipeline AND r.priority = p.priority
                AND r.due_at <= coalesce($3::timestamptz, statement_timestamp())
                AND r.due_at >= coalesce(($5::text::timestamptz[])[p.priority + 1],
                    statement_timestamp() - ($6::text::float8[])[p.priority + 1] * interval '1 second', '-infinity')
            ORDER BY r.due_at, r.no
            LIMIT $4
            FOR NO KEY UPDATE SKIP LOCKED
        ) AS r
        ORDER BY r.due_at, r.no
        LIMIT $4
    ) AS q
    WHERE EXISTS (SELECT FROM me)
    LIMIT $4
),
claimed AS (
    UPDATE flowstone.run AS r
    SET state = 'running', worker = $1, fence = r.fence + 1
    -- Not r.state = 'queued': a young store's plan would read the whole index of the queue instead of the primary key.
    WHERE r.id = ANY (ARRAY (SELECT id FROM found)) AND CASE r.state WHEN 'queued' THEN true END
    RETURNING r.id, r.pipeline, r.targets, r.partition, r.options, r.params, r.state, r.worker, r.fence, r.continuable,
        r.lost, r.created_at, r.finished_at, r.error, r.submitted, r.priority, r.at, r.due_at, r.no
)
SELECT * FROM claimed ORDER BY priority, due_at, no;

-- name: owned
-- The running runs of the pipelines $2 that the worker $1 owns.
SELECT id, fence FROM flowstone.run
WHERE finished_at IS NULL AND pipeline = ANY ($2::text[]) AND worker = $1 AND state = 'running';

-- name: moved_on
-- Those of the runs $1, owned under the fences $2, that have ended or have another fence.
SELECT n.id
FROM unnest($1::uuid[], $2::bigint[]) AS n (id, fence)
LEFT JOIN LATERAL (
    SELECT r.fence, r.finished_at FROM flowstone.run AS r WHERE r.id = n.id OFFSET 0
) AS r ON true
WHERE (r.fence = n.fence AND r.finished_at IS NULL) IS NOT TRUE;

-- name: joined
-- Whether a submission stands for the run.
SELECT EXISTS (SELECT FROM flowstone.run_key WHERE run_id = $1)
    OR EXISTS (SELECT FROM flowstone.run WHERE id = $1 AND submitted);

-- name: lock_run
-- Against being joined: whoever joins a run holds it FOR KEY SHARE, and then looks whether it goes on.
SELECT id FROM flowstone.run WHERE id = $1 FOR UPDATE;

-- name: join_run
-- Mark the run $1 for `joined`, as a submission does that joins it; nothing if it has ended.
WITH held AS (
    SELECT r.id, r.pipeline, r.finished_at FROM flowstone.run AS r WHERE r.id = $1 FOR KEY SHARE
), marked AS (
    INSERT INTO flowstone.run_key (pipeline, key, run_id, subject)
    SELECT held.pipeline, 'joined by a caller of ' || held.id, held.id, '' FROM held WHERE held.finished_at IS NULL
    ON CONFLICT DO NOTHING
)
SELECT held.id FROM held WHERE held.finished_at IS NULL;
