-- Events in partitions, by the day (UTC) on which their run was created: a day that is over is dropped as a whole.
-- docs/store.md says who adds and drops partitions, and when.

ALTER TABLE flowstone.event RENAME TO event_whole;
ALTER INDEX IF EXISTS flowstone.event_pkey RENAME TO event_whole_pkey;
ALTER INDEX IF EXISTS flowstone.event_cursor RENAME TO event_whole_cursor;

-- One row for each step of a run: its events from `first_no` on, packed. A step without events has a negative number
-- and a count of 0. `cursor` orders events across runs: the transaction's number times 2^20, plus the place in it.
CREATE TABLE flowstone.event (
    run_id uuid NOT NULL,
    first_no bigint NOT NULL,
    cursor bigint NOT NULL,
    at timestamptz NOT NULL,
    count integer NOT NULL,
    born date NOT NULL,
    pipeline text COLLATE "C" NOT NULL,
    body text NOT NULL,
    claims text,
    PRIMARY KEY (born, run_id, first_no)
) PARTITION BY RANGE (born);

ALTER TABLE flowstone.event ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX event_cursor ON flowstone.event (pipeline, cursor);

COMMENT ON COLUMN flowstone.event.born IS 'the day on which the run was created: the same for all events of a run';
COMMENT ON COLUMN flowstone.event.claims IS 'keys that the step asked for, as JSON: finds the claims of a run again';

-- No step ever fails because a day has no partition: its events are here until it has one.
CREATE TABLE flowstone.event_default PARTITION OF flowstone.event DEFAULT;

-- The days that a partition holds are in its name: those before a day, or one day.
CREATE VIEW flowstone.event_partition AS
SELECT c.oid AS id, c.relname::text AS name,
    CASE WHEN c.relname LIKE 'event\_before\_%' THEN '-infinity'::date ELSE to_date(right(c.relname, 8), 'YYYYMMDD') END
        AS first,
    to_date(right(c.relname, 8), 'YYYYMMDD') + CASE WHEN c.relname LIKE 'event\_before\_%' THEN 0 ELSE 1 END AS until
FROM pg_catalog.pg_inherits AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'flowstone.event'::regclass AND c.relname ~ '^event_(before_)?[0-9]{8}$';

-- The functions belong to the owner of the tables and act as such, so that an engine need be nothing more than somebody
-- who may write. None of them waits longer for a lock than steps may be kept waiting: 'busy' means: try again later.

