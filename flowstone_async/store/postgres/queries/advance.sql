-- The hot statement. All steps that wait in a process are one call of it, in autocommit. It is put together from the
-- parts that a batch needs (statement.py): a part that says `if x` is there if the batch has rows of kind x, and what
-- is not there costs nothing. `:name` stands for a parameter.
--
-- Each list is a column of rows as one text, with `:separator` between the values, which costs a tenth of an array on
-- its way here; `:null` stands for NULL. Payloads are one after the other in `:payloads`. An empty text in a column of one row arrives as NULL, hence `coalesce`, and
-- `=` before a version or checksum. Instants are microseconds since 1970. Rows refer to each other by number, from 1.
--
-- A run whose fence, state or worker is not what its step says is refused alone. A row of `event` that exists already
-- tells that the step was committed before (its reply was lost): then only keys are looked at again, which change
-- nothing the second time.
--
-- Lock order, everywhere: run rows first, then asset keys in the order of their primary key.

-- part: alive
-- Those of the owners that have not been declared dead.
alive AS MATERIALIZED (
    SELECT id FROM flowstone.worker WHERE id = ANY (string_to_array(:workers, :separator)) AND NOT dead
)

-- part: runs
-- The runs of the batch; each is of one of the kinds `goes`, `ends` and `begins`.
runs AS MATERIALIZED (
    SELECT n.no, n.id::uuid AS id, n.fence::bigint AS fence, n.kind, n.state, n.error
    FROM ROWS FROM (
        string_to_table(:run_id, :separator), string_to_table(:run_fence, :separator),
        string_to_table(:run_kind, :separator), string_to_table(:run_state, :separator, :null),
        string_to_table(:run_error, :separator, :null))
        WITH ORDINALITY AS n (id, fence, kind, state, error, no)
)

-- part: held if goes
-- Runs that go on: locked against being cancelled or taken until this has committed.
held AS MATERIALIZED (
    SELECT r.id, r.watched, (r.created_at AT TIME ZONE 'UTC')::date AS born
    FROM flowstone.run AS r
    WHERE r.id = ANY (ARRAY (SELECT id FROM runs WHERE kind = 'goes')) AND r.state = 'running'
        AND ((r.id, r.fence) IN (SELECT id, fence FROM runs)) IS TRUE
        AND (r.worker IN (SELECT id FROM alive)) IS TRUE
    FOR SHARE OF r
)

-- part: ended if ends
-- A run that ended before under the same fence and in the same state is one whose reply was lost.
ended AS (
    UPDATE flowstone.run AS r
    SET state = CASE WHEN r.id IN (SELECT id FROM runs WHERE state = 'succeeded') THEN 'succeeded'
            ELSE (SELECT e.state FROM runs AS e WHERE e.id = r.id) END,
        error = CASE WHEN r.id IN (SELECT id FROM runs WHERE error IS NOT NULL)
            THEN (SELECT e.error FROM runs AS e WHERE e.id = r.id) END,
        finished_at = coalesce(r.finished_at, :now::timestamptz, statement_timestamp())
    WHERE r.id = ANY (ARRAY (SELECT id FROM runs WHERE kind = 'ends'))
        AND ((r.id, r.fence, CASE r.state WHEN 'running' THEN true END) IN (SELECT id, fence, true FROM runs)
            OR (r.id, r.fence, r.state) IN (SELECT id, fence, state FROM runs))
        AND (r.worker IN (SELECT id FROM alive)) IS TRUE
    RETURNING r.id, r.watched, (r.created_at AT TIME ZONE 'UTC')::date AS born
)

-- part: open_gates if gated
-- Gates of runs that end, but for those that another open transaction decides: it finds, or will, that the run has ended.
open_gates AS MATERIALIZED (
    SELECT g.id, g.run_id
    FROM flowstone.gate AS g
    WHERE g.run_id = ANY (ARRAY (SELECT id FROM ended)) AND g.open
    FOR NO KEY UPDATE SKIP LOCKED
)

-- part: cancelled_gates if gated
cancelled_gates AS (
    INSERT INTO flowstone.gate_outcome (gate, run_id, at, how, woken)
    SELECT g.id, g.run_id, coalesce(:now::timestamptz, statement_timestamp()), 'cancelled', true
    FROM open_gates AS g
    ON CONFLICT DO NOTHING
    RETURNING gate
)

