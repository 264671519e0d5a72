-- Gates: docs/adr/0010-waiting.md. Whoever decides one has locked its row; nobody here waits for who does, but the caller
-- of `signal`. Lock order: run rows first, then gates, then outcomes.
-- What is found by its id has other conditions in a CASE: a young store's plan, which is kept, would read the whole of a
-- partial index that has them and the id, in the wrong place, instead of the primary key.

-- name: gate_run
-- The run $1, if it is owned under the fence $2: held against being suspended, cancelled or taken.
SELECT FROM flowstone.run WHERE id = $1 AND fence = $2 AND state = 'running' AND worker IS NOT NULL FOR SHARE;

-- name: open_gates
-- Record gates that are not, and answer with those: $2 onwards by column. A deadline is an instant, or so many seconds from now.
INSERT INTO flowstone.gate (id, run_id, opened_at, due, kind, pipeline, asset, io, partition, name, body, key, facts, token)
SELECT n.id, $1, coalesce($15::timestamptz, statement_timestamp()),
    coalesce(n.due, coalesce($15::timestamptz, statement_timestamp()) + n.seconds * interval '1 second'),
    n.kind, n.pipeline, n.asset, n.io, n.partition, n.name, n.body, n.key, n.facts, n.token
FROM unnest($2::uuid[], $3::timestamptz[], $4::float8[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::text[], $11::text[], $12::text[], $13::text[], $14::bytea[])
    AS n (id, due, seconds, kind, pipeline, asset, io, partition, name, body, key, facts, token)
ORDER BY n.id
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- name: hold_tokens
-- Give tokens to gates, from gates that are not open any more; answers with those that have them then.
INSERT INTO flowstone.gate_token AS t (token, gate)
SELECT n.token, n.gate FROM unnest($1::bytea[], $2::uuid[]) AS n (token, gate)
ORDER BY n.token
ON CONFLICT (token) DO UPDATE SET gate = excluded.gate
WHERE t.gate = excluded.gate
    OR (SELECT r.finished_at IS NULL
        FROM flowstone.run AS r
        WHERE r.id = (SELECT g.run_id FROM flowstone.gate AS g WHERE g.id = t.gate AND CASE WHEN g.open THEN true END)) IS NOT TRUE
RETURNING t.gate;

-- name: early_ones
-- Signals that came before, by the addresses of gates: those that nobody else is delivering.
SELECT e.address, e.at, e.signal_id, e.payload
FROM flowstone.early_signal AS e
WHERE e.address = ANY ($1::bytea[]) AND e.until > coalesce($2::timestamptz, statement_timestamp())
FOR UPDATE SKIP LOCKED;

-- name: early_gates
-- Those of some addresses that a signal came for, and that there is a gate for by now.
SELECT e.address
FROM (SELECT e.address FROM flowstone.early_signal AS e WHERE e.address = ANY ($1::bytea[]) OFFSET 0) AS e
CROSS JOIN LATERAL (
    SELECT encode(e.address, 'hex')::uuid AS id WHERE length(e.address) = 16
    UNION ALL
    SELECT t.gate FROM flowstone.gate_token AS t WHERE t.token = e.address
) AS n
CROSS JOIN LATERAL (SELECT FROM flowstone.gate AS g WHERE g.id = n.id OFFSET 0) AS g;

-- name: early_page
-- Addresses of $2 early signals behind the address $1.
SELECT e.address FROM flowstone.early_signal AS e WHERE e.address > $1 ORDER BY e.address LIMIT $2;

-- name: addressed
-- The gates that addresses stand for.
SELECT a.address, g.id, g.run_id
FROM unnest($1::bytea[]) AS a (address)
CROSS JOIN LATERAL (
    SELECT encode(a.address, 'hex')::uuid AS id WHERE length(a.address) = 16
    UNION ALL
    SELECT t.gate FROM flowstone.gate_token AS t WHERE t.token = a.address
) AS n
CROSS JOIN LATERAL (SELECT g.id, g.run_id FROM flowstone.gate AS g WHERE g.id = n.id OFFSET 0) AS g;

-- name: settle_early
-- Make early signals the outcomes of gates that are open, $1 to $5 by column: gate, address, instant, id, payload. Gates that
-- others are deciding are left to them, with their signals.
WITH free AS MATERIALIZED (
    SELECT g.id, g.run_id, g.open
    FROM flowstone.gate AS g
    WHERE g.id = ANY ($1::uuid[])
    FOR NO KEY UPDATE SKIP LOCKED
),
decided AS (
    INSERT INTO flowstone.gate_outcome (gate, run_id, at, how, signal_id, payload)
    SELECT f.id, f.run_id, n.at, CASE WHEN r.finished_at IS NULL THEN 'signalled' ELSE 'cancelled' END,
        CASE WHEN r.finished_at IS NULL THEN n.signal_id END, CASE WHEN r.finished_at IS NULL THEN n.payload END
    FROM unnest($1::uuid[], $3::timestamptz[], $4::text[], $5::bytea[]) AS n (gate, at, signal_id, payload)
    CROSS JOIN LATERAL (SELECT f.id, f.run_id FROM free AS f WHERE f.id = n.gate AND f.open) AS f
    LEFT JOIN LATERAL (SELECT r.finished_at FROM flowstone.run AS r WHERE r.id = f.run_id OFFSET 0) AS r ON true
    ON CONFLICT DO NOTHING
    RETURNING gate, run_id
),
shut AS (
    UPDATE flowstone.gate SET open = false WHERE id = ANY (ARRAY (SELECT gate FROM decided))
),
used AS (
    DELETE FROM flowstone.early_signal
    WHERE address = ANY (ARRAY (
        SELECT n.address
        FROM unnest($1::uuid[], $2::bytea[]) AS n (gate, address)
        WHERE n.gate IN (SELECT id FROM free)))
)
SELECT run_id FROM decided;

-- name: gates
-- The gates $1, and the one that has the token $3, or had it last.
SELECT g.id, g.run_id, g.body, g.key, g.kind, g.pipeline, g.asset, g.partition, g.io, g.name, g.due, g.token, g.facts,
    g.opened_at, o.how, o.at, o.payload, o.signal_id, r.finished_at IS NULL AS goes_on,
    g.due <= coalesce($2::timestamptz, statement_timestamp()) AS over
FROM (
    SELECT unnest($1::uuid[]) AS id
    UNION ALL
    SELECT t.gate FROM flowstone.gate_token AS t WHERE t.token = $3
) AS n
CROSS JOIN LATERAL (SELECT g.* FROM flowstone.gate AS g WHERE g.id = n.id OFFSET 0) AS g
LEFT JOIN LATERAL (SELECT o.* FROM flowstone.gate_outcome AS o WHERE o.gate = g.id OFFSET 0) AS o ON true
LEFT JOIN LATERAL (SELECT r.finished_at, r.id FROM flowstone.run AS r WHERE r.id = g.run_id OFFSET 0) AS r ON true;

-- name: gate_outcomes
-- What has ended some gates, of those that have ended.
SELECT o.gate, o.how, o.at, o.payload, o.signal_id
FROM unnest($1::uuid[]) AS n (id)
CROSS JOIN LATERAL (SELECT o.* FROM flowstone.gate_outcome AS o WHERE o.gate = n.id OFFSET 0) AS o;

-- name: gates_of_run
SELECT g.id FROM flowstone.gate AS g WHERE g.run_id = $1 ORDER BY g.no;

-- name: open_gates_of_run
SELECT g.id FROM flowstone.gate AS g WHERE g.run_id = $1 AND g.open ORDER BY g.due LIMIT $2;

-- name: open_kinds
SELECT DISTINCT g.kind
FROM flowstone.gate AS g
WHERE g.run_id = $1 AND g.open AND NOT (g.kind = 'sleep' AND g.name = $2);

-- name: waiting_bodies
SELECT count(DISTINCT g.body)
FROM flowstone.gate AS g
WHERE g.run_id = $1 AND g.open AND g.pipeline = $2 AND g.asset = $3 AND g.io = $4 AND g.partition = $5;

-- name: gate_place
-- Where a gate is among those that wait.
SELECT g.kind, g.due FROM flowstone.gate AS g WHERE g.id = $1;

-- name: gates_waiting
-- Open gates of the kinds $1 and pipelines $2, of the asset $3, at most $4, behind the deadline $5 and the id $6. $8 says
-- that those with a deadline are not all behind us. $9 and $10 are the I/O manager and the partition, if only one key is meant.
SELECT g.id
FROM unnest($1::text[]) AS n (kind)
CROSS JOIN LATERAL (
    (SELECT g.id, g.due
    FROM flowstone.gate AS g
    WHERE $8::boolean AND g.open AND g.kind = n.kind AND (g.due, g.id) > (coalesce($5::timestamptz, '-infinity'), $6::uuid)
        AND g.due > coalesce($7::timestamptz, statement_timestamp())
        AND g.pipeline = ANY ($2::text[]) AND ($3::text IS NULL OR g.asset = $3)
        AND ($9::text IS NULL OR (g.io = $9 AND g.partition = $10))
        AND EXISTS (
            SELECT FROM flowstone.run AS r WHERE r.id = g.run_id AND CASE WHEN r.finished_at IS NULL THEN true END OFFSET 0)
    ORDER BY g.due, g.id
    LIMIT $4)
    UNION ALL
    (SELECT g.id, g.due
    FROM flowstone.gate AS g
    WHERE g.open AND g.kind = n.kind AND g.due IS NULL
        AND g.id > CASE WHEN $8::boolean THEN '00000000-0000-0000-0000-000000000000' ELSE $6::uuid END
        AND g.pipeline = ANY ($2::text[]) AND ($3::text IS NULL OR g.asset = $3)
        AND ($9::text IS NULL OR (g.io = $9 AND g.partition = $10))
        AND EXISTS (
            SELECT FROM flowstone.run AS r WHERE r.id = g.run_id AND CASE WHEN r.finished_at IS NULL THEN true END OFFSET 0)
    ORDER BY g.id
    LIMIT $4)
) AS g
ORDER BY g.due, g.id
LIMIT $4;

-- name: last_ended
-- The newest gate of the asset $2 with the key $4 that has ended, by its deadline or on record, and whose run is to go on with it:
-- it was suspended, and is woken, or would be by the next sweep: of the 1,000 newest outcomes that nobody was woken for.
SELECT g.id
FROM (
    SELECT g.id, g.no
    FROM flowstone.run AS r
    CROSS JOIN LATERAL (
        SELECT g.id, g.no FROM flowstone.gate AS g
        WHERE g.run_id = r.id AND NOT g.open AND g.pipeline = $1 AND g.asset = $2 AND g.io = $3 AND g.partition = $4
        OFFSET 0
    ) AS g
    WHERE r.pipeline = $1 AND r.state = 'running' AND r.finished_at IS NULL AND r.quiet IS NOT NULL
    UNION ALL
    SELECT g.id, g.no
    FROM (SELECT o.gate FROM flowstone.gate_outcome AS o WHERE NOT o.woken ORDER BY o.at DESC LIMIT 1000) AS o
    CROSS JOIN LATERAL (SELECT g.* FROM flowstone.gate AS g WHERE g.id = o.gate OFFSET 0) AS g
    WHERE g.pipeline = $1 AND g.asset = $2 AND g.io = $3 AND g.partition = $4
        AND EXISTS (
            SELECT FROM flowstone.run AS r
            WHERE r.id = g.run_id AND CASE WHEN r.finished_at IS NULL THEN r.quiet IS NOT NULL END
            OFFSET 0)
    UNION ALL
    SELECT g.id, g.no
    FROM unnest(ARRAY['signal', 'approval', 'sleep']) AS n (kind)
    CROSS JOIN LATERAL (
        SELECT g.id, g.no
        FROM flowstone.gate AS g
        WHERE g.open AND g.kind = n.kind AND g.due <= coalesce($5::timestamptz, statement_timestamp())
            AND g.pipeline = $1 AND g.asset = $2 AND g.io = $3 AND g.partition = $4
            AND EXISTS (
                SELECT FROM flowstone.run AS r
                WHERE r.id = g.run_id AND CASE WHEN r.finished_at IS NULL THEN r.quiet IS NOT NULL END
                OFFSET 0)
        OFFSET 0
    ) AS g
) AS g
ORDER BY g.no DESC
LIMIT 1;

-- name: next_due
-- The nearest deadline of an open gate, or when one ended whose run, which somebody held, was not woken yet.
SELECT least(min(g.due), (SELECT o.at FROM flowstone.gate_outcome AS o WHERE NOT o.woken ORDER BY o.at LIMIT 1))
FROM unnest(ARRAY['signal', 'approval', 'sleep']) AS n (kind)
CROSS JOIN LATERAL (
    SELECT g.due FROM flowstone.gate AS g WHERE g.open AND g.kind = n.kind AND g.due IS NOT NULL ORDER BY g.due LIMIT 1
) AS g;

-- name: expire_gates
-- Give at most $1 open gates their outcome whose deadline has passed, the oldest first, but for those that others decide.
WITH due AS MATERIALIZED (
    SELECT g.id, g.run_id
    FROM unnest(ARRAY['signal', 'approval', 'sleep']) AS n (kind)
    CROSS JOIN LATERAL (
        SELECT g.id, g.run_id, g.due
        FROM flowstone.gate AS g
        WHERE g.open AND g.kind = n.kind AND g.due <= coalesce($2::timestamptz, statement_timestamp())
        ORDER BY g.due, g.id
        LIMIT $1
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS g
    ORDER BY g.due, g.id
    LIMIT $1
),
decided AS (
    INSERT INTO flowstone.gate_outcome (gate, run_id, at, how)
    SELECT d.id, d.run_id, coalesce($2::timestamptz, statement_timestamp()),
        CASE WHEN r.goes_on THEN 'expired' ELSE 'cancelled' END
    FROM due AS d
    LEFT JOIN LATERAL (
        SELECT r.finished_at IS NULL AS goes_on FROM flowstone.run AS r WHERE r.id = d.run_id OFFSET 0
    ) AS r ON true
    ON CONFLICT DO NOTHING
    RETURNING gate, run_id
),
shut AS (
    UPDATE flowstone.gate SET open = false WHERE id = ANY (ARRAY (SELECT gate FROM decided))
)
SELECT run_id FROM decided;

-- name: unwoken
-- Runs of the $1 oldest outcomes that nobody was woken for.
SELECT DISTINCT run_id
FROM (SELECT o.run_id FROM flowstone.gate_outcome AS o WHERE NOT o.woken ORDER BY o.at, o.run_id LIMIT $1) AS o;

-- name: wake
-- Wake runs for outcomes that they were not woken for, and make items of scatters due that waited for these; answers with those
-- that nobody owns. A run that is being suspended is waited for: either it is `waiting` then, or sees `wakes` moved. With $3
-- runs that others hold are passed over: whoever wakes several must not wait.
WITH waited AS MATERIALIZED (
    SELECT r.id FROM flowstone.run AS r WHERE NOT $3::boolean AND r.id = ANY ($1::uuid[]) ORDER BY r.id FOR NO KEY UPDATE
),
free AS MATERIALIZED (
    SELECT r.id FROM flowstone.run AS r WHERE $3::boolean AND r.id = ANY ($1::uuid[]) FOR NO KEY UPDATE SKIP LOCKED
),
mine AS MATERIALIZED (
    SELECT id FROM waited UNION ALL SELECT id FROM free
),
told AS (
    UPDATE flowstone.gate_outcome SET woken = true
    WHERE run_id = ANY (ARRAY (SELECT id FROM mine)) AND NOT woken
    RETURNING run_id, gate
),
item AS MATERIALIZED (
    SELECT DISTINCT w.scatter, w.first
    FROM told AS t
    CROSS JOIN LATERAL (SELECT w.scatter, w.first FROM flowstone.scatter_wait AS w WHERE w.gate = t.gate OFFSET 0) AS w
),
due AS (
    UPDATE flowstone.scatter_chunk AS c SET due_at = coalesce($2::timestamptz, statement_timestamp())
    FROM item AS i
    WHERE c.scatter = i.scatter AND c.first = i.first AND c.alone
        AND CASE WHEN c.state = 'ready' AND c.due_at = 'infinity' THEN true END
),
over AS (
    DELETE FROM flowstone.scatter_wait AS w USING item AS i WHERE w.scatter = i.scatter AND w.first = i.first
)
UPDATE flowstone.run AS r
SET wakes = r.wakes + 1, state = CASE r.state WHEN 'waiting' THEN 'running' ELSE r.state END, wake_at = NULL,
    paused = r.paused + coalesce(greatest(0, extract(epoch FROM
        coalesce($2::timestamptz, statement_timestamp()) - r.suspended_at)), 0), suspended_at = NULL
WHERE r.id = ANY (ARRAY (SELECT DISTINCT run_id FROM told)) AND CASE WHEN r.finished_at IS NULL THEN true END
RETURNING r.id, r.worker IS NULL AS unowned;

-- name: wakes
SELECT r.id, r.wakes, r.wake_at, r.paused, r.quiet
FROM flowstone.run AS r
WHERE r.id = ANY ($1::uuid[]) AND CASE WHEN r.finished_at IS NULL THEN true END;

-- name: suspend
-- Suspend the run $1 that is owned under the fence $2, unless it was woken since $3 was seen; then `free_claims`, in the
-- same transaction.
UPDATE flowstone.run AS r
SET state = 'waiting', worker = NULL, fence = r.fence + 1, quiet = r.fence + 1,
    suspended_at = coalesce($4::timestamptz, statement_timestamp()),
    wake_at = (SELECT min(g.due) FROM flowstone.gate AS g WHERE g.run_id = $1 AND g.open)
WHERE r.id = $1 AND r.fence = $2 AND r.wakes = $3 AND r.state = 'running' AND r.worker IS NOT NULL
RETURNING r.id;

-- name: suspended_run
-- The oldest run of the pipeline $1 for the request $2 that was suspended, whoever goes on with it by now.
SELECT r.id
FROM flowstone.run AS r
WHERE r.pipeline = $1 AND r.request = $2 AND r.finished_at IS NULL AND r.state IN ('waiting', 'running')
    AND r.quiet IS NOT NULL
ORDER BY r.created_at, r.id
LIMIT 1;

-- name: suspended
-- Why it was not: whether it is owned under the fence $2 still, or suspended since.
SELECT r.fence = $2 AND r.state = 'running' AND r.worker IS NOT NULL AS owned,
    r.fence = $2 + 1 AND r.state = 'waiting' AS suspended
FROM flowstone.run AS r
WHERE r.id = $1;

-- name: free_claims
-- Let go of what a run was computing, without an outcome.
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
ON CONFLICT (pipeline, asset, io, partition) DO UPDATE SET claim_run = NULL
WHERE k.claim_run = $1
RETURNING k.pipeline, k.asset, k.partition, k.io;

-- name: rearm_gate
-- Open the gate $2 of the run $1 again, until $3, if it has expired.
WITH again AS (
    DELETE FROM flowstone.gate_outcome WHERE gate = $2 AND run_id = $1 AND how = 'expired' RETURNING gate
)
UPDATE flowstone.gate AS g
SET open = true, due = $3
WHERE g.id = $2 AND g.id IN (SELECT gate FROM again)
RETURNING g.token;

-- name: refuse_signal
-- Open the gate $2 of the run $1 again that was signalled with $3, and record that signal as one that does not fit.
WITH again AS (
    DELETE FROM flowstone.gate_outcome
    WHERE gate = $2 AND run_id = $1 AND how = 'signalled' AND payload = $3
    RETURNING gate, signal_id, payload
),
told AS (
    INSERT INTO flowstone.delivery (at, born, gate, state, signal_id, facts, payload)
    SELECT n.at, (n.at AT TIME ZONE 'UTC')::date, a.gate, 'invalid', a.signal_id, '{}', a.payload
    FROM again AS a
    CROSS JOIN (SELECT coalesce($4::timestamptz, statement_timestamp())) AS n (at)
)
UPDATE flowstone.gate AS g
SET open = true
WHERE g.id = $2 AND g.id IN (SELECT gate FROM again)
RETURNING g.token;

-- name: lock_gate
SELECT g.open, g.due FROM flowstone.gate AS g WHERE g.id = $2 AND g.run_id = $1 FOR NO KEY UPDATE;

-- name: withdraw_gates
-- Cancel those of the gates $2 of the run $1 that are open, but for those that others decide. Nobody is woken.
WITH free AS MATERIALIZED (
    SELECT g.id
    FROM flowstone.gate AS g
    WHERE g.id = ANY ($2::uuid[]) AND g.run_id = $1 AND g.open
    FOR NO KEY UPDATE SKIP LOCKED
),
decided AS (
    INSERT INTO flowstone.gate_outcome (gate, run_id, at, how, woken)
    SELECT f.id, $1, coalesce($3::timestamptz, statement_timestamp()), 'cancelled', true FROM free AS f
    ON CONFLICT DO NOTHING
    RETURNING gate
)
UPDATE flowstone.gate SET open = false WHERE id = ANY (ARRAY (SELECT gate FROM decided));

-- name: end_gates
-- Cancel the open gates of a run that has ended, but for those that others decide: they find that it has.
WITH free AS MATERIALIZED (
    SELECT g.id FROM flowstone.gate AS g WHERE g.run_id = $1 AND g.open FOR NO KEY UPDATE SKIP LOCKED
),
decided AS (
    INSERT INTO flowstone.gate_outcome (gate, run_id, at, how, woken)
    SELECT f.id, $1, $2, 'cancelled', true FROM free AS f
    ON CONFLICT DO NOTHING
    RETURNING gate
)
UPDATE flowstone.gate SET open = false WHERE id = ANY (ARRAY (SELECT gate FROM decided));

-- name: signal
SELECT state, of_gate, of_run, how, at, payload, signal_id FROM flowstone.signal($1, $2, $3, $4, $5, $6, $7);

-- name: record_delivery
INSERT INTO flowstone.delivery (at, born, gate, state, signal_id, facts, token, payload)
SELECT n.at, (n.at AT TIME ZONE 'UTC')::date, $1, $2, $3, $4, $5, $6
FROM (SELECT coalesce($7::timestamptz, statement_timestamp())) AS n (at);

-- name: deliveries
-- Of the gate $1, and of its token $2 before anybody had it.
SELECT d.at, d.gate, d.state, d.signal_id, d.facts, d.token, d.payload
FROM (
    (SELECT * FROM flowstone.delivery AS d WHERE d.gate = $1 ORDER BY d.no DESC LIMIT $3)
    UNION ALL
    (SELECT * FROM flowstone.delivery AS d WHERE d.token = $2 AND d.gate IS NULL ORDER BY d.no DESC LIMIT $3)
) AS d
ORDER BY d.no DESC
LIMIT $3;

-- name: forget_gates
-- At most $2 gates of runs that are forgotten, with less than $3 bytes of payloads before the last one, but for those that
-- somebody holds: their runs wait. Returns how large each was.
WITH free AS MATERIALIZED (
    SELECT g.id, g.token FROM flowstone.gate AS g WHERE g.run_id = ANY ($1::uuid[]) LIMIT $2 FOR UPDATE SKIP LOCKED
),
gone AS MATERIALIZED (
    SELECT n.id, n.token, n.size
    FROM (
        SELECT f.id, f.token, f.size, sum(f.size) OVER (ROWS UNBOUNDED PRECEDING) - f.size AS before
        FROM (
            SELECT f.id, f.token, coalesce((
                SELECT octet_length(o.payload) FROM flowstone.gate_outcome AS o WHERE o.gate = f.id), 0) AS size
            FROM free AS f
        ) AS f
    ) AS n
    WHERE n.before < $3::bigint
),
tokens AS (
    DELETE FROM flowstone.gate_token
    WHERE token = ANY (ARRAY (SELECT token FROM gone)) AND gate = ANY (ARRAY (SELECT id FROM gone))
),
outcomes AS (
    DELETE FROM flowstone.gate_outcome WHERE gate = ANY (ARRAY (SELECT id FROM gone))
),
gates AS (
    DELETE FROM flowstone.gate WHERE id = ANY (ARRAY (SELECT id FROM gone))
)
SELECT size FROM gone;

-- name: gated
-- Those of some runs that have gates.
SELECT n.id
FROM unnest($1::uuid[]) AS n (id)
CROSS JOIN LATERAL (SELECT FROM flowstone.gate AS g WHERE g.run_id = n.id LIMIT 1) AS g;

-- name: forget_early
-- Signals that came too early.
DELETE FROM flowstone.early_signal
WHERE address = ANY (ARRAY (
    SELECT e.address FROM flowstone.early_signal AS e
    WHERE e.until <= coalesce($1::timestamptz, statement_timestamp())
    ORDER BY e.until
    LIMIT $2
    FOR UPDATE SKIP LOCKED));

-- name: missing_deliveries
-- Days that should have a partition of deliveries and have none: today, and $2 more.
SELECT d.day
FROM (
    SELECT (coalesce($1::timestamptz, statement_timestamp()) AT TIME ZONE 'UTC')::date + n AS day
    FROM generate_series(0, $2::integer) AS n
) AS d
WHERE NOT EXISTS (SELECT FROM flowstone.delivery_partition AS p WHERE p.day = d.day);

-- name: add_delivery_partition
SELECT flowstone.add_delivery_partition($1);

-- name: drop_deliveries
-- Drop partitions of days that were over $1 seconds ago.
SELECT p.name, flowstone.drop_delivery_partition(p.name, c.day)
FROM flowstone.delivery_partition AS p
CROSS JOIN (
    SELECT ((coalesce($2::timestamptz, statement_timestamp()) - $1 * interval '1 second') AT TIME ZONE 'UTC')::date
) AS c (day)
WHERE p.day < c.day;

-- name: forget_deliveries
-- At most $3 that are in no partition of their own.
DELETE FROM flowstone.delivery_default
WHERE ctid = ANY (ARRAY (
    SELECT d.ctid FROM flowstone.delivery_default AS d
    WHERE d.born < ((coalesce($2::timestamptz, statement_timestamp()) - $1 * interval '1 second') AT TIME ZONE 'UTC')::date
    LIMIT $3));
