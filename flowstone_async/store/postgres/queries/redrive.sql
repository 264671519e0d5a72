-- Scatters that go on from one of an ended run, in the transaction that stores the run which does so; and chains of them
-- (docs/adr/0008-scatter.md). Lock order: the new run, then the scatters of the run that is gone on from in the order of their
-- ids, which nobody else locks after anything of the new one.

-- name: lock_siblings
-- All scatters of the runs that the scatters $1 are of, in the order in which everybody locks them: one that is gone on from
-- may have to be ended first, and the others of its run with it.
WITH sibling AS MATERIALIZED (
    SELECT o.id
    FROM flowstone.scatter AS o
    WHERE o.run_id = ANY (ARRAY (SELECT r.run_id FROM flowstone.scatter AS r WHERE r.id = ANY ($1::uuid[])))
)
SELECT FROM flowstone.scatter AS s WHERE s.id = ANY (ARRAY (SELECT id FROM sibling)) ORDER BY s.id FOR UPDATE;

-- name: lock_scatter
-- The scatter $1, held against being deleted and against another that goes on from it.
SELECT s.run_id, s.state, s.sealed, s.total,
    EXISTS (SELECT FROM flowstone.run AS r WHERE r.id = s.run_id AND CASE WHEN r.finished_at IS NULL THEN true END) AS active
FROM flowstone.scatter AS s
WHERE s.id = $1
FOR UPDATE OF s;

-- name: redriven_by
-- The scatter that goes on from the scatter $1, with its run.
SELECT id, run_id FROM flowstone.scatter WHERE origin = $1;

-- name: redrive_failures
-- Give the scatter $2 the failures of $1 that stay: with $3 `rest` all of them, else those of items that cannot be run
-- at all (they were refused with their page, so that nobody has tried them).
INSERT INTO flowstone.scatter_failure (scatter, item_no, at, attempts, code, worker, error)
SELECT $2, f.item_no, f.at, f.attempts, f.code, f.worker, f.error
FROM flowstone.scatter_failure AS f
WHERE f.scatter = $1
    AND ($3::text = 'rest' OR (f.attempts = 0 AND NOT EXISTS (
        SELECT FROM flowstone.scatter_chunk AS c WHERE c.scatter = $1 AND c.first = f.item_no AND c.alone)));

-- name: redrive_chunks
-- Give the scatter $2 the chunks of $1: what has a result there is done, unless $3 is `all`; what failed and does not stay
-- so, or never came to its end, is to be run. Items that were on their own are in their page's chunk again; batches that were split
-- off stay so, but with `all`, where they are part of their batch again. Returns how many items are final, and how many batches
-- are such a part.
WITH chunk AS MATERIALIZED (
    SELECT c.first, c.page, c.count, c.state, coalesce(c.done, '') AS done, c.succeeded
    FROM flowstone.scatter_chunk AS c
    WHERE c.scatter = $1 AND NOT c.alone
),
made AS (
    INSERT INTO flowstone.scatter_chunk (scatter, first, page, count, succeeded, failed, alone, state, done)
    SELECT $2, c.first, c.page, c.count, n.succeeded, n.failed, false, n.state,
        CASE WHEN n.state = 'ready' AND $3::text <> 'all' THEN flowstone.without_bits(
            CASE WHEN c.state = 'done' THEN decode(repeat('ff', (c.count + 7) / 8), 'hex') ELSE c.done END,
            c.count, n.places) END
    FROM chunk AS c
    CROSS JOIN LATERAL (
        SELECT array_agg((f.item_no - c.first)::integer) AS places
        FROM flowstone.scatter_failure AS f
        WHERE f.scatter = $1 AND f.item_no >= c.first AND f.item_no < c.first + c.count
            AND NOT EXISTS (SELECT FROM flowstone.scatter_failure AS s WHERE s.scatter = $2 AND s.item_no = f.item_no)
    ) AS failed
    CROSS JOIN LATERAL (
        SELECT count(*)::integer AS count
        FROM flowstone.scatter_failure AS s
        WHERE s.scatter = $2 AND s.item_no >= c.first AND s.item_no < c.first + c.count
    ) AS stays
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(a.succeeded), 0)::integer AS succeeded,
            array_agg((a.first - c.first)::integer) FILTER (WHERE a.succeeded = 0 AND NOT EXISTS (
                SELECT FROM flowstone.scatter_failure AS s WHERE s.scatter = $2 AND s.item_no = a.first)) AS places
        FROM flowstone.scatter_chunk AS a
        WHERE a.scatter = $1 AND a.alone AND a.first >= c.first AND a.first < c.first + c.count
    ) AS alone
    CROSS JOIN LATERAL (
        SELECT failed.places || alone.places AS places, stays.count AS failed,
            CASE WHEN $3::text = 'all' THEN 0 ELSE c.succeeded + alone.succeeded END AS succeeded,
            CASE WHEN $3::text <> 'all' AND c.state = 'done' AND failed.places IS NULL AND alone.places IS NULL
                THEN 'done' ELSE 'ready' END AS state
    ) AS n
    RETURNING succeeded, failed
),
split AS (
    INSERT INTO flowstone.scatter_chunk (scatter, first, page, count, succeeded, failed, alone, state, number)
    SELECT $2, c.first, c.page, 1, n.succeeded, n.failed, true,
        CASE WHEN n.succeeded + n.failed > 0 OR n.rejoined THEN 'done' ELSE 'ready' END, c.number
    FROM flowstone.scatter_chunk AS c
    CROSS JOIN LATERAL (
        SELECT count(*)::integer AS failed, CASE WHEN $3::text = 'all' THEN 0 ELSE c.succeeded END AS succeeded,
            $3::text = 'all' OR (c.state = 'done' AND c.succeeded + c.failed = 0) AS rejoined
        FROM flowstone.scatter_failure AS s
        WHERE s.scatter = $2 AND s.item_no = c.first
    ) AS n
    WHERE c.scatter = $1 AND c.first >= 1::bigint << 62
    RETURNING succeeded, failed, state = 'done' AND succeeded + failed = 0 AS rejoined
)
SELECT coalesce(sum(succeeded + failed), 0)::bigint AS final, coalesce(sum(failed), 0)::bigint AS failed,
    count(*) FILTER (WHERE rejoined) AS rejoined
