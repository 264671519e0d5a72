-- The hot statement. All steps that wait in a process are one call of it, in autocommit.
-- Lock order everywhere: run rows, then asset keys in the order of their primary key.

-- name: advance
-- Commit the steps of many runs, each under its own fencing token.
--   $1 instant, of a virtual clock only     $2 workers that own the runs
--   $3-$4 runs that go on: id, fence
--   $5-$8 runs that end: id, fence, state, error
--   $9-$20 runs that begin: the row's columns
--   $21-$35 asset keys, each once, sorted. A claim has `claim_run` alone; a release is `pending` with `run_id`; an
--           outcome has another state, `contended` then says that its run holds the claim, and with `claim_run` the
--           run claims the key again
--   $36-$42 event rows, at least one for each step that writes more than keys
--   $43-$63 materializations, with the number of their step's first event row
--   $64-$69 lineage     $70-$77 audit entries, with run and number as above
-- A run whose fence, state or worker is not what its step says is refused alone. A row of `event` that exists already
-- tells that the step was committed before (its reply was lost): then only keys are looked at again, which change
-- nothing the second time.
WITH alive AS MATERIALIZED (
    SELECT id FROM flowstone.worker WHERE id = ANY ($2::text[]) AND NOT dead
), held AS MATERIALIZED (
    SELECT r.id, r.watched
    FROM flowstone.run AS r
    WHERE r.id = ANY ($3::uuid[]) AND r.state = 'running'
        AND ((r.id, r.fence) IN (SELECT * FROM unnest($3::uuid[], $4::bigint[]))) IS TRUE
        AND (r.worker IN (SELECT id FROM alive)) IS TRUE
    FOR SHARE OF r
), ended AS (
    UPDATE flowstone.run AS r
    SET state = ($7::text[])[array_position($5::uuid[], r.id)],
        error = ($8::text[])[array_position($5::uuid[], r.id)],
        finished_at = coalesce(r.finished_at, $1::timestamptz, statement_timestamp())
    WHERE r.id = ANY ($5::uuid[])
        AND r.state IN ('running', ($7::text[])[array_position($5::uuid[], r.id)])
        AND ((r.id, r.fence) IN (SELECT * FROM unnest($5::uuid[], $6::bigint[]))) IS TRUE
        AND (r.worker IN (SELECT id FROM alive)) IS TRUE
    RETURNING r.id, r.watched
), begun AS (
    INSERT INTO flowstone.run
        (id, fence, worker, pipeline, partition, targets, options, params, state, continuable, error, created_at,
        finished_at)
    SELECT n.id, n.fence, n.worker, n.pipeline, n.partition, n.targets, n.options, n.params, n.state, n.continuable,
        n.error, coalesce(n.created_at, $1, statement_timestamp()),
        CASE WHEN n.state IN ('succeeded', 'failed', 'cancelled') THEN coalesce($1, statement_timestamp()) END
    FROM unnest($9::uuid[], $10::bigint[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[],
        $16::text[], $17::text[], $18::boolean[], $19::text[], $20::timestamptz[])
        AS n (id, fence, worker, pipeline, partition, targets, options, params, state, continuable, error, created_at)
    WHERE n.worker IS NULL OR n.worker IN (SELECT id FROM alive)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
), begun_before AS MATERIALIZED (
    SELECT r.id
    FROM flowstone.run AS r
    WHERE r.id = ANY ($9::uuid[])
        AND ((r.id, r.fence, coalesce(r.worker, ''), r.pipeline, r.partition, r.targets, r.options, r.params,
            r.continuable) IN (
            SELECT n.id, n.fence, coalesce(n.worker, ''), n.pipeline, n.partition, n.targets, n.options, n.params,
                n.continuable
            FROM unnest($9::uuid[], $10::bigint[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[],
                $16::text[], $18::boolean[])
                AS n (id, fence, worker, pipeline, partition, targets, options, params, continuable))) IS TRUE
        AND r.state IN ('running', ($17::text[])[array_position($9::uuid[], r.id)])
        AND (r.worker IS NULL OR r.worker IN (SELECT id FROM alive))
), accepted AS MATERIALIZED (
    SELECT id FROM held UNION ALL SELECT id FROM ended UNION ALL SELECT id FROM begun UNION ALL
    SELECT id FROM begun_before
), keys AS (
    INSERT INTO flowstone.asset_key AS k
        (pipeline, asset, io, partition, slot, state, run_id, claim_run, claimed_at, contended, current, attempts,
        started_at, completed_at, seconds, error, reason)
    SELECT n.pipeline, n.asset, n.io, n.partition, n.slot, n.state, n.run_id, n.claim_run,
        CASE WHEN n.claim_run IS NOT NULL THEN coalesce($1, statement_timestamp()) END, n.contended, n.current,
        n.attempts, n.started_at, CASE WHEN n.state <> 'pending' THEN coalesce($1, statement_timestamp()) END,
        n.seconds, n.error, n.reason
    FROM unnest($21::text[], $22::text[], $23::text[], $24::text[], $25::integer[], $26::text[], $27::uuid[],
        $28::uuid[], $29::boolean[], $30::uuid[], $31::integer[], $32::timestamptz[], $33::double precision[],
        $34::text[], $35::text[])
        AS n (pipeline, asset, io, partition, slot, state, run_id, claim_run, contended, current, attempts,
            started_at, seconds, error, reason)
    WHERE (coalesce(n.claim_run, n.run_id) IN (SELECT id FROM accepted)) IS TRUE
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
    SELECT n.run_id, n.first_no, n.count, (SELECT pg_current_xact_id()::text::bigint << 20) + n.place, n.pipeline,
        n.body, n.claims, coalesce($1, statement_timestamp())
    FROM unnest($36::uuid[], $37::bigint[], $38::integer[], $39::integer[], $40::text[], $41::text[], $42::text[])
        AS n (run_id, first_no, count, place, pipeline, body, claims)
    WHERE (n.run_id IN (SELECT id FROM accepted)) IS TRUE
    ON CONFLICT (run_id, first_no) DO NOTHING
    RETURNING run_id, first_no
), made AS (
    INSERT INTO flowstone.materialization
        (id, pipeline, asset, io, partition, run_id, fingerprint, version, code_hash, inputs, manager, location, size,
        checksum, started_at, seconds, attempts, host, metadata, payload, committed_at)
    SELECT n.id, n.pipeline, n.asset, n.io, n.partition, n.run_id, n.fingerprint, n.version, n.code_hash, n.inputs,
        n.manager, n.location, n.size, n.checksum, n.started_at, n.seconds, n.attempts, n.host, n.metadata, n.payload,
        coalesce($1, statement_timestamp())
    FROM unnest($43::uuid[], $44::bigint[], $45::text[], $46::text[], $47::text[], $48::text[], $49::uuid[],
        $50::text[], $51::text[], $52::text[], $53::text[], $54::text[], $55::text[], $56::bigint[], $57::text[],
        $58::timestamptz[], $59::double precision[], $60::integer[], $61::text[], $62::text[], $63::bytea[])
        AS n (id, first_no, pipeline, asset, io, partition, run_id, fingerprint, version, code_hash, inputs, manager,
            location, size, checksum, started_at, seconds, attempts, host, metadata, payload)
    WHERE ((n.run_id, n.first_no) IN (SELECT run_id, first_no FROM written)) IS TRUE
    RETURNING id
), traced AS (
    INSERT INTO flowstone.lineage (pipeline, asset, io, partition, materialization, upstream)
    SELECT n.*
    FROM unnest($64::text[], $65::text[], $66::text[], $67::text[], $68::uuid[], $69::uuid[])
        AS n (pipeline, asset, io, partition, materialization, upstream)
    WHERE (n.materialization IN (SELECT id FROM made)) IS TRUE
), noted AS (
    INSERT INTO flowstone.audit (action, subject, actor, actor_kind, run_id, details, at)
    SELECT n.action, n.subject, n.actor, n.actor_kind, n.about, n.details, coalesce($1, statement_timestamp())
    FROM unnest($70::uuid[], $71::bigint[], $72::text[], $73::text[], $74::text[], $75::text[], $76::uuid[],
        $77::text[])
        AS n (run_id, first_no, action, subject, actor, actor_kind, about, details)
    WHERE ((n.run_id, n.first_no) IN (SELECT run_id, first_no FROM written)) IS TRUE
), replaced AS (
    INSERT INTO flowstone.superseded (at, materialization)
    SELECT coalesce($1, statement_timestamp()), previous FROM keys WHERE previous IS NOT NULL
)
SELECT coalesce($1, statement_timestamp()) AS at,
    (SELECT array_agg(u.id) FROM unnest($3::uuid[] || $5::uuid[] || $9::uuid[]) AS u (id)
        WHERE (u.id IN (SELECT id FROM accepted)) IS NOT TRUE) AS refused,
    (SELECT array_agg(w.id) FROM (SELECT * FROM held UNION ALL SELECT * FROM ended) AS w WHERE w.watched) AS watched,
    array_agg(slot) AS slots, array_agg(claim_run) AS holders, array_agg(current) AS currents,
    array_agg(lost) AS losts, array_agg(contended) AS contended, array_agg(previous) AS previous
FROM keys
WHERE claim_run IS NOT NULL OR contended OR previous IS NOT NULL;
