-- Asset keys and materializations. A row begins with a materialization's columns, then come the key's own.

-- name: states
-- What is known of keys. The lateral form looks each key up, whatever the planner believes of the tables' size.
SELECT m.*, k.pipeline, k.asset, k.partition, k.io, k.state, k.run_id, k.claim_run, k.claimed_at, k.started_at,
    k.completed_at, k.seconds, k.attempts, k.error, k.reason
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS n (pipeline, asset, partition, io)
CROSS JOIN LATERAL (
    SELECT * FROM flowstone.asset_key AS k
    WHERE k.pipeline = n.pipeline AND k.asset = n.asset AND k.io = n.io AND k.partition = n.partition
    OFFSET 0
) AS k
LEFT JOIN LATERAL (
    SELECT m.id, m.pipeline, m.asset, m.partition, m.io, m.run_id, m.fingerprint, m.version, m.code_hash, m.inputs,
        m.manager, m.location, m.size, m.checksum, m.started_at, m.committed_at, m.seconds, m.attempts, m.host,
        m.metadata
    FROM flowstone.materialization AS m
    WHERE m.id = k.current
    OFFSET 0
) AS m ON true;

-- name: materializations
-- The records of materializations, without their values.
SELECT m.*
FROM unnest($1::uuid[]) AS n (id)
CROSS JOIN LATERAL (
    SELECT m.id, m.pipeline, m.asset, m.partition, m.io, m.run_id, m.fingerprint, m.version, m.code_hash, m.inputs,
        m.manager, m.location, m.size, m.checksum, m.started_at, m.committed_at, m.seconds, m.attempts, m.host,
        m.metadata
    FROM flowstone.materialization AS m
    WHERE m.id = n.id
    OFFSET 0
) AS m;

-- name: keys
-- States of an asset's partitions in order, from $4 on, without $5.
SELECT m.*, k.pipeline, k.asset, k.partition, k.io, k.state, k.run_id, k.claim_run, k.claimed_at, k.started_at,
    k.completed_at, k.seconds, k.attempts, k.error, k.reason
FROM (
    SELECT * FROM flowstone.asset_key
    WHERE pipeline = $1 AND asset = $2 AND io = $3 AND partition >= $4 AND partition IS DISTINCT FROM $5
    ORDER BY partition
    LIMIT $6
) AS k
LEFT JOIN LATERAL (
    SELECT m.id, m.pipeline, m.asset, m.partition, m.io, m.run_id, m.fingerprint, m.version, m.code_hash, m.inputs,
        m.manager, m.location, m.size, m.checksum, m.started_at, m.committed_at, m.seconds, m.attempts, m.host,
        m.metadata
    FROM flowstone.materialization AS m
    WHERE m.id = k.current
    OFFSET 0
) AS m ON true
ORDER BY k.partition;

-- name: stored_assets
SELECT asset, count(current) FROM flowstone.asset_key WHERE pipeline = $1 GROUP BY asset;

-- name: durations
-- Medians of the last 20 computations.
SELECT n.asset, d.median
FROM unnest($2::text[]) AS n (asset)
CROSS JOIN LATERAL (
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY m.seconds) AS median
    FROM (
        SELECT m.seconds FROM flowstone.materialization AS m
        WHERE m.pipeline = $1 AND m.asset = n.asset
        ORDER BY m.seq DESC
        LIMIT 20
    ) AS m
) AS d
WHERE d.median IS NOT NULL;
