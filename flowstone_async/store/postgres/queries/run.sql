-- Runs: looking them up, cancelling, handing on.

-- name: run
SELECT id, pipeline, targets, partition, options, params, state, worker, fence, continuable, lost, created_at,
    finished_at, error, submitted, priority, at
FROM flowstone.run
WHERE id = $1;

-- name: runs_known
-- As `run`, for several.
SELECT id, pipeline, targets, partition, options, params, state, worker, fence, continuable, lost, created_at,
    finished_at, error, submitted, priority, at
FROM flowstone.run
WHERE id = ANY ($1::uuid[]);

-- name: runs
-- Newest first, of several pipelines, behind a run. $2 state, $3 a target as `"name"`, $4 instant and $5 id behind
-- which to go on.
SELECT r.*
FROM unnest($1::text[]) AS n (pipeline)
CROSS JOIN LATERAL (
    SELECT r.id, r.pipeline, r.targets, r.partition, r.options, r.params, r.state, r.worker, r.fence, r.continuable,
        r.lost, r.created_at, r.finished_at, r.error, r.submitted, r.priority, r.at
    FROM flowstone.run AS r
    WHERE r.pipeline = n.pipeline
        AND (r.created_at, r.id) < ($4::timestamptz, $5::uuid)
        AND ($2::text IS NULL OR r.state = $2)
        AND ($3::text IS NULL OR strpos(r.targets, $3) > 0)
    ORDER BY r.created_at DESC, r.id DESC
    LIMIT $6
) AS r
ORDER BY r.created_at DESC, r.id DESC
LIMIT $6;

-- name: runs_of_target
-- As `runs`, with a target. The lists of targets that there are, each with one look at the index, then those runs whose
-- list has it; a list that was cut may.
WITH RECURSIVE known AS (
    SELECT n.pipeline, (
        SELECT substr(r.targets, 1, 200) COLLATE "C"
        FROM flowstone.run AS r
        WHERE r.pipeline = n.pipeline
        ORDER BY substr(r.targets, 1, 200) COLLATE "C"
        LIMIT 1
    ) AS cut
    FROM unnest($1::text[]) AS n (pipeline)
    UNION ALL
    SELECT k.pipeline, (
        SELECT substr(r.targets, 1, 200) COLLATE "C"
        FROM flowstone.run AS r
        WHERE r.pipeline = k.pipeline AND substr(r.targets, 1, 200) COLLATE "C" > k.cut
        ORDER BY substr(r.targets, 1, 200) COLLATE "C"
        LIMIT 1
    )
    FROM known AS k
    WHERE k.cut IS NOT NULL
)
SELECT r.*
FROM known AS k
CROSS JOIN LATERAL (
    SELECT r.id, r.pipeline, r.targets, r.partition, r.options, r.params, r.state, r.worker, r.fence, r.continuable,
        r.lost, r.created_at, r.finished_at, r.error, r.submitted, r.priority, r.at
    FROM flowstone.run AS r
    WHERE r.pipeline = k.pipeline AND substr(r.targets, 1, 200) COLLATE "C" = k.cut
        AND (r.created_at, r.id) < ($4::timestamptz, $5::uuid)
        AND ($2::text IS NULL OR r.state = $2)
        AND strpos(r.targets, $3) > 0
    ORDER BY r.created_at DESC, r.id DESC
    LIMIT $6
) AS r
WHERE k.cut IS NOT NULL AND (strpos(k.cut, $3) > 0 OR length(k.cut) = 200)
ORDER BY r.created_at DESC, r.id DESC
LIMIT $6;

-- name: runs_active
-- As `runs`, for a state that is not final.
SELECT r.id, r.pipeline, r.targets, r.partition, r.options, r.params, r.state, r.worker, r.fence, r.continuable,
    r.lost, r.created_at, r.finished_at, r.error, r.submitted, r.priority, r.at
FROM flowstone.run AS r
WHERE r.finished_at IS NULL AND r.pipeline = ANY ($1::text[]) AND r.state = $2
    AND ($3::text IS NULL OR strpos(r.targets, $3) > 0)
    AND (r.created_at, r.id) < ($4::timestamptz, $5::uuid)
ORDER BY r.created_at DESC, r.id DESC
LIMIT $6;

-- name: runs_unhappy
-- As `runs`, for `failed` and `cancelled`.
SELECT r.*
FROM unnest($1::text[]) AS n (pipeline)
CROSS JOIN LATERAL (
    SELECT r.id, r.pipeline, r.targets, r.partition, r.options, r.params, r.state, r.worker, r.fence, r.continuable,
        r.lost, r.created_at, r.finished_at, r.error, r.submitted, r.priority, r.at
    FROM flowstone.run AS r
    WHERE r.state IN ('failed', 'cancelled') AND r.state = $2 AND r.pipeline = n.pipeline
        AND ($3::text IS NULL OR strpos(r.targets, $3) > 0)
        AND (r.created_at, r.id) < ($4::timestamptz, $5::uuid)
    ORDER BY r.created_at DESC, r.id DESC
    LIMIT $6
) AS r
ORDER BY r.created_at DESC, r.id DESC
LIMIT $6;

-- name: driven
-- What a process has to know of a run that it has not created: pipeline, owner, the keys the run holds, and whether it has
-- gates.
SELECT r.pipeline, coalesce(r.worker, '') AS worker, k.asset IS NOT NULL AS holds, k.pipeline AS of, k.asset,
    k.partition, k.io, EXISTS (SELECT FROM flowstone.gate AS g WHERE g.run_id = $1) AS gated
