-- The keys of dynamic partition sets.

-- name: partition_keys
SELECT key FROM flowstone.partition_key WHERE identity = $1 ORDER BY no;

-- name: add_partition_keys
-- Numbered as they were given, and sorted by key: two processes that add the same keys take their locks in one order.
WITH numbered AS MATERIALIZED (
    SELECT given.key, nextval('flowstone.partition_key_no') AS no
    FROM (SELECT key FROM unnest($2::text[]) WITH ORDINALITY AS each (key, place) ORDER BY place) AS given
)
INSERT INTO flowstone.partition_key (identity, key, no)
SELECT $1, numbered.key, numbered.no FROM numbered
ORDER BY numbered.key COLLATE "C"
ON CONFLICT DO NOTHING
RETURNING key;

-- name: remove_partition_keys
DELETE FROM flowstone.partition_key WHERE identity = $1 AND key = ANY ($2::text[]) RETURNING key;
