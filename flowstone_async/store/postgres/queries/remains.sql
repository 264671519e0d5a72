-- Some of what is left of deleted scatters; `remains.py` puts the statement together for a list, with the part `table` once for
-- each table. A list is read in the order of its scatters, and a table in the order of a key: each statement begins with the
-- last key that the one before has deleted, and not with all the dead rows before that. A key for each scatter's share is
-- looked up first, so that what may be left is told from rows that were there, whoever has deleted them meanwhile.

-- part: all
-- What is listed from the scatter :first on, and nobody else deletes now.
listed AS MATERIALIZED (
    SELECT r.*, {part} AS of
    FROM flowstone.{list} AS r
    WHERE r.scatter >= :first::uuid
    ORDER BY r.scatter
    LIMIT :most
    FOR UPDATE SKIP LOCKED
)

-- part: own
-- As `all`, of some scatters.
listed AS MATERIALIZED (
    SELECT r.*, {part} AS of
    FROM flowstone.{list} AS r
    WHERE r.scatter = ANY (:scatters::uuid[])
    LIMIT :most
    FOR UPDATE SKIP LOCKED
)

-- part: table
{table}_share AS MATERIALIZED (
    SELECT l.scatter{also}, n.first, (
        SELECT t.{key}
        FROM flowstone.{table} AS t
        WHERE t.scatter = l.scatter AND t.{key} >= n.first
        ORDER BY t.{key}
        OFFSET (SELECT greatest({rows}::bigint / count(*), 1) - 1 FROM listed AS l WHERE l.of = '{of}')
        LIMIT 1
    ) AS last
    FROM listed AS l
    CROSS JOIN LATERAL (SELECT coalesce((l.behind ->> '{table}')::{type}, {least}) AS first OFFSET 0) AS n
    WHERE l.of = '{of}'
),
{table}_deleted AS (
    DELETE FROM flowstone.{table} AS t
    USING {table}_share AS s
    WHERE t.scatter = s.scatter AND t.{key} >= s.first AND t.{key} <= coalesce(s.last, {greatest}){only}
)

-- part: of
SELECT scatter, '{of}' AS of, '{table}' AS name, last IS NOT NULL AS more, coalesce(last, {greatest})::text AS behind
    FROM {table}_share

-- part: answer
worked AS MATERIALIZED (
    SELECT scatter, of, bool_or(more) AS more, jsonb_object_agg(name, behind) AS behind
    FROM ({each}) AS t
    GROUP BY scatter, of
),
kept AS (
    UPDATE flowstone.{list} AS r
    SET behind = w.behind, at = coalesce(:now::timestamptz, statement_timestamp())
    FROM worked AS w
    WHERE r.scatter = w.scatter AND {part} = w.of AND w.more
),
ended AS (
    DELETE FROM flowstone.{list} AS r
    USING worked AS w
    WHERE r.scatter = w.scatter AND {part} = w.of AND NOT w.more
)
SELECT scatter, more FROM worked ORDER BY scatter
