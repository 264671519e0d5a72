-- Values that the store keeps itself.

-- name: payload
SELECT payload FROM flowstone.materialization WHERE id = $1;

-- name: recorded
-- Those of some materializations that are on record.
SELECT m.id
FROM unnest($1::uuid[]) AS n (id)
CROSS JOIN LATERAL (SELECT m.id FROM flowstone.materialization AS m WHERE m.id = n.id OFFSET 0) AS m;

-- name: delete_payloads
UPDATE flowstone.materialization SET payload = NULL WHERE id = ANY ($1::uuid[]) AND payload IS NOT NULL;

-- name: delete_chunks
DELETE FROM flowstone.value_chunk WHERE materialization = ANY ($1::uuid[]);

-- name: delete_uploads
DELETE FROM flowstone.upload WHERE materialization = ANY ($1::uuid[]);

-- name: append_chunk
-- Keep one chunk; the first makes the stream known to `prune`, until its record has come. A stream may take days.
WITH upload AS (
    INSERT INTO flowstone.upload (materialization, at)
    SELECT $1::uuid, coalesce($4::timestamptz, statement_timestamp()) WHERE $2::integer = 0
    ON CONFLICT (materialization) DO UPDATE SET at = EXCLUDED.at
), going_on AS (
    UPDATE flowstone.upload SET at = coalesce($4::timestamptz, statement_timestamp())
    WHERE materialization = $1::uuid AND $2::integer > 0
        AND at < coalesce($4::timestamptz, statement_timestamp()) - interval '1 hour'
)
INSERT INTO flowstone.value_chunk (materialization, no, data) VALUES ($1, $2, $3)
ON CONFLICT (materialization, no) DO UPDATE SET data = EXCLUDED.data;

-- name: chunks
SELECT no, data FROM flowstone.value_chunk WHERE materialization = $1 AND no > $2 ORDER BY no LIMIT $3;

-- name: lock_tables
-- CREATE … IF NOT EXISTS fails when two do it at once.
SELECT pg_advisory_xact_lock(hashtextextended('flowstone.prepare_table', 0));

-- name: columns
-- A table's columns, with their types, and whether they are part of its primary key.
SELECT a.attname::text, format_type(a.atttypid, a.atttypmod),
    EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey))
FROM pg_attribute AS a
WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;

-- name: upsert
-- Rows of a table of the users' own, whose name stands in for `user_table`: those whose record is current by now.
INSERT INTO user_table AS t (pipeline, asset, partition, materialization, value, stored_at)
SELECT n.pipeline, n.asset, n.partition, n.id, n.value, $7::timestamptz
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::bytea[])
    AS n (pipeline, asset, partition, io, id, value)
CROSS JOIN LATERAL (
    SELECT FROM flowstone.asset_key AS k
    WHERE k.pipeline = n.pipeline AND k.asset = n.asset AND k.io = n.io AND k.partition = n.partition
        AND k.current = n.id
    OFFSET 0
) AS k
ORDER BY n.pipeline COLLATE "C", n.asset COLLATE "C", n.partition COLLATE "C"
ON CONFLICT (pipeline, asset, partition) DO UPDATE
SET materialization = EXCLUDED.materialization, value = EXCLUDED.value, stored_at = EXCLUDED.stored_at;
