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
