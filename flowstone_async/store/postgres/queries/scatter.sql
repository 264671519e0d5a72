-- Scatters; see docs/adr/0008-scatter.md for what is one transaction, and why. `scatter.total` is how many numbers were given.
-- The chunk of a batch that was split off is `done` without a result or failure where it is part of its batch again, and then
-- counts no more; its number is its own for good.

-- name: scatter_run
-- Whether the run $1 is still owned under the fence $2; while this is held nobody takes it over or ends it.
SELECT FROM flowstone.run WHERE id = $1 AND fence = $2 AND state = 'running' FOR SHARE;

-- name: begin_scatter
-- Begin the scatter $1, or go on with the one that the run has already, which nobody has begun yet if its fence is 0. The
-- reader before can add nothing from then on.
INSERT INTO flowstone.scatter AS s (id, run_id, fence, created_at, pipeline, asset, io, partition, facts)
VALUES ($1, $2, $3, coalesce($9::timestamptz, statement_timestamp()), $4, $5, $6, $7, $8)
ON CONFLICT (run_id, pipeline, asset, io, partition) DO UPDATE
SET fence = excluded.fence, facts = CASE WHEN s.fence = 0 THEN excluded.facts ELSE s.facts END
RETURNING id, run_id, fence, pipeline, asset, partition, io, state, sealed, pages, read, cursor, facts, carry, origin, before,
    root, kept,
    s.total - CASE WHEN s.root IS NULL THEN 0 ELSE (
        SELECT count(*) FROM flowstone.scatter_chunk AS c
        WHERE c.scatter = s.id AND c.first >= 1::bigint << 62 AND c.state = 'done' AND c.succeeded + c.failed = 0) END AS total;

-- name: decide_scatter
-- Keep what is decided for the scatter $1 under the fence $2, $4, unless more was than $3; returns what is.
UPDATE flowstone.scatter SET facts = CASE facts WHEN $3 THEN $4 ELSE facts END
WHERE id = $1 AND fence = $2 AND state = 'running'
RETURNING facts;

-- name: note_scatter
-- Keep the note $2 of the scatter $1, which is not deleted meanwhile.
INSERT INTO flowstone.scatter_note (scatter, noted)
SELECT s.id, $2
FROM (SELECT id FROM flowstone.scatter WHERE id = $1 AND state = 'running' FOR KEY SHARE) AS s;

-- name: scatter_notes
-- Notes that are under the ids $1.
SELECT noted FROM flowstone.scatter_note WHERE scatter = ANY ($1::uuid[]) ORDER BY no;

-- name: known_keys
-- Those of the hashes $2 that the chain $1 has.
SELECT hash FROM flowstone.scatter_key WHERE scatter = $1 AND hash = ANY ($2::uuid[]);

-- name: release_chunks
-- Let go of what the worker $2 has of the scatter $1.
UPDATE flowstone.scatter_chunk SET state = 'ready', worker = NULL, fence = fence + 1, flushes = 0
WHERE scatter = $1 AND worker = $2 AND state = 'running';

-- name: scatter
SELECT id, run_id, fence, pipeline, asset, partition, io, state, sealed, pages, read, cursor, facts, origin, before, root, kept,
    s.total - CASE WHEN s.root IS NULL THEN 0 ELSE (
        SELECT count(*) FROM flowstone.scatter_chunk AS c
        WHERE c.scatter = s.id AND c.first >= 1::bigint << 62 AND c.state = 'done' AND c.succeeded + c.failed = 0) END AS total
FROM flowstone.scatter AS s
WHERE id = $1;

-- name: scatters_of_run
SELECT id, run_id, fence, pipeline, asset, partition, io, state, sealed, pages, read, cursor, facts, origin, before, root, kept,
    s.total - CASE WHEN s.root IS NULL THEN 0 ELSE (
        SELECT count(*) FROM flowstone.scatter_chunk AS c
        WHERE c.scatter = s.id AND c.first >= 1::bigint << 62 AND c.state = 'done' AND c.succeeded + c.failed = 0) END AS total
FROM flowstone.scatter AS s
WHERE run_id = $1
ORDER BY created_at, id;

