-- What the durable calls of a body have returned: docs/adr/0010-waiting.md. In partitions as events are, by the day (UTC) on
-- which the run was created, so that they leave with them: each partition of events has one of steps beside it.

CREATE TABLE flowstone.step (
    run_id uuid NOT NULL,
    body uuid NOT NULL,
    id uuid NOT NULL,
    at timestamptz NOT NULL,
    born date NOT NULL,
    place integer NOT NULL,
    seen integer NOT NULL,
    attempt integer NOT NULL,
    kind text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    function text COLLATE "C" NOT NULL,
    arguments text COLLATE "C" NOT NULL,
    value bytea,
    error text,
    PRIMARY KEY (born, run_id, body, id)
) PARTITION BY RANGE (born);

ALTER TABLE flowstone.step ALTER COLUMN value SET STORAGE EXTERNAL;

COMMENT ON COLUMN flowstone.step.id IS 'a hash of the key, which may be of any length';
COMMENT ON COLUMN flowstone.step.born IS 'the day on which the run was created: the same for all steps of a run';
COMMENT ON COLUMN flowstone.step.at IS 'when it was put on record';
COMMENT ON COLUMN flowstone.step.seen IS 'in which order the body observed results';
COMMENT ON COLUMN flowstone.step.error IS 'why it failed in this attempt, as JSON; the next attempt replaces it';

-- No step ever fails because a day has no partition: its rows are here until it has one.
CREATE TABLE flowstone.step_default PARTITION OF flowstone.step DEFAULT;

-- As before, and with the partition of steps: both, or none.
CREATE OR REPLACE FUNCTION flowstone.add_event_partition(day date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
DECLARE
    suffix CONSTANT text := to_char(day, 'YYYYMMDD');
    most CONSTANT integer := 10000;
    largest CONSTANT bigint := 64 << 20;
    parent text;
BEGIN
    IF to_regclass('flowstone.event_' || suffix) IS NOT NULL THEN
        RETURN 'there';
    END IF;
    LOCK TABLE ONLY flowstone.event IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE ONLY flowstone.step IN SHARE ROW EXCLUSIVE MODE;
    IF to_regclass('flowstone.event_' || suffix) IS NOT NULL THEN
        RETURN 'there';
    END IF;
    PERFORM FROM flowstone.event_default WHERE born = day OFFSET most LIMIT 1;
    IF FOUND THEN
        RETURN 'crowded';
    END IF;
    PERFORM FROM (
        SELECT count(*) AS rows, sum(octet_length(s.value)) AS size
        FROM (SELECT value FROM flowstone.step_default WHERE born = day LIMIT most + 1) AS s
    ) AS n
    WHERE n.rows > most OR n.size > largest;
    IF FOUND THEN
        RETURN 'crowded';
    END IF;
    -- Rows are hardly ever changed: what a vacuum sees it freezes at once, and looks at it no more.
    FOREACH parent IN ARRAY ARRAY['event', 'step'] LOOP
        EXECUTE format('CREATE TABLE flowstone.%I (LIKE flowstone.%I INCLUDING ALL) WITH ('
            'autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000, '
            'autovacuum_freeze_min_age = 0)', parent || '_' || suffix, parent);
        EXECUTE format('WITH moved AS (DELETE FROM flowstone.%I WHERE born = %L RETURNING *) '
            'INSERT INTO flowstone.%I SELECT * FROM moved', parent || '_default', day, parent || '_' || suffix);
        EXECUTE format('ALTER TABLE flowstone.%I ATTACH PARTITION flowstone.%I FOR VALUES FROM (%L) TO (%L)', parent,
            parent || '_' || suffix, day, day + 1);
    END LOOP;
    RETURN 'added';
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        RETURN 'busy';
END
$$;

-- As before, and with the partition of steps. A run that writes a step is active.
CREATE OR REPLACE FUNCTION flowstone.drop_event_partition(dropped text, ended_before timestamptz) RETURNS text
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
    LOCK TABLE ONLY flowstone.step IN ACCESS EXCLUSIVE MODE;
    IF to_regclass('flowstone.' || dropped) IS NULL THEN
        RETURN 'gone';
    END IF;
    IF flowstone.has_run(since, before, 'infinity') THEN
        RETURN 'kept';
    END IF;
    EXECUTE format('DROP TABLE flowstone.%I', dropped);
    EXECUTE format('DROP TABLE IF EXISTS flowstone.%I', 'step' || substr(dropped, length('event') + 1));
    RETURN 'dropped';
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        RETURN 'busy';
END
$$;

CREATE OR REPLACE FUNCTION flowstone.analyze_events() RETURNS boolean
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
    ANALYZE flowstone.step;
    RETURN true;
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        RETURN false;
END
$$;

-- One beside each partition of events that there is.
DO $$
DECLARE
    beside record;
BEGIN
    FOR beside IN SELECT name, first, until FROM flowstone.event_partition ORDER BY until LOOP
        EXECUTE format('CREATE TABLE flowstone.%I PARTITION OF flowstone.step FOR VALUES FROM (%s) TO (%L) WITH ('
            'autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000, '
            'autovacuum_freeze_min_age = 0)', 'step' || substr(beside.name, length('event') + 1),
            CASE WHEN beside.first = '-infinity' THEN 'MINVALUE' ELSE quote_literal(beside.first) END, beside.until);
    END LOOP;
END
$$;
