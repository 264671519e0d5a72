-- How the queue is, for people and probes: asked seldom, and by index however long the history.

-- name: queue
-- How many runs of the pipelines $1 are queued, since when the oldest of them waits, and how many are running.
SELECT count(*) FILTER (WHERE r.state = 'queued'), min(r.created_at) FILTER (WHERE r.state = 'queued'),
    count(*) FILTER (WHERE r.state = 'running')
FROM flowstone.run AS r
WHERE r.finished_at IS NULL AND r.pipeline = ANY ($1::text[]);

-- name: workers
-- Those that nobody has declared dead, with the seconds that their leases have left.
SELECT id, host, pid, pipelines, started_at, extract(epoch FROM lease_until - statement_timestamp())::float8 AS lease
FROM flowstone.worker
WHERE NOT dead
ORDER BY started_at, id;