-- name: add_page
-- The page $3 of the scatter $1, read under the fence $2: $4 items, of which those with a key that is known already are
-- duplicates, cut into chunks, of which the worker $10 owns the first $18. Nothing if the fence has moved, or the page is
-- not the next one. With $19, each key is of the item in the place that it says. A duplicate that cannot be run failed before.
WITH may AS MATERIALIZED (
    SELECT id, coalesce(root, id) AS root, read, total
    FROM flowstone.scatter
    WHERE id = $1 AND fence = $2 AND pages = $3 AND NOT sealed AND state = 'running'
    FOR UPDATE
),
keyed AS (
    INSERT INTO flowstone.scatter_key (scatter, hash, item_no)
    SELECT may.root, n.hash, may.read + coalesce(n.place, n.no - 1)
    FROM may
    CROSS JOIN unnest($5::uuid[], $19::integer[]) WITH ORDINALITY AS n (hash, place, no)
    ON CONFLICT DO NOTHING
    RETURNING item_no
),
duplicate AS MATERIALIZED (
    SELECT n.place
    FROM may
    CROSS JOIN generate_series(0, CASE WHEN $5 IS NULL THEN 0 ELSE $4 END - 1) AS n (place)
    WHERE may.read + n.place NOT IN (SELECT item_no FROM keyed)
),
moved AS (
    UPDATE flowstone.scatter AS s
    SET pages = s.pages + 1, read = s.read + $4, total = s.total + $4 - (SELECT count(*) FROM duplicate),
        cursor = $8, sealed = $9, carry = $20,
        items = CASE WHEN $21::bigint IS NULL THEN s.items ELSE coalesce(s.items, 0) + $21 END
    FROM may
    WHERE s.id = $1
),
page AS (
    INSERT INTO flowstone.scatter_page (scatter, no, count, first, before, fence, duplicates, items, keys)
    SELECT root, $3, $4, read, total, $2, ARRAY (SELECT place FROM duplicate), $6, $7
    FROM may
    RETURNING first, before, duplicates
),
chunks AS (
    INSERT INTO flowstone.scatter_chunk (scatter, first, page, count, failed, alone, state, worker)
    SELECT may.id, may.read + n.first, $3, n.count,
        n.failed - (
            SELECT count(*)
            FROM unnest($14::integer[]) AS f (place)
            WHERE f.place >= n.first AND f.place < n.first + n.count AND f.place IN (SELECT place FROM duplicate)),
        false, CASE WHEN n.place <= $18 THEN 'running' ELSE 'ready' END,
        CASE WHEN n.place <= $18 THEN $10 END
    FROM may
    CROSS JOIN unnest($11::integer[], $12::integer[], $13::integer[]) WITH ORDINALITY AS n (first, count, failed, place)
),
failed AS (
    INSERT INTO flowstone.scatter_failure (scatter, item_no, at, attempts, code, worker, error)
    SELECT may.id, may.read + n.place, coalesce($17::timestamptz, statement_timestamp()), 0, n.code, $10, n.error
    FROM may
    CROSS JOIN unnest($14::integer[], $15::text[], $16::text[]) AS n (place, code, error)
    WHERE n.place NOT IN (SELECT place FROM duplicate)
)
SELECT first, before, duplicates FROM page;

-- name: page_added
-- The page $3 of the chain $1, if it was added under the fence $2.
SELECT first, before, duplicates FROM flowstone.scatter_page WHERE scatter = $1 AND no = $3 AND fence = $2;

