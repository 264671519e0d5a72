-- The server itself.

-- name: server
-- What has to be known before anything is kept on it.
SELECT current_setting('server_version_num')::integer, pg_is_in_recovery(),
    current_setting('default_transaction_read_only')::boolean;

-- name: sizes
-- Pages of the largest table that the hot statements look rows up in.
SELECT greatest(pg_relation_size('flowstone.run'), pg_relation_size('flowstone.asset_key'),
    pg_relation_size('flowstone.materialization')) / 8192;

-- name: notify
SELECT pg_notify('flowstone', payload) FROM unnest($1::text[]) AS payload;

-- name: ping
SELECT coalesce($1::timestamptz, statement_timestamp()), current_setting('server_version'),
    (SELECT max(number) FROM flowstone.migration);