-- part: shut_gates if gated
shut_gates AS (
    UPDATE flowstone.gate SET open = false WHERE id = ANY (ARRAY (SELECT gate FROM cancelled_gates))
)

-- part: beginning if begins
beginning AS MATERIALIZED (
    SELECT r.id, r.fence, n.worker, n.pipeline, coalesce(n.partition, '') AS partition, n.targets, n.options,
        n.params, r.state, n.continuable::boolean AS continuable, r.error, n.request,
        'epoch'::timestamptz + n.created_at::bigint * interval '1 microsecond' AS created_at
    FROM ROWS FROM (
        string_to_table(:begun_run, :separator), string_to_table(:begun_worker, :separator, :null),
        string_to_table(:begun_pipeline, :separator), string_to_table(:begun_partition, :separator),
        string_to_table(:begun_targets, :separator), string_to_table(:begun_options, :separator),
        string_to_table(:begun_params, :separator), string_to_table(:begun_continuable, :separator),
        string_to_table(:begun_created_at, :separator, :null), string_to_table(:begun_request, :separator, :null))
        AS n (run, worker, pipeline, partition, targets, options, params, continuable, created_at, request)
    JOIN runs AS r ON r.no = n.run::bigint
)

-- part: begun if begins
begun AS (
    INSERT INTO flowstone.run
        (id, fence, worker, pipeline, partition, targets, options, params, state, continuable, error, request,
        created_at, finished_at)
    SELECT n.id, n.fence, n.worker, n.pipeline, n.partition, n.targets, n.options, n.params, n.state, n.continuable,
        n.error, n.request, coalesce(n.created_at, :now::timestamptz, statement_timestamp()),
        CASE WHEN n.state IN ('succeeded', 'failed', 'cancelled')
            THEN coalesce(:now::timestamptz, statement_timestamp()) END
    FROM beginning AS n
    WHERE n.worker IS NULL OR n.worker IN (SELECT id FROM alive)
    ON CONFLICT (id) DO NOTHING
    RETURNING id, (created_at AT TIME ZONE 'UTC')::date AS born
)

-- part: begun_before if begins
-- Runs that were begun with the same contents already: their reply was lost.
begun_before AS MATERIALIZED (
    SELECT r.id, (r.created_at AT TIME ZONE 'UTC')::date AS born
    FROM flowstone.run AS r
    WHERE r.id = ANY (ARRAY (SELECT id FROM beginning))
        AND ((r.id, r.fence, coalesce(r.worker, ''), r.pipeline, r.partition, r.targets, r.options, r.params,
            r.continuable) IN (
            SELECT n.id, n.fence, coalesce(n.worker, ''), n.pipeline, n.partition, n.targets, n.options, n.params,
                n.continuable
            FROM beginning AS n)) IS TRUE
        AND (r.state = 'running' OR (r.id, r.state) IN (SELECT n.id, n.state FROM beginning AS n))
        AND (r.worker IS NULL OR r.worker IN (SELECT id FROM alive))
)

-- part: accepted
-- The runs' ids, which of them may go on, and the days on which they were created: by number.
accepted AS MATERIALIZED (
    SELECT array_agg(r.id ORDER BY r.no) AS ids, array_agg(r.born IS NOT NULL ORDER BY r.no) AS which,
        array_agg(r.born ORDER BY r.no) AS born
    FROM (
        SELECT max(n.no) AS no, n.id, max(n.born) AS born
        FROM (SELECT no, id, NULL::date AS born FROM runs UNION ALL SELECT NULL, id, born FROM ({accepted}) AS a) AS n
        GROUP BY n.id
    ) AS r
)

