-- Tokens of the web side.

-- name: add_api_token
INSERT INTO flowstone.api_token (id, name, roles, digest, created_at, expires_at)
SELECT $1, $2, $3, $4, n.at, n.at + $5 * interval '1 second'
FROM (SELECT coalesce($6::timestamptz, statement_timestamp())) AS n (at)
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- name: api_token
SELECT t.id, t.name, t.roles, t.digest, t.created_at, t.expires_at, t.revoked_at, t.used_at
FROM flowstone.api_token AS t
WHERE t.id = $1;

-- name: use_api_token
-- The token with the hash $1, if it lets somebody in at this instant; that it did is noted once an hour.
WITH found AS MATERIALIZED (
    SELECT t.id, t.name, t.roles, t.digest, t.created_at, t.expires_at, t.revoked_at, t.used_at, n.at
    FROM flowstone.api_token AS t
    CROSS JOIN (SELECT coalesce($2::timestamptz, statement_timestamp())) AS n (at)
    WHERE t.digest = $1 AND t.revoked_at IS NULL AND (t.expires_at > n.at) IS NOT FALSE
),
noted AS (
    UPDATE flowstone.api_token AS t SET used_at = f.at
    FROM found AS f
    WHERE t.id = f.id AND (f.used_at > f.at - interval '1 hour') IS NOT TRUE
)
SELECT id, name, roles, digest, created_at, expires_at, revoked_at, used_at FROM found;

-- name: revoke_api_token
UPDATE flowstone.api_token AS t
SET revoked_at = coalesce($2::timestamptz, statement_timestamp())
WHERE t.id = $1 AND t.revoked_at IS NULL
RETURNING t.id;

-- name: api_tokens
-- The newest $2 behind the one with the id $1; with $3 those too that have ended.
SELECT t.id, t.name, t.roles, t.digest, t.created_at, t.expires_at, t.revoked_at, t.used_at
FROM flowstone.api_token AS t
WHERE (t.created_at, t.id) < (
        CASE WHEN $1::uuid IS NULL THEN 'infinity' ELSE (SELECT a.created_at FROM flowstone.api_token AS a WHERE a.id = $1) END,
        coalesce($1::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
    AND ($3::boolean OR (t.revoked_at IS NULL
        AND (t.expires_at > coalesce($4::timestamptz, statement_timestamp())) IS NOT FALSE))
ORDER BY t.created_at DESC, t.id DESC
LIMIT $2;
