-- Limits. The functions are in migrations/0006_limits.sql.

-- name: take_permits
SELECT place, granted, granted_at, rate_n, rate_per, rate_burst, blocked, first_at, last_at, amounts
FROM flowstone.take_permits($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: give_back_permits
SELECT flowstone.give_back_permits($1, $2, $3);

-- name: change_slots
SELECT place, held, since, slots_n, rate_per, rate_burst, blocked, told
FROM flowstone.change_slots($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: leave_slots
-- Free all slots of a worker; returns the keys.
DELETE FROM flowstone.limit_holder WHERE worker = $1 RETURNING key;

-- name: leave_lines
-- Nobody waits any more at the keys $2, or (NULL) at any, in the process of a worker.
-- Whoever has a row locked is about to say how it stands.
DELETE FROM flowstone.limit_waiting AS w
WHERE w.ctid = ANY (ARRAY (
    SELECT n.ctid FROM flowstone.limit_waiting AS n
    WHERE n.worker = $1 AND ($2::text[] IS NULL OR n.key = ANY ($2::text[]))
    FOR UPDATE SKIP LOCKED));

-- name: set_limit
INSERT INTO flowstone.limit_key AS k (key, set_n, set_per, set_burst) VALUES ($1, $2, $3, $4)
ON CONFLICT (key) DO UPDATE SET set_n = excluded.set_n, set_per = excluded.set_per, set_burst = excluded.set_burst;

-- name: reset_limit
-- The key's row first, as everywhere.
WITH emptied AS MATERIALIZED (
    UPDATE flowstone.limit_key SET firsts = '{}', lasts = '{}', counts = '{}', horizon = 0, blocked_until = NULL
    WHERE key = $1
    RETURNING key
)
DELETE FROM flowstone.limit_holder AS h WHERE h.key = ANY (ARRAY (SELECT key FROM emptied));

-- name: back_off_limit
INSERT INTO flowstone.limit_key AS k (key, blocked_until)
VALUES ($1, coalesce($3::timestamptz, statement_timestamp()) + $2 * interval '1 second')
ON CONFLICT (key) DO UPDATE SET blocked_until = greatest(k.blocked_until, excluded.blocked_until);

-- name: limit_page
SELECT key FROM flowstone.limit_key WHERE key > $1 ORDER BY key LIMIT $2;

-- name: limit_states
-- The keys $1 as they are now; those who wait in other processes than $3's.
SELECT k.key, k.set_n, k.set_per, k.set_burst, k.n, k.per, k.burst, k.slots, k.firsts, k.lasts, k.counts,
    coalesce($2::timestamptz, clock_timestamp()) AS at,
    greatest(0, coalesce(date_part('epoch', k.blocked_until - coalesce($2::timestamptz, clock_timestamp())), 0))
        AS blocked,
    ARRAY (SELECT json_build_array(h.run_id, h.asset, h.since)::text
        FROM flowstone.limit_holder AS h
        WHERE h.key = k.key AND EXISTS (
            SELECT FROM flowstone.worker AS w WHERE w.id = h.worker AND NOT w.dead AND w.lease_until > clock_timestamp())
        ORDER BY h.since, h.holder) AS holders,
    ARRAY (SELECT w.shown FROM flowstone.limit_waiting AS w
        WHERE w.key = k.key AND w.worker <> $3 AND w.asked_at > clock_timestamp() - interval '10 seconds') AS shown,
    (SELECT coalesce(sum(w.waiting), 0) FROM flowstone.limit_waiting AS w
        WHERE w.key = k.key AND w.worker <> $3 AND w.asked_at > clock_timestamp() - interval '10 seconds')::bigint
        AS waiting
FROM unnest($1::text[]) WITH ORDINALITY AS n (key, no)
CROSS JOIN LATERAL (SELECT k.* FROM flowstone.limit_key AS k WHERE k.key = n.key OFFSET 0) AS k
ORDER BY n.no;

-- name: idle_limits
-- Of the next $2 keys behind $1: the last of them, and those of which nothing matters any more.
WITH page AS MATERIALIZED (
    SELECT k.key FROM flowstone.limit_key AS k WHERE k.key > $1 ORDER BY k.key LIMIT $2
)
SELECT (SELECT max(key) FROM page),
    ARRAY (SELECT k.key
        FROM flowstone.limit_key AS k
        WHERE k.key = ANY (ARRAY (SELECT key FROM page)) AND k.set_n IS NULL
            AND coalesce(k.blocked_until <= coalesce($3::timestamptz, statement_timestamp()), true)
            AND NOT EXISTS (
                SELECT FROM unnest(k.lasts) AS l
                WHERE l > coalesce($3::timestamptz, statement_timestamp()) - k.horizon * interval '1 second')
            AND NOT EXISTS (SELECT FROM flowstone.limit_holder AS h WHERE h.key = k.key)
        ORDER BY k.key
        FOR UPDATE SKIP LOCKED);

-- name: forget_limits
DELETE FROM flowstone.limit_key WHERE key = ANY ($1::text[]);

-- name: forget_holders
-- Slots of workers that are gone, and lines that nobody stands in any more; never waits, so that it is in nobody's way.
WITH gone AS (
    DELETE FROM flowstone.limit_waiting AS w
    WHERE w.ctid = ANY (ARRAY (
        SELECT n.ctid FROM flowstone.limit_waiting AS n
        WHERE n.asked_at < clock_timestamp() - interval '1 minute'
        FOR UPDATE SKIP LOCKED))
)
DELETE FROM flowstone.limit_holder AS h
WHERE h.ctid = ANY (ARRAY (
    SELECT n.ctid FROM flowstone.limit_holder AS n
    WHERE NOT EXISTS (
        SELECT FROM flowstone.worker AS w WHERE w.id = n.worker AND NOT w.dead AND w.lease_until > clock_timestamp())
    FOR UPDATE OF n SKIP LOCKED));