-- part: keys if keys
-- What is done with a key: c claim, C claim that other runs of the batch ask for too; r release; o outcome of what the
-- run holds; u outcome of what it does not hold; R, O, U the same and claim it again. A row with `claim_run` claims; a
-- row without `run_id` does nothing else. `contended` of an outcome says that the run holds the key.
keys AS (
    INSERT INTO flowstone.asset_key AS k
        (pipeline, asset, io, partition, slot, state, run_id, claim_run, claimed_at, contended, current, attempts,
        started_at, completed_at, seconds, error, reason)
    SELECT coalesce(n.pipeline, ''), coalesce(n.asset, ''), coalesce(n.io, ''), coalesce(n.partition, ''), n.slot,
        n.state, CASE WHEN n.does NOT IN ('c', 'C') THEN (SELECT ids FROM accepted)[n.run::integer] END,
        CASE WHEN n.does IN ('c', 'C', 'R', 'O', 'U') THEN (SELECT ids FROM accepted)[n.run::integer] END,
        CASE WHEN n.does IN ('c', 'C', 'R', 'O', 'U') THEN coalesce(:now::timestamptz, statement_timestamp()) END,
        n.does IN ('C', 'o', 'O'), n.made::uuid, n.attempts::integer,
        'epoch'::timestamptz + n.started_at::bigint * interval '1 microsecond',
        CASE WHEN n.state <> 'pending' THEN coalesce(:now::timestamptz, statement_timestamp()) END,
        n.seconds::double precision, n.error, n.reason
    FROM ROWS FROM (
        string_to_table(:key_pipeline, :separator), string_to_table(:key_asset, :separator),
        string_to_table(:key_io, :separator), string_to_table(:key_partition, :separator),
        string_to_table(:key_run, :separator), string_to_table(:key_does, :separator),
        string_to_table(:key_state, :separator), string_to_table(:key_made, :separator, :null),
        string_to_table(:key_attempts, :separator), string_to_table(:key_started_at, :separator, :null),
        string_to_table(:key_seconds, :separator, :null), string_to_table(:key_error, :separator, :null),
        string_to_table(:key_reason, :separator, :null))
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
)

-- part: written if events
-- At least one row for each step that writes more than keys. Its place in the transaction follows the transaction's
-- number in the cursor.
written AS (
    INSERT INTO flowstone.event (born, run_id, first_no, count, cursor, pipeline, body, claims, at)
    SELECT (SELECT born FROM accepted)[n.run::integer], (SELECT ids FROM accepted)[n.run::integer], n.first_no::bigint, n.count::integer,
        (SELECT pg_current_xact_id()::text::bigint << 20) + n.place::integer, n.pipeline, n.body, n.claims,
        coalesce(:now::timestamptz, statement_timestamp())
    FROM ROWS FROM (
        string_to_table(:event_run, :separator), string_to_table(:event_first_no, :separator),
        string_to_table(:event_count, :separator), string_to_table(:event_place, :separator),
        string_to_table(:event_pipeline, :separator), string_to_table(:event_body, :separator),
        string_to_table(:event_claims, :separator, :null))
        AS n (run, first_no, count, place, pipeline, body, claims)
    WHERE (SELECT which FROM accepted)[n.run::integer]
    ON CONFLICT (born, run_id, first_no) DO NOTHING
    RETURNING run_id, first_no
)

-- part: fresh if made audit
-- The runs of the event rows, and which of them are new: by number.
fresh AS MATERIALIZED (
    SELECT array_agg(n.run_id ORDER BY n.no) AS runs,
        array_agg(((n.run_id, n.first_no) IN (SELECT run_id, first_no FROM written)) IS TRUE ORDER BY n.no) AS which
    FROM (
        SELECT n.no, (SELECT ids FROM accepted)[n.run::integer] AS run_id, n.first_no::bigint AS first_no
        FROM ROWS FROM (string_to_table(:event_run, :separator), string_to_table(:event_first_no, :separator))
            WITH ORDINALITY AS n (run, first_no, no)
    ) AS n
)