FROM flowstone.run AS r
LEFT JOIN LATERAL (
    SELECT k.pipeline, k.asset, k.partition, k.io
    FROM (
        SELECT DISTINCT c.key ->> 0 AS pipeline, c.key ->> 1 AS asset, c.key ->> 2 AS partition, c.key ->> 3 AS io
        FROM flowstone.event AS e
        CROSS JOIN LATERAL json_array_elements(e.claims::json) AS c (key)
        WHERE e.born = (r.created_at AT TIME ZONE 'UTC')::date AND e.run_id = $1 AND e.claims IS NOT NULL
    ) AS asked
    CROSS JOIN LATERAL (
        SELECT k.pipeline, k.asset, k.partition, k.io
        FROM flowstone.asset_key AS k
        WHERE k.pipeline = asked.pipeline AND k.asset = asked.asset AND k.io = asked.io
            AND k.partition = asked.partition AND k.claim_run = $1
        OFFSET 0
    ) AS k
) AS k ON r.finished_at IS NULL
WHERE r.id = $1;

-- name: committed_before
-- Whether a step was committed already, and whether its token is still good.
SELECT EXISTS (
        SELECT FROM flowstone.event
        WHERE born = (SELECT (r.created_at AT TIME ZONE 'UTC')::date FROM flowstone.run AS r WHERE r.id = $1)
            AND run_id = $1 AND first_no = $2),
    EXISTS (SELECT FROM flowstone.run WHERE id = $1 AND fence = $3 AND state = 'running');

-- name: lock_events
-- Before anything is written: `settled` relies on it.
LOCK TABLE ONLY flowstone.event IN ROW EXCLUSIVE MODE;

-- name: end_run
-- End a run from outside: one that is owned under the fence $5, if that is given.
UPDATE flowstone.run
SET state = $3, error = $4, fence = fence + 1, finished_at = coalesce($2::timestamptz, statement_timestamp())
WHERE id = $1 AND CASE WHEN finished_at IS NULL THEN true END AND ($5::bigint IS NULL OR (fence = $5 AND worker IS NOT NULL))
RETURNING id, pipeline, targets, partition, options, params, state, worker, fence, continuable, lost, created_at,
    finished_at, error, submitted, priority, at;

-- name: end_claims
-- Free what a run was computing when it was ended from outside, with the run's end as the outcome.
INSERT INTO flowstone.asset_key AS k (pipeline, asset, io, partition)
SELECT asked.pipeline, asked.asset, asked.io, asked.partition
FROM (
    SELECT DISTINCT c.key ->> 0 AS pipeline, c.key ->> 1 AS asset, c.key ->> 2 AS partition, c.key ->> 3 AS io
    FROM flowstone.event AS e
    CROSS JOIN LATERAL json_array_elements(e.claims::json) AS c (key)
    WHERE e.born = (SELECT (r.created_at AT TIME ZONE 'UTC')::date FROM flowstone.run AS r WHERE r.id = $1)
        AND e.run_id = $1 AND e.claims IS NOT NULL
) AS asked
CROSS JOIN LATERAL (
    SELECT FROM flowstone.asset_key AS k
    WHERE k.pipeline = asked.pipeline AND k.asset = asked.asset AND k.io = asked.io
        AND k.partition = asked.partition AND k.claim_run = $1
    OFFSET 0
) AS holds
ORDER BY asked.pipeline COLLATE "C", asked.asset COLLATE "C", asked.io COLLATE "C", asked.partition COLLATE "C"
ON CONFLICT (pipeline, asset, io, partition) DO UPDATE
SET claim_run = NULL, state = $2, run_id = $1, attempts = 1, started_at = k.claimed_at, completed_at = $3,
    seconds = extract(epoch FROM $3::timestamptz - k.claimed_at), error = $4, reason = NULL, previous = NULL
WHERE k.claim_run = $1
RETURNING k.pipeline, k.asset, k.partition, k.io, k.contended;

-- name: last_event
SELECT coalesce(
    (SELECT first_no + count - 1
    FROM flowstone.event
    WHERE born = (SELECT (r.created_at AT TIME ZONE 'UTC')::date FROM flowstone.run AS r WHERE r.id = $1)
        AND run_id = $1 AND first_no > 0
    ORDER BY first_no DESC
    LIMIT 1),
    0);

-- name: append_events
INSERT INTO flowstone.event (born, run_id, first_no, count, cursor, pipeline, body, at)
SELECT (SELECT (r.created_at AT TIME ZONE 'UTC')::date FROM flowstone.run AS r WHERE r.id = $1), $1, n.first_no, n.count,
    (SELECT pg_current_xact_id()::text::bigint << 20) + sum(n.count) OVER (ORDER BY n.first_no) - n.count,
    $5, n.body, $6
FROM unnest($2::bigint[], $3::integer[], $4::text[]) AS n (first_no, count, body);

-- name: append_audit
INSERT INTO flowstone.audit (action, subject, actor, actor_kind, run_id, details, at)
SELECT n.*, coalesce($7::timestamptz, statement_timestamp())
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::text[]) AS n;

-- name: hand_back
UPDATE flowstone.run SET worker = NULL
WHERE id = $1 AND fence = $2 AND state = 'running' AND worker IS NOT NULL
RETURNING id;

-- name: hand_back_all
UPDATE flowstone.run SET worker = NULL
WHERE finished_at IS NULL AND state = 'running' AND worker = $1
RETURNING id;

-- name: watch
-- Let the run's owner know that another process waits for it; whether it has none yet, and a claim may have skipped it.
UPDATE flowstone.run SET watched = true WHERE id = $1 AND CASE WHEN finished_at IS NULL THEN true END AND NOT watched
RETURNING state = 'queued' AS queued;
