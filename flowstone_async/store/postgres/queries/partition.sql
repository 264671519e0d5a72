-- The partitions of events: those that are needed, and those that are over. See migrations/0003_event_partitions.sql.

-- name: missing_days
-- Days that should have a partition and have none: today, $2 more, and at most 10 whose events are in the default one.
WITH RECURSIVE strays (born) AS (
    (SELECT born FROM flowstone.event_default ORDER BY born LIMIT 1)
    UNION ALL
    SELECT (SELECT e.born FROM flowstone.event_default AS e WHERE e.born > s.born ORDER BY e.born LIMIT 1)
    FROM strays AS s
    WHERE s.born IS NOT NULL
)
SELECT d.day
FROM (
    SELECT (coalesce($1::timestamptz, statement_timestamp()) AT TIME ZONE 'UTC')::date + n AS day
    FROM generate_series(0, $2::integer) AS n
    UNION
    SELECT s.born FROM (SELECT born FROM strays LIMIT 10) AS s WHERE s.born IS NOT NULL
) AS d
WHERE NOT EXISTS (SELECT FROM flowstone.event_partition AS p WHERE p.first <= d.day AND d.day < p.until);

-- name: add_event_partition
SELECT flowstone.add_event_partition($1);

-- name: partitions_over
-- Partitions of days that were over $1 seconds ago, oldest first; and whether they were a day before that already.
SELECT p.name, p.first, p.until < c.day AS late
FROM flowstone.event_partition AS p
CROSS JOIN (
    SELECT ((coalesce($2::timestamptz, statement_timestamp()) - $1 * interval '1 second') AT TIME ZONE 'UTC')::date
) AS c (day)
WHERE p.until <= c.day
ORDER BY p.until;

-- name: drop_event_partition
-- Drop a partition if all of its runs ended more than $2 seconds ago.
SELECT flowstone.drop_event_partition($1, coalesce($3::timestamptz, statement_timestamp()) - $2 * interval '1 second');

-- name: analyze_events
SELECT flowstone.analyze_events();
