-- The server itself.

-- name: server
-- What has to be known before anything is kept on it.
SELECT current_setting('server_version_num')::integer, pg_is_in_recovery(),
    current_setting('default_transaction_read_only')::boolean;

-- name: notify
SELECT pg_notify('flowstone', payload) FROM unnest($1::text[]) AS payload;

-- name: ping
SELECT coalesce($1::timestamptz, statement_timestamp()), current_setting('server_version'),
    (SELECT max(number) FROM flowstone.migration);