-- name: flush
-- What ended in some chunks of the worker $1, each under the fence and the number of flushes that its owner knows. Returns
-- the places in the list of those that were accepted.
WITH given AS MATERIALIZED (
    SELECT *
    FROM unnest($2::uuid[], $3::bigint[], $4::boolean[], $5::bigint[], $6::integer[], $7::text[], $8::bytea[],
        $9::integer[], $10::integer[], $11::integer[], $12::timestamptz[], $13::text[], $14::bytea[], $15::bytea[])
        WITH ORDINALITY AS n (scatter, first, alone, fence, flushes, state, done, succeeded, failed, attempts, due_at,
        error, places, body, place)
),
mine AS MATERIALIZED (
    SELECT given.*, c.page, c.count, c.lost
    FROM given
    CROSS JOIN LATERAL (
        SELECT c.page, c.count, c.lost
        FROM flowstone.scatter_chunk AS c
        WHERE c.scatter = given.scatter AND c.first = given.first AND c.alone = given.alone
            AND c.fence = given.fence AND c.flushes = given.flushes AND c.worker = $1
        FOR UPDATE
    ) AS c
),
written AS (
    INSERT INTO flowstone.scatter_chunk AS c (scatter, first, fence, due_at, page, count, flushes, succeeded, failed,
        attempts, lost, alone, state, worker, done, error)
    SELECT scatter, first, fence, due_at, page, count, flushes + 1, succeeded, failed, attempts, lost, alone, state,
        CASE WHEN state = 'running' THEN $1 END, done, error
    FROM mine
    UNION ALL
    SELECT mine.scatter, n.item_no, 1, n.due_at, mine.page, 1, 0, 0, 0, n.attempts, n.lost, true, 'ready', NULL, NULL,
        n.error
    FROM mine
    JOIN unnest($16::integer[], $17::bigint[], $18::integer[], $19::integer[], $20::timestamptz[], $21::text[])
        AS n (place, item_no, attempts, lost, due_at, error) ON n.place = mine.place
    ON CONFLICT (scatter, first, alone) DO UPDATE
    SET fence = excluded.fence, due_at = excluded.due_at, flushes = excluded.flushes, succeeded = excluded.succeeded,
        failed = excluded.failed, attempts = excluded.attempts, state = excluded.state, worker = excluded.worker,
        done = excluded.done, error = excluded.error
),
blocks AS (
    INSERT INTO flowstone.scatter_block (scatter, page, first, places, body)
    SELECT scatter, page, first, places, body FROM mine WHERE body IS NOT NULL
),
results AS (
    INSERT INTO flowstone.scatter_result (scatter, item_no, value)
    SELECT mine.scatter, n.item_no, n.value
    FROM mine
    JOIN unnest($22::integer[], $23::bigint[], $24::text[]) AS n (place, item_no, value) ON n.place = mine.place
),
failures AS (
    INSERT INTO flowstone.scatter_failure (scatter, item_no, at, attempts, code, worker, error)
    SELECT mine.scatter, n.item_no, coalesce($30::timestamptz, statement_timestamp()), n.attempts, n.code, $1, n.error
    FROM mine
    JOIN unnest($25::integer[], $26::bigint[], $27::integer[], $28::text[], $29::text[])
        AS n (place, item_no, attempts, code, error) ON n.place = mine.place
)
SELECT place::integer FROM mine ORDER BY place;

-- name: lock_scatters
-- Before chunks are locked, in the order in which everybody locks them.
SELECT FROM flowstone.scatter WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE;

-- name: split_chunks
-- Batches of one that leave their batches, with the numbers that come next, or that they had; in the transaction of the flush.
WITH given AS MATERIALIZED (
    SELECT n.*, c.number, count(*) FILTER (WHERE c.number IS NULL) OVER (ORDER BY n.no) AS place
    FROM unnest($2::bigint[], $3::integer[], $4::integer[], $5::timestamptz[], $6::text[], $7::boolean[])
        WITH ORDINALITY AS n (first, page, attempts, due_at, error, failed, no)
    LEFT JOIN LATERAL (
        SELECT c.number FROM flowstone.scatter_chunk AS c WHERE c.scatter = $1 AND c.first = n.first AND c.alone
    ) AS c ON true
),
grown AS (
    UPDATE flowstone.scatter SET total = total + n.count
    FROM (SELECT count(*) FROM given WHERE number IS NULL) AS n
    WHERE id = $1
    RETURNING total - n.count AS before
)
INSERT INTO flowstone.scatter_chunk AS c (scatter, first, due_at, page, count, failed, attempts, alone, state, error, number)
SELECT $1, n.first, n.due_at, n.page, 1, n.failed::integer, n.attempts, true,
    CASE WHEN n.failed THEN 'done' ELSE 'ready' END, n.error, coalesce(n.number, grown.before + n.place - 1)
FROM grown
CROSS JOIN given AS n
ON CONFLICT (scatter, first, alone) DO UPDATE
SET due_at = excluded.due_at, failed = excluded.failed, attempts = excluded.attempts, state = excluded.state,
    error = excluded.error;

-- name: hold_gates
-- Gates that items are about to wait at: as long as they are held nothing ends them, and what has ended is on record. Those that
-- somebody decides are passed over.
SELECT g.id FROM flowstone.gate AS g WHERE g.id = ANY ($1::uuid[]) ORDER BY g.id FOR SHARE SKIP LOCKED;

