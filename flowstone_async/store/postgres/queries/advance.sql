-- The hot statement. All steps that wait in a process are one call of it, in autocommit.
-- Lock order everywhere: run rows, then asset keys in the order of their primary key.

-- name: advance
-- Commit the steps of many runs, each under its own fencing token.
--   $1 instant, of a virtual clock only; $2 workers that own the runs; $3 separator and $4 mark for NULL of all that
--   follow: each is one column of rows as one text, which costs a tenth of an array on its way here
--   $5-$9   runs: id, fence, what they do (`go` on, `end`, `begin`), final or first state, error
--   $10-$18 runs that begin: number of the run in the list above, and its other columns
--   $19-$31 asset keys, each once, sorted: the four names, number of the run, what it does with the key (below), state,
--           number of the materialization, and the other columns
--   $32-$38 event rows, at least one for each step that writes more than keys: number of the run, and columns
--   $39-$57 materializations: number of the step's first event row, and columns; $58 their payloads
--   $59-$65 lineage: number of the event row and of the materialization, and columns
--   $66-$72 audit entries: number of the event row, and columns
-- Numbers count from 1. Instants are microseconds since 1970. An empty text in a column of one row arrives as NULL,
-- hence `coalesce`, and `=` before a version or checksum.
-- What a run does with a key: c claim, C claim that other runs of the batch ask for too; r release; o outcome of what
-- it holds; u outcome of what it does not hold; R, O, U the same and claim it again.
-- A run whose fence, state or worker is not what its step says is refused alone. A row of `event` that exists already
-- tells that the step was committed before (its reply was lost): then only keys are looked at again, which change
-- nothing the second time.
WITH alive AS MATERIALIZED (
    SELECT id FROM flowstone.worker WHERE id = ANY ($2::text[]) AND NOT dead
), runs AS MATERIALIZED (
    SELECT n.no, n.id::uuid AS id, n.fence::bigint AS fence, n.does, n.state, n.error
    FROM ROWS FROM (
        string_to_table($5, $3), string_to_table($6, $3), string_to_table($7, $3), string_to_table($8, $3, $4),
        string_to_table($9, $3, $4))
        WITH ORDINALITY AS n (id, fence, does, state, error, no)
), beginning AS MATERIALIZED (
    SELECT r.id, r.fence, n.worker, n.pipeline, coalesce(n.partition, '') AS partition, n.targets, n.options,
        n.params, r.state, n.continuable::boolean AS continuable, r.error,
        'epoch'::timestamptz + n.created_at::bigint * interval '1 microsecond' AS created_at
    FROM ROWS FROM (
        string_to_table($10, $3), string_to_table($11, $3, $4), string_to_table($12, $3), string_to_table($13, $3),
        string_to_table($14, $3), string_to_table($15, $3), string_to_table($16, $3), string_to_table($17, $3),
        string_to_table($18, $3, $4))
        AS n (run, worker, pipeline, partition, targets, options, params, continuable, created_at)
    JOIN runs AS r ON r.no = n.run::bigint
), held AS MATERIALIZED (
    SELECT r.id, r.watched
    FROM flowstone.run AS r
    WHERE r.id = ANY (ARRAY (SELECT id FROM runs WHERE does = 'go')) AND r.state = 'running'
        AND ((r.id, r.fence) IN (SELECT id, fence FROM runs)) IS TRUE
        AND (r.worker IN (SELECT id FROM alive)) IS TRUE
    FOR SHARE OF r
), ended AS (
    UPDATE flowstone.run AS r
    SET state = CASE WHEN r.id IN (SELECT id FROM runs WHERE state = 'succeeded') THEN 'succeeded'
            ELSE (SELECT e.state FROM runs AS e WHERE e.id = r.id) END,
        error = CASE WHEN r.id IN (SELECT id FROM runs WHERE error IS NOT NULL)
            THEN (SELECT e.error FROM runs AS e WHERE e.id = r.id) END,
        finished_at = coalesce(r.finished_at, $1::timestamptz, statement_timestamp())
    WHERE r.id = ANY (ARRAY (SELECT id FROM runs WHERE does = 'end'))
        AND ((r.id, r.fence, CASE r.state WHEN 'running' THEN true END) IN (SELECT id, fence, true FROM runs)
            OR (r.id, r.fence, r.state) IN (SELECT id, fence, state FROM runs))
        AND (r.worker IN (SELECT id FROM alive)) IS TRUE
    RETURNING r.id, r.watched
), begun AS (
    INSERT INTO flowstone.run
        (id, fence, worker, pipeline, partition, targets, options, params, state, continuable, error, created_at,
        finished_at)
    SELECT n.id, n.fence, n.worker, n.pipeline, n.partition, n.targets, n.options, n.params, n.state, n.continuable,
        n.error, coalesce(n.created_at, $1, statement_timestamp()),
        CASE WHEN n.state IN ('succeeded', 'failed', 'cancelled') THEN coalesce($1, statement_timestamp()) END
    FROM beginning AS n
    WHERE n.worker IS NULL OR n.worker IN (SELECT id FROM alive)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), begun_before AS MATERIALIZED (
    SELECT r.id
    FROM flowstone.run AS r
    WHERE r.id = ANY (ARRAY (SELECT id FROM beginning))
        AND ((r.id, r.fence, coalesce(r.worker, ''), r.pipeline, r.partition, r.targets, r.options, r.params,
            r.continuable) IN (
            SELECT n.id, n.fence, coalesce(n.worker, ''), n.pipeline, n.partition, n.targets, n.options, n.params,
                n.continuable
            FROM beginning AS n)) IS TRUE
        AND (r.state = 'running' OR (r.id, r.state) IN (SELECT n.id, n.state FROM beginning AS n))
        AND (r.worker IS NULL OR r.worker IN (SELECT id FROM alive))
), accepted AS MATERIALIZED (
    SELECT array_agg(r.id ORDER BY r.no) AS ids,
        array_agg((r.id IN (
            SELECT id FROM held UNION ALL SELECT id FROM ended UNION ALL SELECT id FROM begun UNION ALL
            SELECT id FROM begun_before)) IS TRUE ORDER BY r.no) AS which
    FROM runs AS r
), keys AS (
    INSERT INTO flowstone.asset_key AS k
        (pipeline, asset, io, partition, slot, state, run_id, claim_run, claimed_at, contended, current, attempts,
        started_at, completed_at, seconds, error, reason)
    SELECT coalesce(n.pipeline, ''), coalesce(n.asset, ''), coalesce(n.io, ''), coalesce(n.partition, ''), n.slot,
        n.state, CASE WHEN n.does NOT IN ('c', 'C') THEN (SELECT ids FROM accepted)[n.run::integer] END,
        CASE WHEN n.does IN ('c', 'C', 'R', 'O', 'U') THEN (SELECT ids FROM accepted)[n.run::integer] END,
        CASE WHEN n.does IN ('c', 'C', 'R', 'O', 'U') THEN coalesce($1, statement_timestamp()) END,
        n.does IN ('C', 'o', 'O'), (SELECT string_to_array($40, $3)::uuid[])[n.made::integer],
        n.attempts::integer, 'epoch'::timestamptz + n.started_at::bigint * interval '1 microsecond',
        CASE WHEN n.state <> 'pending' THEN coalesce($1, statement_timestamp()) END, n.seconds::double precision,
        n.error, n.reason
    FROM ROWS FROM (
        string_to_table($19, $3), string_to_table($20, $3), string_to_table($21, $3), string_to_table($22, $3),
        string_to_table($23, $3), string_to_table($24, $3), string_to_table($25, $3),
        string_to_table($26, $3, $4), string_to_table($27, $3), string_to_table($28, $3, $4),
        string_to_table($29, $3, $4), string_to_table($30, $3, $4), string_to_table($31, $3, $4))
        WITH ORDINALITY AS n (pipeline, asset, io, partition, run, does, state, made, attempts, started_at, seconds,
            error, reason, slot)
    WHERE (SELECT which FROM accepted)[n.run::integer]
    ON CONFLICT (pipeline, asset, io, partition) DO UPDATE
    SET slot = EXCLUDED.slot,
        claim_run = CASE WHEN k.claim_run = EXCLUDED.run_id THEN EXCLUDED.claim_run
            ELSE coalesce(k.claim_run, EXCLUDED.claim_run) END,
        claimed_at = CASE WHEN k.claim_run IS NULL OR k.claim_run = EXCLUDED.run_id
            THEN coalesce(EXCLUDED.claimed_at, k.claimed_at) ELSE k.claimed_at END,
        lost = CASE WHEN EXCLUDED.claim_run IS NOT NULL AND (k.claim_run IS NULL OR k.claim_run = EXCLUDED.run_id)
            THEN 0 ELSE k.lost END,
        contended = CASE WHEN EXCLUDED.run_id IS NOT NULL THEN k.contended
            WHEN k.claim_run IS NULL THEN EXCLUDED.contended
            ELSE k.contended OR EXCLUDED.contended OR k.claim_run <> EXCLUDED.claim_run END,
        (previous, current, state, run_id, attempts, started_at, completed_at, seconds, error, reason) = (
            SELECT CASE WHEN a.applies THEN CASE WHEN EXCLUDED.current IS NOT NULL THEN k.current END
                    WHEN EXCLUDED.run_id IS NOT NULL OR k.claim_run IS NOT NULL THEN k.previous END,
                CASE WHEN a.applies THEN coalesce(EXCLUDED.current, k.current) ELSE k.current END,
                CASE WHEN a.applies THEN EXCLUDED.state ELSE k.state END,
                CASE WHEN a.applies THEN EXCLUDED.run_id ELSE k.run_id END,
                CASE WHEN a.applies THEN EXCLUDED.attempts ELSE k.attempts END,
                CASE WHEN a.applies THEN EXCLUDED.started_at ELSE k.started_at END,
                CASE WHEN a.applies THEN EXCLUDED.completed_at ELSE k.completed_at END,
                CASE WHEN a.applies THEN EXCLUDED.seconds ELSE k.seconds END,
                CASE WHEN a.applies THEN EXCLUDED.error ELSE k.error END,
                CASE WHEN a.applies THEN EXCLUDED.reason ELSE k.reason END
            FROM (SELECT EXCLUDED.state <> 'pending' AND (k.current = EXCLUDED.current) IS NOT TRUE
                AND (k.claim_run = EXCLUDED.run_id OR (k.claim_run IS NULL AND NOT EXCLUDED.contended)) AS applies)
                AS a)
    RETURNING slot, claim_run, current, lost, contended, previous
), written AS (
    INSERT INTO flowstone.event (run_id, first_no, count, cursor, pipeline, body, claims, at)
    SELECT (SELECT ids FROM accepted)[n.run::integer], n.first_no::bigint, n.count::integer,
        (SELECT pg_current_xact_id()::text::bigint << 20) + n.place::integer, n.pipeline, n.body, n.claims,
        coalesce($1, statement_timestamp())
    FROM ROWS FROM (
        string_to_table($32, $3), string_to_table($33, $3), string_to_table($34, $3), string_to_table($35, $3),
        string_to_table($36, $3), string_to_table($37, $3), string_to_table($38, $3, $4))
        AS n (run, first_no, count, place, pipeline, body, claims)
    WHERE (SELECT which FROM accepted)[n.run::integer]
    ON CONFLICT (run_id, first_no) DO NOTHING
    RETURNING run_id, first_no
), fresh AS MATERIALIZED (
    SELECT array_agg(n.run_id ORDER BY n.no) AS runs,
        array_agg(((n.run_id, n.first_no) IN (SELECT run_id, first_no FROM written)) IS TRUE ORDER BY n.no) AS which
    FROM (
        SELECT n.no, (SELECT ids FROM accepted)[n.run::integer] AS run_id, n.first_no::bigint AS first_no
        FROM ROWS FROM (string_to_table($32, $3), string_to_table($33, $3)) WITH ORDINALITY AS n (run, first_no, no)
    ) AS n
), made AS (
    INSERT INTO flowstone.materialization
        (id, pipeline, asset, io, partition, run_id, fingerprint, version, code_hash, inputs, manager, location, size,
        checksum, started_at, seconds, attempts, host, metadata, payload, committed_at)
    SELECT n.id::uuid, coalesce(n.pipeline, ''), coalesce(n.asset, ''), coalesce(n.io, ''), coalesce(n.partition, ''),
        (SELECT runs FROM fresh)[n.step::integer], coalesce(n.fingerprint, ''), substr(n.version, 2),
        coalesce(n.code_hash, ''), n.inputs, coalesce(n.manager, ''), coalesce(n.location, ''), n.size::bigint,
        substr(n.checksum, 2), 'epoch'::timestamptz + n.started_at::bigint * interval '1 microsecond',
        n.seconds::double precision, n.attempts::integer, coalesce(n.host, ''), n.metadata, n.payload,
        coalesce($1, statement_timestamp())
    FROM ROWS FROM (
        string_to_table($39, $3), string_to_table($40, $3), string_to_table($41, $3), string_to_table($42, $3),
        string_to_table($43, $3), string_to_table($44, $3), string_to_table($45, $3), string_to_table($46, $3, $4),
        string_to_table($47, $3), string_to_table($48, $3), string_to_table($49, $3), string_to_table($50, $3),
        string_to_table($51, $3), string_to_table($52, $3, $4), string_to_table($53, $3), string_to_table($54, $3),
        string_to_table($55, $3), string_to_table($56, $3), string_to_table($57, $3, $4), unnest($58::bytea[]))
        AS n (step, id, pipeline, asset, io, partition, fingerprint, version, code_hash, inputs, manager, location,
            size, checksum, started_at, seconds, attempts, host, metadata, payload)
    WHERE (SELECT which FROM fresh)[n.step::integer]
), traced AS (
    INSERT INTO flowstone.lineage (pipeline, asset, io, partition, materialization, upstream)
    SELECT coalesce(n.pipeline, ''), coalesce(n.asset, ''), coalesce(n.io, ''), coalesce(n.partition, ''),
        (SELECT string_to_array($40, $3)::uuid[])[n.made::integer], n.upstream::uuid
    FROM ROWS FROM (
        string_to_table($59, $3), string_to_table($60, $3), string_to_table($61, $3), string_to_table($62, $3),
        string_to_table($63, $3), string_to_table($64, $3), string_to_table($65, $3))
        AS n (step, made, pipeline, asset, io, partition, upstream)
    WHERE (SELECT which FROM fresh)[n.step::integer]
), noted AS (
    INSERT INTO flowstone.audit (action, subject, actor, actor_kind, run_id, details, at)
    SELECT coalesce(n.action, ''), coalesce(n.subject, ''), coalesce(n.actor, ''), coalesce(n.actor_kind, ''),
        n.about::uuid, n.details, coalesce($1, statement_timestamp())
    FROM ROWS FROM (
        string_to_table($66, $3), string_to_table($67, $3), string_to_table($68, $3), string_to_table($69, $3),
        string_to_table($70, $3), string_to_table($71, $3, $4), string_to_table($72, $3, $4))
        AS n (step, action, subject, actor, actor_kind, about, details)
    WHERE (SELECT which FROM fresh)[n.step::integer]
), replaced AS (
    INSERT INTO flowstone.superseded (at, materialization)
    SELECT coalesce($1, statement_timestamp()), previous FROM keys WHERE previous IS NOT NULL
)
SELECT coalesce($1, statement_timestamp()) AS at,
    (SELECT a.which FROM accepted AS a WHERE false = ANY (a.which)) AS accepted,
    (SELECT array_agg(w.id) FROM (SELECT * FROM held UNION ALL SELECT * FROM ended) AS w WHERE w.watched) AS watched,
    array_agg(slot) AS slots, array_agg(claim_run) AS holders, array_agg(current) AS currents,
    array_agg(lost) AS losts, array_agg(contended) AS contended, array_agg(previous) AS previous
FROM keys
WHERE claim_run IS NOT NULL OR contended OR previous IS NOT NULL;
