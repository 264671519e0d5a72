-- The hot statement. All steps that wait in a process are one call of it, in autocommit.
-- Lock order everywhere: run rows, then asset keys in the order of their primary key.

-- name: advance
-- Commit the steps of many runs, each under its own fencing token.
--   $1 instant, of a virtual clock only; $2 workers that own the runs; $3 separator and $4 mark for NULL of all that
--   follow: each is one column of rows as one text, which costs a tenth of an array on its way here
--   $5-$6 runs that go on: id, fence
--   $7-$10 runs that end: id, fence, state, error
--   $11-$22 runs that begin: the row's columns
--   $23-$37 asset keys, each once, sorted. A claim has `claim_run` alone; a release is `pending` with `run_id`; an
--           outcome has another state, `contended` then says that its run holds the claim, and with `claim_run` the
--           run claims the key again
--   $38-$44 event rows, at least one for each step that writes more than keys
--   $45-$64 materializations, with the number of their step's first event row, and $65 their payloads
--   $66-$71 lineage     $72-$79 audit entries, with run and number as above
-- Instants are microseconds since 1970. An empty text in a column of one row arrives as NULL, hence
-- `coalesce`, and `=` before a version or checksum.
-- A run whose fence, state or worker is not what its step says is refused alone. A row of `event` that exists already
-- tells that the step was committed before (its reply was lost): then only keys are looked at again, which change
-- nothing the second time.
WITH alive AS MATERIALIZED (
    SELECT id FROM flowstone.worker WHERE id = ANY ($2::text[]) AND NOT dead
), going AS MATERIALIZED (
    SELECT n.id::uuid AS id, n.fence::bigint AS fence
    FROM ROWS FROM (string_to_table($5, $3), string_to_table($6, $3)) AS n (id, fence)
), ending AS MATERIALIZED (
    SELECT n.id::uuid AS id, n.fence::bigint AS fence, n.state, n.error
    FROM ROWS FROM (
        string_to_table($7, $3), string_to_table($8, $3), string_to_table($9, $3), string_to_table($10, $3, $4))
        AS n (id, fence, state, error)
), beginning AS MATERIALIZED (
    SELECT n.id::uuid AS id, n.fence::bigint AS fence, n.worker, n.pipeline, coalesce(n.partition, '') AS partition,
        n.targets, n.options, n.params, n.state, n.continuable::boolean AS continuable, n.error,
        'epoch'::timestamptz + n.created_at::bigint * interval '1 microsecond' AS created_at
    FROM ROWS FROM (
        string_to_table($11, $3), string_to_table($12, $3), string_to_table($13, $3, $4), string_to_table($14, $3),
        string_to_table($15, $3), string_to_table($16, $3), string_to_table($17, $3), string_to_table($18, $3),
        string_to_table($19, $3), string_to_table($20, $3), string_to_table($21, $3, $4),
        string_to_table($22, $3, $4))
        AS n (id, fence, worker, pipeline, partition, targets, options, params, state, continuable, error, created_at)
), held AS MATERIALIZED (
    SELECT r.id, r.watched
    FROM flowstone.run AS r
    WHERE r.id = ANY (string_to_array($5, $3)::uuid[]) AND r.state = 'running'
        AND ((r.id, r.fence) IN (SELECT g.id, g.fence FROM going AS g)) IS TRUE
        AND (r.worker IN (SELECT id FROM alive)) IS TRUE
    FOR SHARE OF r
), ended AS (
    UPDATE flowstone.run AS r
    SET state = CASE WHEN r.id IN (SELECT e.id FROM ending AS e WHERE e.state = 'succeeded') THEN 'succeeded'
            ELSE (SELECT e.state FROM ending AS e WHERE e.id = r.id) END,
        error = CASE WHEN r.id IN (SELECT e.id FROM ending AS e WHERE e.error IS NOT NULL)
            THEN (SELECT e.error FROM ending AS e WHERE e.id = r.id) END,
        finished_at = coalesce(r.finished_at, $1::timestamptz, statement_timestamp())
    WHERE r.id = ANY (string_to_array($7, $3)::uuid[])
        AND ((r.id, r.fence, CASE r.state WHEN 'running' THEN true END) IN (
            SELECT e.id, e.fence, true FROM ending AS e)
            OR (r.id, r.fence, r.state) IN (SELECT e.id, e.fence, e.state FROM ending AS e))
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
    WHERE r.id = ANY (string_to_array($11, $3)::uuid[])
        AND ((r.id, r.fence, coalesce(r.worker, ''), r.pipeline, r.partition, r.targets, r.options, r.params,
            r.continuable) IN (
            SELECT n.id, n.fence, coalesce(n.worker, ''), n.pipeline, n.partition, n.targets, n.options, n.params,
                n.continuable
            FROM beginning AS n)) IS TRUE
        AND (r.state = 'running' OR (r.id, r.state) IN (SELECT n.id, n.state FROM beginning AS n))
        AND (r.worker IS NULL OR r.worker IN (SELECT id FROM alive))
), accepted AS MATERIALIZED (
    SELECT id FROM held UNION ALL SELECT id FROM ended UNION ALL SELECT id FROM begun UNION ALL
    SELECT id FROM begun_before
), keys AS (
    INSERT INTO flowstone.asset_key AS k
        (pipeline, asset, io, partition, slot, state, run_id, claim_run, claimed_at, contended, current, attempts,
        started_at, completed_at, seconds, error, reason)
    SELECT coalesce(n.pipeline, ''), coalesce(n.asset, ''), coalesce(n.io, ''), coalesce(n.partition, ''),
        n.slot::integer, n.state, n.run_id::uuid, n.claim_run::uuid,
        CASE WHEN n.claim_run IS NOT NULL THEN coalesce($1, statement_timestamp()) END, n.contended::boolean,
        n.current::uuid, n.attempts::integer,
        'epoch'::timestamptz + n.started_at::bigint * interval '1 microsecond',
        CASE WHEN n.state <> 'pending' THEN coalesce($1, statement_timestamp()) END, n.seconds::double precision,
        n.error, n.reason
    FROM ROWS FROM (
        string_to_table($23, $3), string_to_table($24, $3), string_to_table($25, $3), string_to_table($26, $3),
        string_to_table($27, $3), string_to_table($28, $3), string_to_table($29, $3, $4),
        string_to_table($30, $3, $4), string_to_table($31, $3), string_to_table($32, $3, $4),
        string_to_table($33, $3), string_to_table($34, $3, $4), string_to_table($35, $3, $4),
        string_to_table($36, $3, $4), string_to_table($37, $3, $4))
        AS n (pipeline, asset, io, partition, slot, state, run_id, claim_run, contended, current, attempts,
            started_at, seconds, error, reason)
    WHERE (coalesce(n.claim_run, n.run_id)::uuid IN (SELECT id FROM accepted)) IS TRUE
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
    SELECT n.run_id::uuid, n.first_no::bigint, n.count::integer,
        (SELECT pg_current_xact_id()::text::bigint << 20) + n.place::integer, n.pipeline, n.body, n.claims,
        coalesce($1, statement_timestamp())
    FROM ROWS FROM (
        string_to_table($38, $3), string_to_table($39, $3), string_to_table($40, $3), string_to_table($41, $3),
        string_to_table($42, $3), string_to_table($43, $3), string_to_table($44, $3, $4))
        AS n (run_id, first_no, count, place, pipeline, body, claims)
    WHERE (n.run_id::uuid IN (SELECT id FROM accepted)) IS TRUE
    ON CONFLICT (run_id, first_no) DO NOTHING
    RETURNING run_id, first_no
), made AS (
    INSERT INTO flowstone.materialization
        (id, pipeline, asset, io, partition, run_id, fingerprint, version, code_hash, inputs, manager, location, size,
        checksum, started_at, seconds, attempts, host, metadata, payload, committed_at)
    SELECT n.id::uuid, coalesce(n.pipeline, ''), coalesce(n.asset, ''), coalesce(n.io, ''), coalesce(n.partition, ''),
        n.run_id::uuid, coalesce(n.fingerprint, ''), substr(n.version, 2), coalesce(n.code_hash, ''), n.inputs,
        coalesce(n.manager, ''), coalesce(n.location, ''), n.size::bigint, substr(n.checksum, 2),
        'epoch'::timestamptz + n.started_at::bigint * interval '1 microsecond', n.seconds::double precision,
        n.attempts::integer, coalesce(n.host, ''), n.metadata, n.payload, coalesce($1, statement_timestamp())
    FROM ROWS FROM (
        string_to_table($45, $3), string_to_table($46, $3), string_to_table($47, $3), string_to_table($48, $3),
        string_to_table($49, $3), string_to_table($50, $3), string_to_table($51, $3), string_to_table($52, $3),
        string_to_table($53, $3, $4), string_to_table($54, $3), string_to_table($55, $3), string_to_table($56, $3),
        string_to_table($57, $3), string_to_table($58, $3), string_to_table($59, $3, $4), string_to_table($60, $3),
        string_to_table($61, $3), string_to_table($62, $3), string_to_table($63, $3), string_to_table($64, $3, $4),
        unnest($65::bytea[]))
        AS n (id, first_no, pipeline, asset, io, partition, run_id, fingerprint, version, code_hash, inputs, manager,
            location, size, checksum, started_at, seconds, attempts, host, metadata, payload)
    WHERE ((n.run_id::uuid, n.first_no::bigint) IN (SELECT run_id, first_no FROM written)) IS TRUE
    RETURNING id
), traced AS (
    INSERT INTO flowstone.lineage (pipeline, asset, io, partition, materialization, upstream)
    SELECT coalesce(n.pipeline, ''), coalesce(n.asset, ''), coalesce(n.io, ''), coalesce(n.partition, ''),
        n.materialization::uuid, n.upstream::uuid
    FROM ROWS FROM (
        string_to_table($66, $3), string_to_table($67, $3), string_to_table($68, $3), string_to_table($69, $3),
        string_to_table($70, $3), string_to_table($71, $3))
        AS n (pipeline, asset, io, partition, materialization, upstream)
    WHERE (n.materialization::uuid IN (SELECT id FROM made)) IS TRUE
), noted AS (
    INSERT INTO flowstone.audit (action, subject, actor, actor_kind, run_id, details, at)
    SELECT coalesce(n.action, ''), coalesce(n.subject, ''), coalesce(n.actor, ''), coalesce(n.actor_kind, ''),
        n.about::uuid, n.details, coalesce($1, statement_timestamp())
    FROM ROWS FROM (
        string_to_table($72, $3), string_to_table($73, $3), string_to_table($74, $3), string_to_table($75, $3),
        string_to_table($76, $3), string_to_table($77, $3), string_to_table($78, $3, $4),
        string_to_table($79, $3, $4))
        AS n (run_id, first_no, action, subject, actor, actor_kind, about, details)
    WHERE ((n.run_id::uuid, n.first_no::bigint) IN (SELECT run_id, first_no FROM written)) IS TRUE
), replaced AS (
    INSERT INTO flowstone.superseded (at, materialization)
    SELECT coalesce($1, statement_timestamp()), previous FROM keys WHERE previous IS NOT NULL
)
SELECT coalesce($1, statement_timestamp()) AS at,
    (SELECT array_agg(u.id)
        FROM (SELECT id FROM going UNION ALL SELECT id FROM ending UNION ALL SELECT id FROM beginning) AS u
        WHERE (u.id IN (SELECT id FROM accepted)) IS NOT TRUE) AS refused,
    (SELECT array_agg(w.id) FROM (SELECT * FROM held UNION ALL SELECT * FROM ended) AS w WHERE w.watched) AS watched,
    array_agg(slot) AS slots, array_agg(claim_run) AS holders, array_agg(current) AS currents,
    array_agg(lost) AS losts, array_agg(contended) AS contended, array_agg(previous) AS previous
FROM keys
WHERE claim_run IS NOT NULL OR contended OR previous IS NOT NULL;
