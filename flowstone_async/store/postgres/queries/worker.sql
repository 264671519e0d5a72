-- Workers, their leases, and the runs of dead ones. Leases run on the server's real time, also where a virtual clock
-- decides about instants.

-- name: register
INSERT INTO flowstone.worker (id, host, pid, pipelines, started_at, lease_until)
VALUES ($1, $2, $3, $4, statement_timestamp(), statement_timestamp() + $5 * interval '1 second');

-- name: renew
-- Never brings a worker back that was declared dead.
UPDATE flowstone.worker SET lease_until = statement_timestamp() + $2 * interval '1 second'
WHERE id = $1 AND NOT dead
RETURNING id;

-- name: unregister
DELETE FROM flowstone.worker WHERE id = $1;

-- name: expire
UPDATE flowstone.worker SET dead = true WHERE id = $1;

-- name: orphans_seen
-- Whether $1 may take anything now, other workers with their leases, and whether there are runs without a live owner. Those
-- are looked for in the index before, between and behind the ids of live workers: asked several times a second, it must
-- read neither what is queued, nor what live workers own, nor what is left of either while nothing can be vacuumed. With
-- OFFSET 0 nobody makes a hash of all that there are to find whether there is one.
WITH live AS MATERIALIZED (
    SELECT w.id, w.lease_until < statement_timestamp() AS expired, lag(w.id, 1, '') OVER (ORDER BY w.id) AS before
    FROM flowstone.worker AS w
    WHERE NOT w.dead
)
SELECT EXISTS (SELECT FROM live WHERE id = $1),
    ARRAY (SELECT id FROM live WHERE id <> $1 ORDER BY id),
    ARRAY (SELECT id FROM live WHERE id <> $1 AND expired),
    EXISTS (
        SELECT FROM unnest($2::text[]) AS n (pipeline)
        WHERE EXISTS (
                SELECT FROM flowstone.run AS r
                WHERE r.finished_at IS NULL AND r.pipeline = n.pipeline AND r.state = 'running' AND r.worker IS NULL
                    AND ($3::uuid IS NULL OR r.id = $3)
                OFFSET 0)
            OR EXISTS (
                SELECT FROM live AS l
                CROSS JOIN LATERAL (
                    SELECT FROM flowstone.run AS r
                    WHERE r.finished_at IS NULL AND r.pipeline = n.pipeline AND r.state = 'running'
                        AND r.worker > l.before AND r.worker < l.id AND ($3::uuid IS NULL OR r.id = $3)
                    OFFSET 0
                ) AS r)
            OR EXISTS (
                SELECT FROM flowstone.run AS r
                WHERE r.finished_at IS NULL AND r.pipeline = n.pipeline AND r.state = 'running'
                    AND r.worker > coalesce((SELECT max(l.id) FROM live AS l), '') AND ($3::uuid IS NULL OR r.id = $3)
                OFFSET 0)
    );

-- name: declare_dead
-- $1 workers whose lease has run out, $2 workers whose process is known to be gone.
UPDATE flowstone.worker SET dead = true
WHERE id = ANY (ARRAY (
    SELECT id FROM flowstone.worker
    WHERE NOT dead AND (id = ANY ($2::text[]) OR (id = ANY ($1::text[]) AND lease_until < statement_timestamp()))
    ORDER BY id
    FOR UPDATE SKIP LOCKED))
RETURNING id;

-- name: orphans
-- Running runs without a live owner; nobody else looks at one while it is locked. Those that nobody owns, which may be very
-- many, are taken from the front of the index; those of the dead are looked for among all that somebody owns.
SELECT r.id, r.worker
FROM (
    SELECT a.id, a.worker, a.created_at
    FROM unnest($1::text[]) AS n (pipeline)
    CROSS JOIN LATERAL (
        SELECT r.id, r.worker, r.created_at
        FROM flowstone.run AS r
        WHERE r.finished_at IS NULL AND r.pipeline = n.pipeline AND r.state = 'running' AND r.worker IS NULL
        ORDER BY r.worker, r.created_at, r.id
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    ) AS a
    UNION ALL
    SELECT b.id, b.worker, b.created_at
    FROM (
        SELECT r.id, r.worker, r.created_at
        FROM flowstone.run AS r
        WHERE r.finished_at IS NULL AND r.state = 'running' AND r.pipeline = ANY ($1::text[]) AND r.worker IS NOT NULL
            AND r.worker NOT IN (SELECT w.id FROM flowstone.worker AS w WHERE NOT w.dead)
        ORDER BY r.created_at, r.id
        LIMIT $2
        FOR UPDATE OF r SKIP LOCKED
    ) AS b
) AS r
ORDER BY r.created_at, r.id
LIMIT $2;

-- name: orphan
-- The run $2, if it is running and without a live owner, as in `orphans`.
SELECT r.id, r.worker
FROM flowstone.run AS r
WHERE r.id = $2 AND CASE WHEN r.finished_at IS NULL THEN true END AND r.state = 'running'
    AND r.pipeline = ANY ($1::text[])
    AND (r.worker IN (SELECT w.id FROM flowstone.worker AS w WHERE NOT w.dead)) IS NOT TRUE
FOR UPDATE OF r SKIP LOCKED;

-- name: take
UPDATE flowstone.run
SET worker = $2, fence = fence + 1, lost = lost + CASE WHEN worker IS NULL THEN 0 ELSE 1 END
WHERE id = ANY ($1::uuid[])
RETURNING id, pipeline, targets, partition, options, params, state, worker, fence, continuable, lost, created_at,
    finished_at, error, submitted, priority, at;

-- name: count_lost
-- One more owner died under each claim of the runs $1.
INSERT INTO flowstone.asset_key AS k (pipeline, asset, io, partition)
SELECT asked.pipeline, asked.asset, asked.io, asked.partition
FROM (
    SELECT DISTINCT c.key ->> 0 AS pipeline, c.key ->> 1 AS asset, c.key ->> 2 AS partition, c.key ->> 3 AS io
    FROM flowstone.event AS e
    CROSS JOIN LATERAL json_array_elements(e.claims::json) AS c (key)
    WHERE e.run_id = ANY ($1::uuid[]) AND e.claims IS NOT NULL
) AS asked
CROSS JOIN LATERAL (
    SELECT FROM flowstone.asset_key AS k
    WHERE k.pipeline = asked.pipeline AND k.asset = asked.asset AND k.io = asked.io
        AND k.partition = asked.partition AND k.claim_run = ANY ($1::uuid[])
    OFFSET 0
) AS holds
ORDER BY asked.pipeline COLLATE "C", asked.asset COLLATE "C", asked.io COLLATE "C", asked.partition COLLATE "C"
ON CONFLICT (pipeline, asset, io, partition) DO UPDATE SET lost = k.lost + 1
WHERE k.claim_run = ANY ($1::uuid[]);