-- name: wait_items
-- Note which gates the items $2 of the scatter $1 wait at, after they have left their chunks in the same transaction. An item is
-- due where a gate has ended; and, where not all of its gates are held, in a while, since one of them may be ending now.
WITH given AS MATERIALIZED (
    SELECT n.first, n.gate, n.held,
        EXISTS (SELECT FROM flowstone.gate_outcome AS o WHERE o.gate = n.gate OFFSET 0) AS ended
    FROM unnest($2::bigint[], $3::uuid[], $4::boolean[]) AS n (first, gate, held)
),
item AS MATERIALIZED (
    SELECT first, bool_or(ended) AS ended, bool_and(held) AS held FROM given GROUP BY first
),
waits AS (
    INSERT INTO flowstone.scatter_wait AS w (gate, scatter, first)
    SELECT g.gate, $1, g.first FROM given AS g JOIN item AS i ON i.first = g.first WHERE NOT i.ended AND i.held
    ON CONFLICT (gate) DO UPDATE SET scatter = excluded.scatter, first = excluded.first
)
UPDATE flowstone.scatter_chunk AS c
SET due_at = coalesce($5::timestamptz, statement_timestamp()) + CASE WHEN i.ended THEN 0 ELSE 1 END * interval '1 second'
FROM item AS i
WHERE c.scatter = $1 AND c.first = i.first AND c.alone AND (i.ended OR NOT i.held);

-- name: flushed
-- Those of some flushes that were accepted before, their reply being lost. An item that is to be tried again may have been
-- taken meanwhile: its attempts tell.
SELECT n.place::integer
FROM unnest($1::uuid[], $2::bigint[], $3::boolean[], $4::bigint[], $5::integer[], $6::text[], $7::integer[])
    WITH ORDINALITY AS n (scatter, first, alone, fence, flushes, state, attempts, place)
CROSS JOIN LATERAL (
    SELECT FROM flowstone.scatter_chunk AS c
    WHERE c.scatter = n.scatter AND c.first = n.first AND c.alone = n.alone
        AND ((c.fence = n.fence AND c.flushes = n.flushes + 1)
            OR (n.state = 'ready' AND c.fence > n.fence AND c.attempts >= n.attempts))
    OFFSET 0
) AS c;

-- name: take_chunks
-- Give the worker $1 at most $3 chunks of the scatter $2 that are due and that nobody runs, $7 of them at most that wait for
-- no time; with $5, also those of its own that are not among the chunks $5, $6. In two scans, so that neither reads what is
-- done or what waits for later. Who is alive, but neither owns the run nor takes part, has left without letting go.
WITH may AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM flowstone.worker AS w WHERE w.id = $1 AND NOT w.dead)
        AND EXISTS (SELECT FROM flowstone.scatter AS s WHERE s.id = $2 AND s.state = 'running') AS yes
),
crew AS MATERIALIZED (
    SELECT w.id
    FROM flowstone.worker AS w
    WHERE NOT w.dead
        AND (w.id IN (SELECT n.worker FROM flowstone.scatter_worker AS n WHERE n.scatter = $2)
            OR w.id = (
                SELECT r.worker FROM flowstone.scatter AS s JOIN flowstone.run AS r ON r.id = s.run_id WHERE s.id = $2))
),
free AS MATERIALIZED (
    SELECT c.first, c.alone
    FROM flowstone.scatter_chunk AS c
    WHERE c.scatter = $2 AND c.state IN ('ready', 'running') AND c.due_at IS NULL
        AND ((c.worker IN (SELECT id FROM crew)) IS NOT TRUE
            OR ($5::bigint[] IS NOT NULL AND c.worker = $1 AND NOT EXISTS (
                SELECT FROM unnest($5::bigint[], $6::boolean[]) AS k (first, alone)
                WHERE k.first = c.first AND k.alone = c.alone)))
        AND (SELECT yes FROM may)
    ORDER BY c.due_at, c.first
    LIMIT least($3::bigint, $7::bigint)
    FOR UPDATE OF c SKIP LOCKED
),
due AS MATERIALIZED (
    SELECT c.first, c.alone
    FROM flowstone.scatter_chunk AS c
    WHERE c.scatter = $2 AND c.state IN ('ready', 'running')
        AND c.due_at <= coalesce($4::timestamptz, statement_timestamp())
        AND ((c.worker IN (SELECT id FROM crew)) IS NOT TRUE
            OR ($5::bigint[] IS NOT NULL AND c.worker = $1 AND NOT EXISTS (
                SELECT FROM unnest($5::bigint[], $6::boolean[]) AS k (first, alone)
                WHERE k.first = c.first AND k.alone = c.alone)))
        AND (SELECT yes FROM may)
    ORDER BY c.due_at, c.first
    LIMIT $3
    FOR UPDATE OF c SKIP LOCKED
),
found AS MATERIALIZED (
    SELECT first, alone FROM free UNION ALL SELECT first, alone FROM due LIMIT $3
),
taken AS (
    UPDATE flowstone.scatter_chunk AS c
    SET state = 'running', worker = $1, fence = c.fence + 1, flushes = 0,
        lost = c.lost + CASE
            WHEN c.worker IS NULL OR EXISTS (SELECT FROM flowstone.worker AS w WHERE w.id = c.worker AND NOT w.dead) THEN 0
            WHEN c.lost > 0 AND c.flushes = 0 THEN 0 -- it never said that it began any of it
            ELSE 1 END
    WHERE c.scatter = $2 AND c.first = ANY (ARRAY (SELECT first FROM found))
        AND (c.first, c.alone) IN (SELECT first, alone FROM found)
    RETURNING c.*
)
SELECT c.scatter, c.first, c.alone, c.page, c.count, c.fence, c.done, c.succeeded, c.failed, c.attempts, c.lost, c.error,
    c.number
