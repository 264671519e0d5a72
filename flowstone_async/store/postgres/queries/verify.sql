-- What must always hold; verify.py has the words. Runs and recorded inputs are read in pages, the rest is compared as a
-- whole, each table once. Every statement runs in one snapshot that writes nothing.

-- name: verify_runs
-- A page of runs behind $1, at most $2.
SELECT id, state, finished_at IS NOT NULL AS finished, worker, fence, lost,
    NOT submitted OR (due_at IS NOT NULL AND no IS NOT NULL) AS placed
FROM flowstone.run
WHERE id > $1
ORDER BY id
LIMIT $2;

-- name: verify_numbers
-- The first event of each run that has not the number which follows the events before it.
SELECT DISTINCT ON (e.run_id) e.run_id, e.first_no, e.due
FROM (
    SELECT run_id, first_no, 1 + coalesce(sum(count) OVER (
        PARTITION BY run_id ORDER BY first_no ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS due
    FROM flowstone.event
    WHERE run_id = ANY ($1::uuid[]) AND count > 0
) AS e
WHERE e.first_no <> e.due
ORDER BY e.run_id, e.first_no;

-- name: verify_ends
-- The last number of each run's events, and the events that may tell of an end.
SELECT run_id, max(first_no + count - 1) AS last,
    array_agg(body) FILTER (WHERE strpos(body, '"run.finished"') > 0 OR strpos(body, '"run.succeeded"') > 0
        OR strpos(body, '"run.failed"') > 0 OR strpos(body, '"run.cancelled"') > 0) AS told
FROM flowstone.event
WHERE run_id = ANY ($1::uuid[]) AND count > 0
GROUP BY run_id;

-- name: verify_run_keys
-- Keys of submissions whose run is not there.
SELECT k.pipeline, k.key, k.run_id
FROM flowstone.run_key AS k
LEFT JOIN flowstone.run AS r ON r.id = k.run_id
WHERE r.id IS NULL
LIMIT $1;

-- name: verify_kept
-- Those of some runs that are not being forgotten: a run that has ended goes after its events, and those may go before it,
-- with their day.
SELECT r.id
FROM flowstone.run AS r
CROSS JOIN LATERAL (SELECT (r.created_at AT TIME ZONE 'UTC')::date AS day) AS born
WHERE r.id = ANY ($1::uuid[])
    AND (r.finished_at IS NULL
        OR EXISTS (SELECT FROM flowstone.event_partition AS p WHERE p.first <= born.day AND born.day < p.until)
        OR EXISTS (SELECT FROM flowstone.event AS e WHERE e.born = born.day AND e.run_id = r.id));

-- name: verify_steps
-- Runs that are not there and have steps on record.
SELECT s.run_id, count(*) AS steps
FROM flowstone.step AS s
LEFT JOIN flowstone.run AS r ON r.id = s.run_id
WHERE r.id IS NULL
GROUP BY s.run_id
LIMIT $1;

-- name: verify_gates
-- Gates without a run, and those that are open with an outcome or ended without one, or with another run's.
SELECT g.id, g.run_id, g.open, o.how, o.run_id AS told, r.id IS NOT NULL AS found
FROM flowstone.gate AS g
LEFT JOIN flowstone.gate_outcome AS o ON o.gate = g.id
LEFT JOIN flowstone.run AS r ON r.id = g.run_id
WHERE r.id IS NULL OR g.open = (o.gate IS NOT NULL) OR o.run_id <> g.run_id
LIMIT $1;

-- name: verify_outcomes
-- Outcomes, and tokens that the other side chose, without their gate.
SELECT n.gate, n.what
FROM (
    SELECT o.gate, 'an outcome' AS what FROM flowstone.gate_outcome AS o
    UNION ALL
    SELECT t.gate, 'a token' FROM flowstone.gate_token AS t
) AS n
LEFT JOIN flowstone.gate AS g ON g.id = n.gate
WHERE g.id IS NULL
LIMIT $1;

-- name: verify_waiting
-- Suspended runs that nothing will wake: no gate of theirs is open, and no outcome has yet to wake them.
SELECT r.id
FROM flowstone.run AS r
WHERE r.state = 'waiting'
    AND NOT EXISTS (SELECT FROM flowstone.gate AS g WHERE g.run_id = r.id AND g.open)
    AND NOT EXISTS (SELECT FROM flowstone.gate_outcome AS o WHERE o.run_id = r.id AND NOT o.woken)
LIMIT $1;

-- name: verify_claims
-- Keys that a run holds which is not active, or which there is not.
SELECT k.pipeline, k.asset, k.partition, k.io, k.claim_run, r.state
FROM flowstone.asset_key AS k
LEFT JOIN flowstone.run AS r ON r.id = k.claim_run
WHERE k.claim_run IS NOT NULL AND coalesce(r.state, '') <> 'running'
LIMIT $1;

-- name: verify_current
-- Keys whose current value is not there, or is another key's.
SELECT k.pipeline, k.asset, k.partition, k.io, k.current, m.id IS NOT NULL AS found
FROM flowstone.asset_key AS k
LEFT JOIN flowstone.materialization AS m ON m.id = k.current
WHERE k.current IS NOT NULL
    AND (m.pipeline, m.asset, m.io, m.partition) IS DISTINCT FROM (k.pipeline, k.asset, k.io, k.partition)
LIMIT $1;

-- name: verify_values
-- Keys whose current value was stored with its record, and is gone.
SELECT k.pipeline, k.asset, k.partition, k.io, k.current
FROM flowstone.asset_key AS k
JOIN flowstone.materialization AS m ON m.id = k.current
WHERE m.payload IS NULL AND m.size > 0 AND m.location LIKE 'payload %'
    AND NOT EXISTS (SELECT FROM flowstone.value_chunk AS c WHERE c.materialization = m.id)
LIMIT $1;

-- name: verify_counts
-- Keys with counts that cannot be.
SELECT pipeline, asset, partition, io, lost, attempts
FROM flowstone.asset_key
WHERE lost < 0 OR attempts < 0
LIMIT $1;

-- name: verify_newest
-- Keys with a value that was committed after the current one.
SELECT k.pipeline, k.asset, k.partition, k.io, k.current, m.id
FROM flowstone.materialization AS m
JOIN flowstone.asset_key AS k
    ON (k.pipeline, k.asset, k.io, k.partition) = (m.pipeline, m.asset, m.io, m.partition) AND k.current <> m.id
JOIN flowstone.materialization AS c ON c.id = k.current
WHERE m.seq > c.seq
LIMIT $1;

-- name: verify_superseded
-- Values that are neither current nor superseded, both, or superseded more than once.
SELECT m.id, m.pipeline, m.asset, m.partition, m.io, k.current IS NOT NULL AS current, coalesce(s.times, 0) AS times
FROM flowstone.materialization AS m
LEFT JOIN flowstone.asset_key AS k
    ON (k.pipeline, k.asset, k.io, k.partition) = (m.pipeline, m.asset, m.io, m.partition) AND k.current = m.id
LEFT JOIN (SELECT materialization, count(*) AS times FROM flowstone.superseded GROUP BY materialization) AS s
    ON s.materialization = m.id
WHERE coalesce(s.times, 0) <> CASE WHEN k.current IS NULL THEN 1 ELSE 0 END
LIMIT $1;

-- name: verify_forgotten
-- Superseded values that are not there.
SELECT s.materialization
FROM flowstone.superseded AS s
LEFT JOIN flowstone.materialization AS m ON m.id = s.materialization
WHERE m.id IS NULL
LIMIT $1;

-- name: verify_inputs
-- A page of materializations behind $1, at most $2, with what they were computed from.
SELECT id, pipeline, asset, partition, io, inputs FROM flowstone.materialization WHERE id > $1 ORDER BY id LIMIT $2;

-- name: verify_untraced
-- Those of some recorded inputs that no edge leads to.
SELECT n.made, n.upstream
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::uuid[])
    AS n (pipeline, asset, partition, io, made, upstream)
WHERE NOT EXISTS (
    SELECT FROM flowstone.lineage AS l
    WHERE l.pipeline = n.pipeline AND l.asset = n.asset AND l.io = n.io AND l.partition = n.partition
        AND l.materialization = n.made AND l.upstream = n.upstream);

-- name: verify_edges
-- Edges that no materialization records.
SELECT l.materialization, l.upstream, m.id IS NOT NULL AS found
FROM flowstone.lineage AS l
LEFT JOIN flowstone.materialization AS m ON m.id = l.materialization
WHERE m.id IS NULL OR strpos(m.inputs, l.upstream::text) = 0
LIMIT $1;

-- name: verify_scatters
-- Scatters that have ended, or are closed, with items that do not add up: what chunks count, and what is there.
SELECT s.id, s.state, s.total - coalesce(c.rejoined, 0) AS total, coalesce(c.open, 0) AS open, coalesce(c.succeeded, 0) AS succeeded,
    coalesce(c.failed, 0) AS failed, coalesce(b.results, 0) + coalesce(r.results, 0) AS results,
    coalesce(f.failures, 0) AS failures
FROM flowstone.scatter AS s
LEFT JOIN (
    SELECT scatter, sum(succeeded) AS succeeded, sum(failed) AS failed,
        count(*) FILTER (WHERE state IN ('ready', 'running')) AS open,
        count(*) FILTER (WHERE first >= 1::bigint << 62 AND state = 'done' AND succeeded + failed = 0) AS rejoined
    FROM flowstone.scatter_chunk
    GROUP BY scatter
) AS c ON c.scatter = s.id
LEFT JOIN (
    SELECT p.id, sum(b.results) AS results
    FROM (SELECT s.id, unnest(s.kept || s.id) AS part FROM flowstone.scatter AS s) AS p
    JOIN (
        SELECT scatter, sum(length(places)) / 4 AS results FROM flowstone.scatter_block GROUP BY scatter
    ) AS b ON b.scatter = p.part
    GROUP BY p.id
) AS b ON b.id = s.id
LEFT JOIN (
    SELECT p.id, sum(r.results) AS results
    FROM (SELECT s.id, unnest(s.kept || s.id) AS part FROM flowstone.scatter AS s) AS p
    JOIN (SELECT scatter, count(*) AS results FROM flowstone.scatter_result GROUP BY scatter) AS r ON r.scatter = p.part
    GROUP BY p.id
) AS r ON r.id = s.id
LEFT JOIN (SELECT scatter, count(*) AS failures FROM flowstone.scatter_failure GROUP BY scatter) AS f ON f.scatter = s.id
WHERE coalesce(c.succeeded, 0) <> coalesce(b.results, 0) + coalesce(r.results, 0)
    OR coalesce(c.failed, 0) <> coalesce(f.failures, 0)
    OR (s.state <> 'running' AND coalesce(c.open, 0) > 0)
    OR (s.state = 'closed' AND coalesce(c.succeeded, 0) + coalesce(c.failed, 0) <> s.total - coalesce(c.rejoined, 0))
LIMIT $1;

-- name: verify_parked
-- Items that wait at gates and that nothing makes due: there is no such gate, or it has ended and its run was told.
SELECT c.scatter, c.first
FROM flowstone.scatter_chunk AS c
LEFT JOIN flowstone.scatter_wait AS w ON w.scatter = c.scatter AND w.first = c.first
LEFT JOIN flowstone.gate AS g ON g.id = w.gate
LEFT JOIN flowstone.gate_outcome AS o ON o.gate = w.gate
WHERE c.state = 'ready' AND c.due_at = 'infinity'
GROUP BY c.scatter, c.first
HAVING count(g.id) = 0 OR bool_or(coalesce(o.woken, false))
LIMIT $1;

-- name: verify_scattered
-- Keys whose current value is that of a scatter that is not there, or did not close.
SELECT k.pipeline, k.asset, k.partition, k.io, k.current, s.state
FROM flowstone.asset_key AS k
JOIN flowstone.materialization AS m ON m.id = k.current
LEFT JOIN flowstone.scatter AS s ON s.id::text = m.location
WHERE m.manager = 'scatter' AND s.state IS DISTINCT FROM 'closed'
LIMIT $1;

-- name: verify_left
-- What is there of scatters that are not, and is not listed either, so that nobody deletes it; and what is listed to be deleted
-- and is still a scatter's: `run`, `results` and `read` as on the list.
WITH used AS MATERIALIZED (
    SELECT 'run' AS part, id AS scatter FROM flowstone.scatter
    UNION
    SELECT 'results', unnest(kept || id) FROM flowstone.scatter
    UNION
    SELECT 'read', coalesce(root, id) FROM flowstone.scatter
),
there AS (
    SELECT 'run' AS part, scatter FROM flowstone.scatter_chunk
    UNION
    SELECT 'run', scatter FROM flowstone.scatter_failure
    UNION
    SELECT 'run', scatter FROM flowstone.scatter_wait
    UNION
    SELECT 'results', scatter FROM flowstone.scatter_block
    UNION
    SELECT 'results', scatter FROM flowstone.scatter_result
    UNION
    SELECT 'results', scatter FROM flowstone.scatter_note
    UNION
    SELECT 'read', scatter FROM flowstone.scatter_page
    UNION
    SELECT 'read', scatter FROM flowstone.scatter_key
)
SELECT part, scatter, false AS listed
FROM (
    SELECT part, scatter FROM there
    EXCEPT SELECT part, scatter FROM used
    EXCEPT SELECT part, scatter FROM flowstone.scatter_remains
) AS n
UNION ALL
SELECT part, scatter, true
FROM (SELECT part, scatter FROM flowstone.scatter_remains INTERSECT SELECT part, scatter FROM used) AS n
LIMIT $1;

-- name: verify_limits
-- Limits whose memory of grants cannot be.
SELECT key
FROM flowstone.limit_key
WHERE cardinality(firsts) <> cardinality(lasts) OR cardinality(lasts) <> cardinality(counts)
    OR EXISTS (SELECT FROM unnest(firsts, lasts, counts) AS e (f, l, c) WHERE (f <= l AND c >= 0) IS NOT TRUE)
LIMIT $1;
