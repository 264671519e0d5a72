-- What durable calls of bodies have returned. See docs/adr/0010-waiting.md.

-- name: record_steps
-- Steps of some runs, $1 under the fences $2, each in the row of the run whose number, from 1, is in $3. A run that is not
-- owned under its fence is refused alone. A step that is on record stays, unless it failed in an earlier attempt. Returns
-- the numbers of the runs that are owned, each with how many rows were written for all, and the transaction.
WITH runs AS MATERIALIZED (
    SELECT n.id, n.fence, n.no FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS n (id, fence, no)
),
held AS MATERIALIZED (
    SELECT r.id, r.fence, (r.created_at AT TIME ZONE 'UTC')::date AS born
    FROM flowstone.run AS r
    WHERE r.id = ANY ($1::uuid[]) AND r.state = 'running'
        AND ((r.id, r.fence) IN (SELECT id, fence FROM runs)) IS TRUE
        AND (EXISTS (SELECT FROM flowstone.worker AS w WHERE w.id = r.worker AND NOT w.dead)) IS TRUE
    FOR SHARE OF r
),
owned AS MATERIALIZED (
    SELECT array_agg(r.id ORDER BY r.no) AS ids, array_agg(coalesce(r.born, '-infinity') ORDER BY r.no) AS born
    FROM (
        SELECT max(n.no) AS no, n.id, max(n.born) AS born
        FROM (
            SELECT no, id, fence, NULL::date AS born FROM runs UNION ALL SELECT NULL, id, fence, born FROM held
        ) AS n
        GROUP BY n.id, n.fence
    ) AS r
),
written AS (
    INSERT INTO flowstone.step AS s
        (born, run_id, body, id, at, place, seen, attempt, kind, key, path, function, arguments, value, error)
    SELECT (SELECT born FROM owned)[n.run], (SELECT ids FROM owned)[n.run], n.body, n.id,
        coalesce($16::timestamptz, statement_timestamp()), n.place, n.seen, n.attempt, n.kind, n.key, n.path, n.function,
        n.arguments, n.value, n.error
    FROM unnest($3::integer[], $4::uuid[], $5::uuid[], $6::integer[], $7::integer[], $8::integer[], $9::text[], $10::text[],
        $11::text[], $12::text[], $13::text[], $14::bytea[], $15::text[])
        AS n (run, body, id, place, seen, attempt, kind, key, path, function, arguments, value, error)
    WHERE (SELECT born FROM owned)[n.run] > '-infinity'
    ON CONFLICT (born, run_id, body, id) DO UPDATE
    SET at = excluded.at, place = excluded.place, seen = excluded.seen, attempt = excluded.attempt, kind = excluded.kind,
        path = excluded.path, function = excluded.function, arguments = excluded.arguments, value = excluded.value,
        error = excluded.error
    WHERE s.error IS NOT NULL AND s.attempt < excluded.attempt
    RETURNING 1
)
SELECT n.no::integer AS run, (SELECT count(*) FROM written) AS written, pg_current_xact_id_if_assigned()::text AS transaction
FROM (SELECT born FROM owned) AS a
CROSS JOIN LATERAL unnest(a.born) WITH ORDINALITY AS n (born, no)
WHERE n.born > '-infinity';

-- name: drop_steps
-- Take the steps $3 of the body $2 of the run $1 off the record.
DELETE FROM flowstone.step AS s
WHERE s.born = (SELECT (r.created_at AT TIME ZONE 'UTC')::date FROM flowstone.run AS r WHERE r.id = $1)
    AND s.run_id = $1 AND s.body = $2 AND s.id = ANY ($3::uuid[]);

-- name: steps_of_body
-- What the body $2 of the run $1 has on record behind the id $3: at most $4, and less than $5 bytes before the last one.
SELECT id, key, path, place, seen, attempt, kind, function, arguments, value, error
FROM (
    SELECT p.*, sum(coalesce(octet_length(p.value), 0)) OVER (ORDER BY p.id) - coalesce(octet_length(p.value), 0) AS before
    FROM (
        SELECT s.*
        FROM flowstone.step AS s
        WHERE s.born = (SELECT (r.created_at AT TIME ZONE 'UTC')::date FROM flowstone.run AS r WHERE r.id = $1)
            AND s.run_id = $1 AND s.body = $2 AND s.id > $3
        ORDER BY s.id
        LIMIT $4::bigint
    ) AS p
) AS n
WHERE n.before < $5::bigint
ORDER BY n.id;

-- name: hold_run
-- The transaction in which the run $1 is held, if it is owned under the fence $2: until its end nobody takes the run over or
-- ends it.
SELECT pg_current_xact_id()::text AS transaction
FROM flowstone.run AS r
WHERE r.id = $1 AND r.fence = $2 AND r.state = 'running'
    AND (EXISTS (SELECT FROM flowstone.worker AS w WHERE w.id = r.worker AND NOT w.dead)) IS TRUE
FOR SHARE OF r;

-- name: still_there
-- Fails where a statement of the transaction has.
SELECT pg_current_xact_id_if_assigned()::text AS transaction;

-- name: transaction_goes_on
-- Whether a transaction has neither been committed nor rolled back. What it has committed is visible once it is not.
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'transactionid' AND granted AND transactionid = xid($1::text::xid8)) AS going;

-- name: step_of_attempt
-- The step $3 of a body, if it is on record, of the attempt $4.
SELECT s.seen
FROM flowstone.step AS s
WHERE s.born = (SELECT (r.created_at AT TIME ZONE 'UTC')::date FROM flowstone.run AS r WHERE r.id = $1)
    AND s.run_id = $1 AND s.body = $2 AND s.id = $3 AND s.attempt = $4;

-- name: forget_steps
-- At most $3 steps of runs that were created on the day $1, and less than $4 bytes before the last one: all of them are in
-- one partition. Returns how large each was.
DELETE FROM flowstone.step AS s
WHERE s.born = $1
    AND s.ctid = ANY (ARRAY (
        SELECT n.place
        FROM (
            SELECT p.place, sum(p.size) OVER (ROWS UNBOUNDED PRECEDING) - p.size AS before
            FROM (
                SELECT t.ctid AS place, coalesce(octet_length(t.value), 0) AS size
                FROM flowstone.step AS t
                WHERE t.born = $1 AND t.run_id = ANY ($2::uuid[])
                LIMIT $3
            ) AS p
        ) AS n
        WHERE n.before < $4::bigint))
RETURNING coalesce(octet_length(s.value), 0) AS size;
