-- The keys of dynamic partition sets.

-- name: partition_keys
SELECT key FROM flowstone.partition_key WHERE identity = $1 ORDER BY no;

-- name: add_partition_keys
-- Sorted by key: two processes that add the same keys take their locks in one order.
INSERT INTO flowstone.partition_key (identity, key, no)
SELECT $1, added.key, nextval('flowstone.partition_key_no')
FROM (SELECT unnest($2::text[]) COLLATE "C" AS key ORDER BY 1) AS added
ON CONFLICT DO NOTHING
RETURNING key;

-- name: remove_partition_keys
DELETE FROM flowstone.partition_key WHERE identity = $1 AND key = ANY ($2::text[]) RETURNING key;