-- Add a partition and move into it what is in the default one already. Nobody writes meanwhile: a step that had chosen
-- the default partition for its rows would fail. Answers added, there, busy, or crowded: too many rows to be moved while
-- others wait, so that they stay where they are until they are pruned.
CREATE FUNCTION flowstone.add_event_partition(day date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
DECLARE
    named CONSTANT text := 'event_' || to_char(day, 'YYYYMMDD');
    most CONSTANT integer := 10000;
BEGIN
    IF to_regclass('flowstone.' || named) IS NOT NULL THEN
        RETURN 'there';
    END IF;
    LOCK TABLE ONLY flowstone.event IN SHARE ROW EXCLUSIVE MODE;
    IF to_regclass('flowstone.' || named) IS NOT NULL THEN
        RETURN 'there';
    END IF;
    PERFORM FROM flowstone.event_default WHERE born = day OFFSET most LIMIT 1;
    IF FOUND THEN
        RETURN 'crowded';
    END IF;
    -- Rows are never changed: what a vacuum sees it freezes at once, and looks at it no more.
    EXECUTE format('CREATE TABLE flowstone.%I (LIKE flowstone.event INCLUDING ALL) WITH ('
        'autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000, '
        'autovacuum_freeze_min_age = 0)', named);
    EXECUTE format('WITH moved AS (DELETE FROM flowstone.event_default WHERE born = %L RETURNING *) '
        'INSERT INTO flowstone.%I SELECT * FROM moved', day, named);
    EXECUTE format('ALTER TABLE flowstone.event ATTACH PARTITION flowstone.%I FOR VALUES FROM (%L) TO (%L)', named, day,
        day + 1);
    RETURN 'added';
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        RETURN 'busy';
END
$$;

-- Drop a partition of runs that all ended before an instant. Answers dropped, gone, kept (a run of it is active, or ended
-- later) or busy. A run that has ended never goes on, and none begins in the past but by hand: under the lock only those
-- are looked for.
CREATE FUNCTION flowstone.drop_event_partition(dropped text, ended_before timestamptz) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
DECLARE
    since timestamptz;
    before timestamptz;
BEGIN
    SELECT p.first::timestamp AT TIME ZONE 'UTC', p.until::timestamp AT TIME ZONE 'UTC' INTO since, before
    FROM flowstone.event_partition AS p
    WHERE p.name = dropped;
    IF NOT FOUND THEN
        RETURN 'gone';
    END IF;
    IF flowstone.has_run(since, before, 'infinity') OR flowstone.has_run(since, before, ended_before) THEN
        RETURN 'kept';
    END IF;
    LOCK TABLE ONLY flowstone.event IN ACCESS EXCLUSIVE MODE;
    IF to_regclass('flowstone.' || dropped) IS NULL THEN
        RETURN 'gone';
    END IF;
    IF flowstone.has_run(since, before, 'infinity') THEN
        RETURN 'kept';
    END IF;
    EXECUTE format('DROP TABLE flowstone.%I', dropped);
    RETURN 'dropped';
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        RETURN 'busy';
END
$$;

-- Whether a run that was created in a span of time has not ended before an instant; `infinity` asks for those that have
-- not ended at all. By the index on each pipeline's runs, or on what is active.
CREATE FUNCTION flowstone.has_run(since timestamptz, before timestamptz, ended_before timestamptz) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    named text;
BEGIN
    IF ended_before = 'infinity' THEN
        RETURN EXISTS (
            SELECT FROM flowstone.run AS r
            WHERE r.finished_at IS NULL AND r.created_at >= since AND r.created_at < before);
    END IF;
    SELECT r.pipeline INTO named FROM flowstone.run AS r ORDER BY r.pipeline LIMIT 1;
    WHILE named IS NOT NULL LOOP
        IF EXISTS (
            SELECT FROM flowstone.run AS r
            WHERE r.pipeline = named AND r.created_at >= since AND r.created_at < before
                AND r.finished_at >= ended_before)
        THEN
            RETURN true;
        END IF;
        SELECT r.pipeline INTO named FROM flowstone.run AS r WHERE r.pipeline > named ORDER BY r.pipeline LIMIT 1;
    END LOOP;
    RETURN false;
END
$$;

-- Nothing else analyses a partitioned table. A small sample will do: the store's own plans do not depend on it.
CREATE FUNCTION flowstone.analyze_events() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
SET default_statistics_target = 10
AS $$
BEGIN
    PERFORM FROM pg_stat_user_tables
    WHERE relid = 'flowstone.event'::regclass AND last_analyze > statement_timestamp() - interval '20 hours';
    IF FOUND THEN
        RETURN false;
    END IF;
    ANALYZE flowstone.event;
    RETURN true;
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        RETURN false;
END
$$;

-- A day each for the last month and the next days, and one partition for whatever is older.
DO $$
DECLARE
    today CONSTANT date := (statement_timestamp() AT TIME ZONE 'UTC')::date;
    oldest CONSTANT date := (
        SELECT (min(coalesce(r.created_at, e.at)) AT TIME ZONE 'UTC')::date
        FROM flowstone.event_whole AS e
        LEFT JOIN flowstone.run AS r ON r.id = e.run_id);
    month CONSTANT integer := 31;
BEGIN
    IF oldest < today - month THEN
        EXECUTE format('CREATE TABLE flowstone.event_before_%s PARTITION OF flowstone.event '
            'FOR VALUES FROM (MINVALUE) TO (%L)', to_char(today - month, 'YYYYMMDD'), today - month);
    END IF;
    FOR ahead IN greatest(coalesce(oldest, today), today - month) - today .. 3 LOOP
        PERFORM flowstone.add_event_partition(today + ahead);
    END LOOP;
END
$$;

INSERT INTO flowstone.event (run_id, first_no, cursor, at, count, born, pipeline, body, claims)
SELECT e.run_id, e.first_no, e.cursor, e.at, e.count, (coalesce(r.created_at, e.at) AT TIME ZONE 'UTC')::date, e.pipeline,
    e.body, e.claims
FROM flowstone.event_whole AS e
LEFT JOIN flowstone.run AS r ON r.id = e.run_id;

DROP TABLE flowstone.event_whole;
ANALYZE flowstone.event;

-- Small, and written all the time: vacuumed before they grow.
ALTER TABLE flowstone.run SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1);
ALTER TABLE flowstone.asset_key SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1);
ALTER TABLE flowstone.superseded SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE flowstone.upload SET (autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE flowstone.audit SET (autovacuum_freeze_min_age = 0);