FROM (SELECT succeeded, failed, false AS rejoined FROM made UNION ALL SELECT succeeded, failed, rejoined FROM split) AS n;

-- name: redrive_scatter
-- Begin the scatter $2 of the run $3 where $1 is, with what `redrive_chunks` gave it: $6 final items.
INSERT INTO flowstone.scatter (id, run_id, fence, read, total, created_at, pages, sealed, state, pipeline, asset, io,
    partition, cursor, facts, before, origin, root, kept, carried, carry, items)
SELECT $2, $3, 0, s.read, s.total, coalesce($7::timestamptz, statement_timestamp()), s.pages, s.sealed, 'running',
    s.pipeline, s.asset, s.io, s.partition, s.cursor, '{}', $5, s.id, coalesce(s.root, s.id),
    CASE WHEN $4::text = 'all' THEN '{}' ELSE s.kept || s.id END, $6, s.carry, s.items
FROM flowstone.scatter AS s
WHERE s.id = $1;

-- name: scatter_chain
-- Where the scatter $1 has its pages and keys, and whose results are its own.
SELECT coalesce(root, id) AS root, kept FROM flowstone.scatter WHERE id = $1;

-- name: lock_chains
-- All scatters of the chains that the scatters $1 are of, in the order of their ids. By two indexes, hence twice.
WITH first AS MATERIALIZED (
    SELECT coalesce(root, id) AS id FROM flowstone.scatter WHERE id = ANY ($1::uuid[])
),
chain AS MATERIALIZED (
    SELECT id FROM first
    UNION
    SELECT s.id FROM flowstone.scatter AS s WHERE s.root = ANY (ARRAY (SELECT id FROM first))
)
SELECT s.id FROM flowstone.scatter AS s WHERE s.id = ANY (ARRAY (SELECT id FROM chain)) ORDER BY s.id FOR UPDATE;

-- name: chains
-- As `lock_chains`, with what they have; asked after it.
WITH first AS MATERIALIZED (
    SELECT coalesce(root, id) AS id FROM flowstone.scatter WHERE id = ANY ($1::uuid[])
),
chain AS MATERIALIZED (
    SELECT id FROM first
    UNION
    SELECT s.id FROM flowstone.scatter AS s WHERE s.root = ANY (ARRAY (SELECT id FROM first))
)
SELECT s.id, coalesce(s.root, s.id) AS root, s.kept, s.pages, s.read, s.id = ANY ($1::uuid[]) AS goes
FROM flowstone.scatter AS s
WHERE s.id = ANY (ARRAY (SELECT id FROM chain));

-- name: delete_scatters
-- The scatters $1: nobody finds them any more. What they have is listed for `remains.sql`: chunks and failures of theirs, results
-- and notes under the ids $2, which no other scatter has, and pages and keys of the chains $3, which end, with what was to be
-- trimmed of them.
WITH gone AS (DELETE FROM flowstone.scatter WHERE id = ANY ($1::uuid[])),
workers AS (DELETE FROM flowstone.scatter_worker WHERE scatter = ANY ($1::uuid[])),
trimmed AS (DELETE FROM flowstone.scatter_trim WHERE scatter = ANY ($3::uuid[]))
INSERT INTO flowstone.scatter_remains (at, scatter, part)
SELECT coalesce($4::timestamptz, statement_timestamp()), n.scatter, n.part
FROM (
    SELECT unnest($1::uuid[]) AS scatter, 'run' AS part
    UNION ALL
    SELECT unnest($2::uuid[]), 'results'
    UNION ALL
    SELECT unnest($3::uuid[]), 'read'
) AS n
ON CONFLICT DO NOTHING;

-- name: trim_chain
-- List what only a scatter that was deleted had read of the chain $1: pages from $2 on, and keys of items from $3 on.
INSERT INTO flowstone.scatter_trim AS t (scatter, pages, read, at)
VALUES ($1, $2, $3, coalesce($4::timestamptz, statement_timestamp()))
ON CONFLICT (scatter) DO UPDATE
SET pages = least(t.pages, excluded.pages), read = least(t.read, excluded.read), at = excluded.at, behind = '{}';

-- name: trimmed
-- Whether something of the chain of the scatter $1 is to be trimmed before anybody may go on from it; asked after `lock_scatter`.
SELECT t.scatter
FROM flowstone.scatter AS s
JOIN flowstone.scatter_trim AS t ON t.scatter = coalesce(s.root, s.id)
WHERE s.id = $1;
