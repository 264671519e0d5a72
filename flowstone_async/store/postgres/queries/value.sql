-- Values that the store keeps itself.

-- name: payload
SELECT payload FROM flowstone.materialization WHERE id = $1;

-- name: delete_payloads
UPDATE flowstone.materialization SET payload = NULL WHERE id = ANY ($1::uuid[]) AND payload IS NOT NULL;

-- name: delete_chunks
DELETE FROM flowstone.value_chunk WHERE materialization = ANY ($1::uuid[]);

-- name: delete_uploads
DELETE FROM flowstone.upload WHERE materialization = ANY ($1::uuid[]);

-- name: append_chunk
-- Keep one chunk; the first makes the stream known to `prune`, until its record has come.
WITH upload AS (
    INSERT INTO flowstone.upload (materialization, at)
    SELECT $1::uuid, coalesce($4::timestamptz, statement_timestamp()) WHERE $2::integer = 0
    ON CONFLICT (materialization) DO UPDATE SET at = EXCLUDED.at
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
