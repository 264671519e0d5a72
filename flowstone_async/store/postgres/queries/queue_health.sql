-- How the queue is, for people and probes: asked seldom, and by index however long the history.

-- name: queue
-- Of the pipelines $1, at the instant $2: how many runs are queued and due, how many wait for a later instant, since when
-- the oldest that is due may start, how many are running, and how many are suspended.
SELECT count(*) FILTER (WHERE q.state = 'queued' AND q.is_due), count(*) FILTER (WHERE q.state = 'queued' AND NOT q.is_due),
    min(q.due_at) FILTER (WHERE q.state = 'queued' AND q.is_due), count(*) FILTER (WHERE q.state = 'running'),
    count(*) FILTER (WHERE q.state = 'waiting')
FROM (
    SELECT r.state, r.due_at, r.due_at <= coalesce($2::timestamptz, statement_timestamp()) AS is_due
    FROM flowstone.run AS r
    WHERE r.finished_at IS NULL AND r.pipeline = ANY ($1::text[])
) AS q;

-- name: workers
-- Those that nobody has declared dead, with the seconds that their leases have left.
SELECT id, host, pid, pipelines, started_at, extract(epoch FROM lease_until - statement_timestamp())::float8 AS lease
FROM flowstone.worker
WHERE NOT dead
ORDER BY started_at, id;

-- name: figures_of_gates
-- Of the pipelines $1, at the instant $2: how many gates of each kind are open and not due.
SELECT n.kind, g.number
FROM unnest(ARRAY['signal', 'approval', 'sleep']) AS n (kind)
CROSS JOIN LATERAL (
    SELECT count(*) AS number
    FROM flowstone.gate AS g
    WHERE g.open AND g.kind = n.kind AND g.pipeline = ANY ($1::text[])
        AND (g.due IS NULL OR g.due > coalesce($2::timestamptz, statement_timestamp()))
) AS g
WHERE g.number > 0;

-- name: figures_of_items
-- Of running runs of the pipelines $1: items of scatters that are under way, those that wait on their own, those that have
-- succeeded and failed.
SELECT coalesce(sum(s.total - c.rejoined), 0)::bigint AS total, coalesce(sum(c.waiting), 0)::bigint AS waiting,
    coalesce(sum(c.succeeded), 0)::bigint AS succeeded, coalesce(sum(c.failed), 0)::bigint AS failed
FROM flowstone.run AS r
JOIN LATERAL (
    SELECT s.id, s.total FROM flowstone.scatter AS s WHERE s.run_id = r.id AND s.state = 'running' OFFSET 0
) AS s ON true
CROSS JOIN LATERAL (
    SELECT coalesce(sum(c.succeeded), 0) AS succeeded, coalesce(sum(c.failed), 0) AS failed,
        count(*) FILTER (WHERE c.first >= 1::bigint << 62 AND c.state = 'done' AND c.succeeded + c.failed = 0) AS rejoined,
        count(*) FILTER (WHERE c.alone AND c.state = 'ready') AS waiting
    FROM flowstone.scatter_chunk AS c
    WHERE c.scatter = s.id
) AS c
WHERE r.finished_at IS NULL AND r.pipeline = ANY ($1::text[]) AND r.state = 'running';