FROM taken AS c
ORDER BY c.first;

-- name: close_scatter
-- Close the scatter $1 if every item of it is final; in a statement of its own, after the flush that may be the last.
UPDATE flowstone.scatter AS s
SET state = 'closed'
WHERE s.id = $1 AND s.fence = $2 AND s.state = 'running' AND s.sealed
    AND NOT EXISTS (SELECT FROM flowstone.scatter_chunk AS c WHERE c.scatter = $1 AND c.state IN ('ready', 'running'))
RETURNING s.id;

-- name: scatter_left
-- Whether an item of the scatter $1 is not final and waits at no gate, and whether one does wait at a gate; besides what the
-- worker $2 runs.
SELECT EXISTS (
        SELECT FROM flowstone.scatter_chunk AS c
        WHERE c.scatter = $1 AND c.state IN ('ready', 'running') AND c.due_at IS NULL
            AND c.worker IS DISTINCT FROM coalesce($2::text, ''))
    OR EXISTS (
        SELECT FROM flowstone.scatter_chunk AS c
        WHERE c.scatter = $1 AND c.state IN ('ready', 'running') AND c.due_at < 'infinity') AS works,
    EXISTS (
        SELECT FROM flowstone.scatter_chunk AS c
        WHERE c.scatter = $1 AND c.state IN ('ready', 'running') AND c.due_at = 'infinity') AS waits;

-- name: end_scatter
-- End the scatter $1 early, read under the fence $2; then `cancel_chunks`, in the same transaction.
UPDATE flowstone.scatter SET state = $3 WHERE id = $1 AND fence = $2 AND state = 'running' RETURNING id;

-- name: end_scatters
-- End the scatters of a run that is ended from outside, locked in the order in which everybody locks them; then
-- `cancel_chunks`.
WITH open AS MATERIALIZED (
    SELECT s.id
    FROM flowstone.scatter AS s
    WHERE s.id = ANY (ARRAY (SELECT o.id FROM flowstone.scatter AS o WHERE o.run_id = $1)) AND s.state = 'running'
    ORDER BY s.id
    FOR UPDATE
)
UPDATE flowstone.scatter SET state = 'cancelled' WHERE id = ANY (ARRAY (SELECT id FROM open)) RETURNING id;

-- name: cancel_chunks
-- In a statement of its own: no page can be added any more, and every flush was before or finds another fence.
WITH waits AS (DELETE FROM flowstone.scatter_wait WHERE scatter = ANY ($1::uuid[]))
UPDATE flowstone.scatter_chunk SET state = 'cancelled', worker = NULL, fence = fence + 1
WHERE scatter = ANY ($1::uuid[]) AND state IN ('ready', 'running');