-- part: made if made
made AS (
    INSERT INTO flowstone.materialization
        (id, pipeline, asset, io, partition, run_id, fingerprint, version, code_hash, inputs, manager, location, size,
        checksum, started_at, seconds, attempts, host, metadata, payload, committed_at)
    SELECT n.id::uuid, coalesce(n.pipeline, ''), coalesce(n.asset, ''), coalesce(n.io, ''), coalesce(n.partition, ''),
        (SELECT runs FROM fresh)[n.event::integer], coalesce(n.fingerprint, ''), substr(n.version, 2),
        coalesce(n.code_hash, ''), n.inputs, coalesce(n.manager, ''), coalesce(n.location, ''), n.size::bigint,
        substr(n.checksum, 2), 'epoch'::timestamptz + n.started_at::bigint * interval '1 microsecond',
        n.seconds::double precision, n.attempts::integer, coalesce(n.host, ''), n.metadata,
        substring(:payloads::bytea FROM n.payload_at::integer FOR n.payload_size::integer),
        coalesce(:now::timestamptz, statement_timestamp())
    FROM ROWS FROM (
        string_to_table(:made_event, :separator), string_to_table(:made_id, :separator),
        string_to_table(:made_pipeline, :separator), string_to_table(:made_asset, :separator),
        string_to_table(:made_io, :separator), string_to_table(:made_partition, :separator),
        string_to_table(:made_fingerprint, :separator), string_to_table(:made_version, :separator, :null),
        string_to_table(:made_code_hash, :separator), string_to_table(:made_inputs, :separator),
        string_to_table(:made_manager, :separator), string_to_table(:made_location, :separator),
        string_to_table(:made_size, :separator), string_to_table(:made_checksum, :separator, :null),
        string_to_table(:made_started_at, :separator), string_to_table(:made_seconds, :separator),
        string_to_table(:made_attempts, :separator), string_to_table(:made_host, :separator),
        string_to_table(:made_metadata, :separator, :null), string_to_table(:made_payload_at, :separator, :null),
        string_to_table(:made_payload_size, :separator, :null))
        AS n (event, id, pipeline, asset, io, partition, fingerprint, version, code_hash, inputs, manager, location,
            size, checksum, started_at, seconds, attempts, host, metadata, payload_at, payload_size)
    WHERE (SELECT which FROM fresh)[n.event::integer]
    RETURNING id
)

-- part: replaced if made
-- Once: a step that is sent again still answers what it replaced.
replaced AS (
    INSERT INTO flowstone.superseded (at, materialization)
    SELECT coalesce(:now::timestamptz, statement_timestamp()), previous
    FROM keys
    WHERE previous IS NOT NULL AND current IN (SELECT id FROM made)
)

-- part: traced if lineage
traced AS (
    INSERT INTO flowstone.lineage (pipeline, asset, io, partition, materialization, upstream)
    SELECT coalesce(n.pipeline, ''), coalesce(n.asset, ''), coalesce(n.io, ''), coalesce(n.partition, ''),
        n.made::uuid, n.upstream::uuid
    FROM ROWS FROM (
        string_to_table(:lineage_event, :separator), string_to_table(:lineage_made, :separator),
        string_to_table(:lineage_pipeline, :separator), string_to_table(:lineage_asset, :separator),
        string_to_table(:lineage_io, :separator), string_to_table(:lineage_partition, :separator),
        string_to_table(:lineage_upstream, :separator))
        AS n (event, made, pipeline, asset, io, partition, upstream)
    WHERE (SELECT which FROM fresh)[n.event::integer]
)

-- part: noted if audit
noted AS (
    INSERT INTO flowstone.audit (action, subject, actor, actor_kind, run_id, details, at)
    SELECT coalesce(n.action, ''), coalesce(n.subject, ''), coalesce(n.actor, ''), coalesce(n.actor_kind, ''),
        n.run::uuid, n.details, coalesce(:now::timestamptz, statement_timestamp())
    FROM ROWS FROM (
        string_to_table(:audit_event, :separator), string_to_table(:audit_action, :separator),
        string_to_table(:audit_subject, :separator), string_to_table(:audit_actor, :separator),
        string_to_table(:audit_actor_kind, :separator), string_to_table(:audit_run, :separator, :null),
        string_to_table(:audit_details, :separator, :null))
        AS n (event, action, subject, actor, actor_kind, run, details)
    WHERE (SELECT which FROM fresh)[n.event::integer]
)

-- part: answer
-- Which runs were accepted, which of them others watch, how many event rows were new, and the keys that there is
-- something to say of: slot, claim, current, lost, contended, previous. All as text: the driver knows that type, and would have to ask for arrays.
SELECT coalesce(:now::timestamptz, statement_timestamp()) AS at,
    (SELECT array_to_string(a.which, '') FROM accepted AS a) AS accepted,
    (SELECT string_agg(w.id::text, ',') FROM ({watched}) AS w WHERE w.watched) AS watched,
    {written} AS written

-- part: answer_keys if keys
    , string_agg(concat(slot, ',', claim_run, ',', current, ',', lost, ',', contended, ',', previous), ';') AS keys
FROM keys
WHERE claim_run IS NOT NULL OR contended OR previous IS NOT NULL
