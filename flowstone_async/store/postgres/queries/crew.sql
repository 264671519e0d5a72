-- Who runs which scatter, and who gets what; see docs/adr/0008-scatter.md.

-- name: attended
-- The scatter $1, if its run goes on and the worker $2 is alive. While this is held nobody else's permits change.
SELECT s.state, s.sealed, s.fence,
    r.worker IS NULL OR r.worker = $2
        OR EXISTS (SELECT FROM flowstone.scatter_worker AS c WHERE c.scatter = $1 AND c.worker = r.worker) AS led,
    r.worker,
    hashtextextended(s.facts, 0) AS facts
FROM flowstone.scatter AS s
JOIN flowstone.run AS r ON r.id = s.run_id AND r.state = 'running'
WHERE s.id = $1 AND EXISTS (SELECT FROM flowstone.worker AS w WHERE w.id = $2 AND NOT w.dead)
FOR NO KEY UPDATE OF s;

-- name: crew
-- The living workers of the scatter $1, in the order in which they came; and the items that are in chunks of others than $2.
SELECT c.worker, c.permits, c.hungry,
    (
        SELECT coalesce(sum(n.count - n.succeeded - n.failed), 0)
        FROM flowstone.scatter_chunk AS n
        WHERE n.scatter = $1 AND n.state IN ('ready', 'running') AND n.due_at IS NULL AND n.worker IS DISTINCT FROM $2
    ) AS elsewhere
FROM (SELECT) AS one
LEFT JOIN (
    SELECT c.no, c.worker, c.permits, c.hungry
    FROM flowstone.scatter_worker AS c
    JOIN flowstone.worker AS w ON w.id = c.worker AND NOT w.dead
    WHERE c.scatter = $1
) AS c ON true
ORDER BY c.no;

-- name: attend
INSERT INTO flowstone.scatter_worker AS c (scatter, worker, permits, hungry) VALUES ($1, $2, $3, $4)
ON CONFLICT (scatter, worker) DO UPDATE SET permits = excluded.permits, hungry = excluded.hungry;

-- name: leave
DELETE FROM flowstone.scatter_worker WHERE scatter = $1 AND worker = $2;

-- name: give_chunks
-- Let anybody take what the worker $1 has of the scatter $2 and has not begun: the chunks that begin at $3, owned under the
-- fences $4, but for their first $5 items; $6 tells which are items on their own. Returns the places in the list of those that were given.
WITH mine AS MATERIALIZED (
    SELECT n.place, n.keep, c.*
    FROM unnest($3::bigint[], $4::bigint[], $5::integer[], $6::boolean[])
        WITH ORDINALITY AS n (first, fence, keep, alone, place)
    CROSS JOIN LATERAL (
        SELECT c.first, c.alone, c.fence, c.page, c.count, c.flushes, c.lost
        FROM flowstone.scatter_chunk AS c
        WHERE c.scatter = $2 AND c.first = n.first AND c.alone = n.alone AND c.fence = n.fence AND c.worker = $1
            AND n.keep < c.count
        FOR UPDATE
    ) AS c
),
written AS (
    INSERT INTO flowstone.scatter_chunk AS c (scatter, first, alone, fence, page, count, flushes, lost, state, worker)
    SELECT $2, first, alone, fence + CASE WHEN keep = 0 THEN 1 ELSE 0 END, page,
        CASE WHEN keep = 0 THEN count ELSE keep END, CASE WHEN keep = 0 THEN 0 ELSE flushes END, lost,
        CASE WHEN keep = 0 THEN 'ready' ELSE 'running' END, CASE WHEN keep = 0 THEN NULL ELSE $1 END
    FROM mine
    UNION ALL
    SELECT $2, first + keep, false, 1, page, count - keep, 0, lost, 'ready', NULL FROM mine WHERE keep > 0
    ON CONFLICT (scatter, first, alone) DO UPDATE
    SET fence = excluded.fence, count = excluded.count, flushes = excluded.flushes, state = excluded.state,
        worker = excluded.worker
)
SELECT place::integer FROM mine ORDER BY place;

-- name: given_chunks
-- Those of some gifts that were made before, their reply being lost; arguments as above.
SELECT n.place::integer
FROM unnest($2::bigint[], $3::bigint[], $4::integer[], $5::boolean[])
    WITH ORDINALITY AS n (first, fence, keep, alone, place)
CROSS JOIN LATERAL (
    SELECT FROM flowstone.scatter_chunk AS c
    WHERE c.scatter = $1 AND c.first = n.first AND c.alone = n.alone
        AND CASE WHEN n.keep = 0 THEN c.fence > n.fence ELSE c.fence = n.fence AND c.count = n.keep END
    OFFSET 0
) AS c;

-- name: joinable
-- Scatters of the pipelines $2 in which living workers take part, and $1 does not.
SELECT s.id, s.run_id, s.fence, s.pipeline, s.asset, s.partition, s.io, s.state, s.sealed, s.pages, s.read, s.cursor,
    s.facts, s.origin, s.before, s.total - CASE WHEN s.root IS NULL THEN 0 ELSE (
        SELECT count(*) FROM flowstone.scatter_chunk AS c
        WHERE c.scatter = s.id AND c.first >= 1::bigint << 62 AND c.state = 'done' AND c.succeeded + c.failed = 0) END AS total
FROM flowstone.scatter AS s
WHERE s.id = ANY (ARRAY (
        SELECT c.scatter
        FROM flowstone.scatter_worker AS c
        JOIN flowstone.worker AS w ON w.id = c.worker AND NOT w.dead
        GROUP BY c.scatter
        HAVING bool_and(c.worker <> $1)))
    AND s.state = 'running' AND s.pipeline = ANY ($2::text[])
    AND EXISTS (
        SELECT FROM flowstone.run AS r
        WHERE r.id = s.run_id AND r.state = 'running' AND r.continuable AND r.worker <> $1)
ORDER BY s.created_at, s.id
LIMIT $3;
