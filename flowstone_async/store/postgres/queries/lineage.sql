-- What was computed from what.

-- name: upstream
SELECT inputs FROM flowstone.materialization WHERE id = $1;

-- name: dependants
-- Keys and, transitively, those whose current value was computed from a value of one of them; each once.
WITH RECURSIVE reached (pipeline, asset, io, partition) AS (
    SELECT n.pipeline COLLATE "C", n.asset COLLATE "C", n.io COLLATE "C", n.partition COLLATE "C"
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS n (pipeline, asset, partition, io)
    UNION
    SELECT k.pipeline, k.asset, k.io, k.partition
    FROM reached AS r
    CROSS JOIN LATERAL (
        SELECT DISTINCT l.materialization FROM flowstone.lineage AS l
        WHERE l.pipeline = r.pipeline AND l.asset = r.asset AND l.io = r.io AND l.partition = r.partition
        OFFSET 0
    ) AS l
    CROSS JOIN LATERAL (
        SELECT m.id, m.pipeline, m.asset, m.io, m.partition FROM flowstone.materialization AS m
        WHERE m.id = l.materialization
        OFFSET 0
    ) AS m
    CROSS JOIN LATERAL (
        SELECT k.pipeline, k.asset, k.io, k.partition FROM flowstone.asset_key AS k
        WHERE k.pipeline = m.pipeline AND k.asset = m.asset AND k.io = m.io AND k.partition = m.partition
            AND k.current = m.id
        OFFSET 0
    ) AS k
)
SELECT pipeline, asset, partition, io FROM reached ORDER BY pipeline, asset, io, partition;

-- name: lock_keys
-- Lock keys that have a current value, in the order of their primary key.
SELECT k.*
FROM (
    SELECT DISTINCT n.pipeline COLLATE "C" AS pipeline, n.asset COLLATE "C" AS asset, n.io COLLATE "C" AS io,
        n.partition COLLATE "C" AS partition
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS n (pipeline, asset, partition, io)
    ORDER BY 1, 2, 3, 4
) AS n
CROSS JOIN LATERAL (
    SELECT k.pipeline, k.asset, k.partition, k.io, k.current, k.contended AND k.claim_run IS NULL
    FROM flowstone.asset_key AS k
    WHERE k.pipeline = n.pipeline AND k.asset = n.asset AND k.io = n.io AND k.partition = n.partition
    OFFSET 0
    FOR UPDATE OF k
) AS k
WHERE k.current IS NOT NULL;

-- name: clear_current
-- Take the current values of locked keys away; they stay as superseded ones until `prune`.
WITH cleared AS (
    INSERT INTO flowstone.asset_key AS k (pipeline, asset, partition, io)
    SELECT n.* FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS n (pipeline, asset, partition, io)
    ON CONFLICT (pipeline, asset, io, partition) DO UPDATE SET current = NULL, previous = NULL
)
INSERT INTO flowstone.superseded (at, materialization)
SELECT coalesce($6::timestamptz, statement_timestamp()), id FROM unnest($5::uuid[]) AS n (id);

-- name: lock_renames
-- One renaming at a time.
SELECT pg_advisory_xact_lock(hashtextextended('flowstone.rename', 0));

-- name: renamable
-- Keys of the asset $2 of the pipeline $1 that the name $3 has not.
SELECT k.io, k.partition
FROM flowstone.asset_key AS k
WHERE k.pipeline = $1 AND k.asset = $2
    AND NOT EXISTS (
        SELECT FROM flowstone.asset_key AS other
        WHERE other.pipeline = $1 AND other.asset = $3 AND other.io = k.io AND other.partition = k.partition)
ORDER BY k.io, k.partition
FOR UPDATE OF k;

-- name: move_keys
-- Give keys of an asset another name. A key that is being computed leaves its claim behind: its run knows the old name.
WITH moved AS (
    SELECT k.*
    FROM unnest($4::text[], $5::text[]) AS n (io, partition)
    CROSS JOIN LATERAL (
        SELECT * FROM flowstone.asset_key AS k
        WHERE k.pipeline = $1 AND k.asset = $2 AND k.io = n.io AND k.partition = n.partition
        OFFSET 0
    ) AS k
), copied AS (
    INSERT INTO flowstone.asset_key
        (pipeline, asset, io, partition, current, previous, run_id, started_at, completed_at, seconds, attempts, state,
        error, reason)
    SELECT pipeline, $3, io, partition, current, previous, run_id, started_at, completed_at, seconds, attempts, state,
        error, reason
    FROM moved
), emptied AS (
    INSERT INTO flowstone.asset_key AS k (pipeline, asset, io, partition)
    SELECT pipeline, asset, io, partition FROM moved WHERE claim_run IS NOT NULL
    ON CONFLICT (pipeline, asset, io, partition) DO UPDATE
    SET current = NULL, previous = NULL, run_id = NULL, started_at = NULL, completed_at = NULL, seconds = NULL,
        attempts = 0, state = 'pending', error = NULL, reason = NULL
)
DELETE FROM flowstone.asset_key AS k
WHERE k.pipeline = $1 AND k.asset = $2 AND k.claim_run IS NULL
    AND ((k.io, k.partition) IN (SELECT n.io, n.partition FROM unnest($4::text[], $5::text[]) AS n (io, partition)))
        IS TRUE;

-- name: move_materializations
UPDATE flowstone.materialization AS m SET asset = $3
WHERE m.pipeline = $1 AND m.asset = $2
    AND ((m.io, m.partition) IN (SELECT n.io, n.partition FROM unnest($4::text[], $5::text[]) AS n (io, partition)))
        IS TRUE;

-- name: move_lineage
-- Returns what was computed from the keys.
UPDATE flowstone.lineage AS l SET asset = $3
WHERE l.pipeline = $1 AND l.asset = $2
    AND ((l.io, l.partition) IN (SELECT n.io, n.partition FROM unnest($4::text[], $5::text[]) AS n (io, partition)))
        IS TRUE
RETURNING l.materialization;

-- name: mentions
-- Materializations of a pipeline whose inputs may name an asset, given as JSON.
SELECT m.id FROM flowstone.materialization AS m WHERE m.pipeline = $1 AND strpos(m.inputs, $2) > 0;

-- name: inputs
SELECT id, inputs FROM flowstone.materialization WHERE id = ANY ($1::uuid[]);

-- name: rewrite_inputs
UPDATE flowstone.materialization AS m SET inputs = ($2::text[])[array_position($1::uuid[], m.id)]
WHERE m.id = ANY ($1::uuid[]);