-- name: scatter_dues
-- When the next $3 items of the scatter $1 that wait for a time may be tried.
SELECT due_at
FROM flowstone.scatter_chunk
WHERE scatter = $1 AND state IN ('ready', 'running') AND due_at > coalesce($2::timestamptz, statement_timestamp())
    AND due_at < 'infinity' AND worker IS NULL
ORDER BY due_at
LIMIT $3;

-- name: scatter_counts
SELECT s.state, s.sealed, s.total - coalesce(c.rejoined, 0) AS total, coalesce(c.succeeded, 0) AS succeeded, coalesce(c.failed, 0) AS failed,
    coalesce(c.waiting, 0) AS waiting, coalesce(c.open, 0) AS open, c.due_at, coalesce(c.taken, 0) AS taken,
    s.created_at, coalesce(s.items, s.read) AS read, s.carried, coalesce(c.parked, 0) AS parked
FROM flowstone.scatter AS s
LEFT JOIN LATERAL (
    SELECT sum(c.succeeded) AS succeeded, sum(c.failed) AS failed,
        count(*) FILTER (WHERE c.first >= 1::bigint << 62 AND c.state = 'done' AND c.succeeded + c.failed = 0) AS rejoined,
        count(*) FILTER (WHERE c.alone AND c.state = 'ready') AS waiting,
        count(*) FILTER (WHERE c.state = 'ready' AND c.due_at = 'infinity') AS parked,
        count(*) FILTER (WHERE c.state IN ('ready', 'running')) AS open,
        count(*) FILTER (WHERE c.state = 'running') AS taken,
        min(c.due_at) FILTER (WHERE c.state = 'ready' AND c.due_at < 'infinity') AS due_at
    FROM flowstone.scatter_chunk AS c
    WHERE c.scatter = s.id
) AS c ON true
WHERE s.id = $1;

-- name: scatter_pages
-- Of the chain $1.
SELECT no, first, before, count, duplicates, items, keys
FROM flowstone.scatter_page
WHERE scatter = $1 AND no = ANY ($2::integer[]);

-- name: scatter_blocks
-- Packed results of the page $2 that are under the ids $1: with their contents up to $3 bytes together.
SELECT no, page, first, places, CASE WHEN sum(octet_length(body)) OVER (ORDER BY no) <= $3::bigint THEN body END AS body,
    NULL::integer AS number
FROM flowstone.scatter_block
WHERE scatter = ANY ($1::uuid[]) AND page = $2
ORDER BY no;

-- name: scatter_results
-- Results of the page $2 of the chain $3 that are rows, under the ids $1: of its items, and of those split off from them;
-- with their values up to $4 bytes together.
SELECT r.no, p.no AS page, r.item_no, NULL::integer AS number,
    CASE WHEN sum(octet_length(r.value)) OVER (ORDER BY r.no) <= $4::bigint THEN r.value END AS value
FROM flowstone.scatter_page AS p
CROSS JOIN LATERAL (
    SELECT r.item_no, r.value, r.no FROM flowstone.scatter_result AS r
    WHERE r.scatter = ANY ($1::uuid[]) AND r.item_no >= p.first AND r.item_no < p.first + p.count
    UNION ALL
    SELECT r.item_no, r.value, r.no FROM flowstone.scatter_result AS r
    WHERE r.scatter = ANY ($1::uuid[]) AND r.item_no >= (1::bigint << 62) + (p.first << 24)
        AND r.item_no < (1::bigint << 62) + (p.first + p.count << 24)
    OFFSET 0
) AS r
WHERE p.scatter = $3 AND p.no = $2
ORDER BY r.no;

-- name: committed_blocks
-- Packed results under the ids $1 behind the number $2, with their own numbers where they were split off: those before
-- which there are less than $4 bytes, and $3 blocks, of them. The scatter $5 knows the numbers of all that it has, also where the
-- one that had them committed is gone.
SELECT b.no, b.page, b.first, b.places, b.body,
    CASE WHEN b.first >= 1::bigint << 62 THEN (
        SELECT c.number FROM flowstone.scatter_chunk AS c WHERE c.scatter = $5 AND c.first = b.first AND c.alone
    ) END AS number
FROM (
    SELECT b.*, sum(octet_length(b.body)) OVER (ORDER BY b.no) - octet_length(b.body) AS before
    FROM unnest($1::uuid[]) AS n (part)
    CROSS JOIN LATERAL (
        SELECT b.scatter, b.no, b.page, b.first, b.places, b.body
        FROM flowstone.scatter_block AS b
        WHERE b.scatter = n.part AND b.no > $2
        ORDER BY b.no
        LIMIT $3
    ) AS b
    ORDER BY b.no
    LIMIT $3
) AS b
WHERE b.before < $4::bigint OR b.before = 0
ORDER BY b.no;

-- name: committed_results
-- With the pages of the chain $4 that they are in, and with their numbers where they were split off, from the scatter $6; less
-- than $5 bytes before the last one.
SELECT r.no, r.item_no, r.value, p.no AS page,
    CASE WHEN r.item_no >= 1::bigint << 62 THEN (
        SELECT c.number FROM flowstone.scatter_chunk AS c WHERE c.scatter = $6 AND c.first = r.item_no AND c.alone
    ) END AS number
FROM (
    SELECT r.*, sum(octet_length(r.value)) OVER (ORDER BY r.no) - octet_length(r.value) AS before
    FROM unnest($1::uuid[]) AS n (part)
    CROSS JOIN LATERAL (
        SELECT r.scatter, r.no, r.item_no, r.value
        FROM flowstone.scatter_result AS r
        WHERE r.scatter = n.part AND r.no > $2
        ORDER BY r.no
        LIMIT $3
    ) AS r
    ORDER BY r.no
    LIMIT $3
) AS r
CROSS JOIN LATERAL (
    SELECT p.no FROM flowstone.scatter_page AS p
    WHERE p.scatter = $4 AND p.count > 0
        AND p.first <= CASE WHEN r.item_no < 1::bigint << 62 THEN r.item_no ELSE (r.item_no - (1::bigint << 62)) >> 24 END
    ORDER BY p.first DESC
    LIMIT 1
) AS p
WHERE r.before < $5::bigint OR r.before = 0
ORDER BY r.no;

-- name: scatter_page_at
-- The page of the chain $1 that the item $2 is in.
SELECT no FROM flowstone.scatter_page AS p
WHERE scatter = $1 AND first <= $2 AND first + count > $2
ORDER BY first DESC
LIMIT 1;

-- name: scatter_failures
-- With the pages of the chain $4 that they are in, and with their numbers where they were split off.
SELECT f.item_no, f.at, f.attempts, f.worker, f.error, p.no AS page,
    CASE WHEN f.item_no >= 1::bigint << 62 THEN (
        SELECT c.number FROM flowstone.scatter_chunk AS c WHERE c.scatter = $1 AND c.first = f.item_no AND c.alone
    ) END AS number
FROM flowstone.scatter_failure AS f
CROSS JOIN LATERAL (
    SELECT p.no FROM flowstone.scatter_page AS p
    WHERE p.scatter = $4 AND p.count > 0
        AND p.first <= CASE WHEN f.item_no < 1::bigint << 62 THEN f.item_no ELSE (f.item_no - (1::bigint << 62)) >> 24 END
    ORDER BY p.first DESC
    LIMIT 1
) AS p
WHERE f.scatter = $1 AND f.item_no > $2
ORDER BY f.item_no
LIMIT $3;

-- name: scatter_splits
-- Batches of the scatter $1 that were split off, behind the position $2.
SELECT c.scatter, c.first, c.alone, c.page, c.count, c.fence, c.done, c.succeeded, c.failed, c.attempts, c.lost, c.error,
    c.number
FROM flowstone.scatter_chunk AS c
WHERE c.scatter = $1 AND c.first > greatest($2, (1::bigint << 62) - 1) AND NOT (c.state = 'done' AND c.succeeded + c.failed = 0)
ORDER BY c.first
LIMIT $3;

-- name: scatter_errors
-- Codes of the failures, the most frequent first, each with one of them.
SELECT code, count(*) AS count, min(error) AS example
FROM flowstone.scatter_failure
WHERE scatter = $1
GROUP BY code
ORDER BY count(*) DESC, code
LIMIT $2;

-- name: scatter_find
-- In the chain $1.
SELECT item_no FROM flowstone.scatter_key WHERE scatter = $1 AND hash = $2;

-- name: valueless_scatters
-- Scatters of the runs $1 that became no value: those of values go with them.
SELECT s.id FROM flowstone.scatter AS s
WHERE s.run_id = ANY ($1::uuid[]) AND NOT EXISTS (SELECT FROM flowstone.materialization AS m WHERE m.id = s.id);
