-- Gates: durable waits, what ended each, and runs that are suspended. See docs/adr/0010-waiting.md.

ALTER TABLE flowstone.run
    ADD COLUMN wakes bigint NOT NULL DEFAULT 0,
    ADD COLUMN wake_at timestamptz;

COMMENT ON COLUMN flowstone.run.wakes IS 'how often a gate of it has ended: a run is suspended only if that has not changed';
COMMENT ON COLUMN flowstone.run.wake_at IS 'of a suspended run: the nearest deadline of its gates';

CREATE TABLE flowstone.gate (
    id uuid PRIMARY KEY,
    run_id uuid NOT NULL,
    no bigint GENERATED ALWAYS AS IDENTITY,
    opened_at timestamptz NOT NULL,
    due timestamptz,
    open boolean NOT NULL DEFAULT true,
    kind text NOT NULL CHECK (kind IN ('signal', 'approval', 'sleep')),
    pipeline text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    io text COLLATE "C" NOT NULL,
    partition text COLLATE "C" NOT NULL,
    name text NOT NULL,
    body text NOT NULL,
    key text NOT NULL,
    facts text NOT NULL,
    token bytea
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1);

CREATE INDEX gate_run ON flowstone.gate (run_id, open, due);
CREATE INDEX gate_due ON flowstone.gate (kind, due, id) WHERE open;

COMMENT ON COLUMN flowstone.gate.open IS 'that it has no outcome: written with the outcome, and decides nothing';

-- At most one for each gate. Whoever inserts one has locked the gate's row before, so that who must not wait can pass over
-- gates that another open transaction decides.
CREATE TABLE flowstone.gate_outcome (
    gate uuid PRIMARY KEY,
    run_id uuid NOT NULL,
    at timestamptz NOT NULL,
    woken boolean NOT NULL DEFAULT false,
    how text NOT NULL CHECK (how IN ('signalled', 'expired', 'cancelled')),
    signal_id text,
    payload bytea
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1);

CREATE INDEX gate_outcome_oldest ON flowstone.gate_outcome (at, run_id) WHERE NOT woken;
CREATE INDEX gate_outcome_unwoken ON flowstone.gate_outcome (run_id) WHERE NOT woken;

COMMENT ON COLUMN flowstone.gate_outcome.woken IS 'that its run has been told, or has no use for it';

-- Which gate has, or had last, a token that the other side chose.
CREATE TABLE flowstone.gate_token (
    token bytea PRIMARY KEY,
    gate uuid NOT NULL
);

-- Signals that came before their gate, by what they are addressed to: a gate's id (16 bytes), or the hash of a token.
CREATE TABLE flowstone.early_signal (
    address bytea PRIMARY KEY,
    at timestamptz NOT NULL,
    until timestamptz NOT NULL,
    signal_id text,
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX early_signal_over ON flowstone.early_signal (until);

-- One row for each delivery, whatever became of it, in partitions by its day (UTC), which are dropped as a whole.
CREATE TABLE flowstone.delivery (
    no bigint NOT NULL DEFAULT 0,
    at timestamptz NOT NULL,
    born date NOT NULL,
    gate uuid,
    state text NOT NULL,
    signal_id text,
    facts text NOT NULL,
    token bytea,
    payload bytea
) PARTITION BY RANGE (born);

CREATE SEQUENCE flowstone.delivery_no;
ALTER TABLE flowstone.delivery ALTER COLUMN no SET DEFAULT nextval('flowstone.delivery_no');
CREATE INDEX delivery_gate ON flowstone.delivery (gate, no);
CREATE INDEX delivery_token ON flowstone.delivery (token, no) WHERE token IS NOT NULL;

-- No delivery ever fails because a day has no partition.
CREATE TABLE flowstone.delivery_default PARTITION OF flowstone.delivery DEFAULT;

CREATE VIEW flowstone.delivery_partition AS
SELECT c.relname::text AS name, to_date(right(c.relname, 8), 'YYYYMMDD') AS day
FROM pg_catalog.pg_inherits AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = 'flowstone.delivery'::regclass AND c.relname ~ '^delivery_[0-9]{8}$';

-- As with events: the functions act as the owner of the tables, and wait for no lock for long.
CREATE FUNCTION flowstone.add_delivery_partition(day date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
DECLARE
    named CONSTANT text := 'delivery_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF to_regclass('flowstone.' || named) IS NOT NULL THEN
        RETURN 'there';
    END IF;
    LOCK TABLE ONLY flowstone.delivery IN SHARE ROW EXCLUSIVE MODE;
    IF to_regclass('flowstone.' || named) IS NOT NULL THEN
        RETURN 'there';
    END IF;
    PERFORM FROM flowstone.delivery_default WHERE born = day LIMIT 1;
    IF FOUND THEN
        RETURN 'crowded';  -- they stay where they are until they are forgotten
    END IF;
    EXECUTE format('CREATE TABLE flowstone.%I PARTITION OF flowstone.delivery FOR VALUES FROM (%L) TO (%L) WITH ('
        'autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 50000, '
        'autovacuum_freeze_min_age = 0)', named, day, day + 1);
    RETURN 'added';
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        RETURN 'busy';
END
$$;

CREATE FUNCTION flowstone.drop_delivery_partition(dropped text, before date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '100ms'
AS $$
BEGIN
    PERFORM FROM flowstone.delivery_partition AS p WHERE p.name = dropped AND p.day < before;
    IF NOT FOUND THEN
        RETURN 'kept';
    END IF;
    LOCK TABLE ONLY flowstone.delivery IN ACCESS EXCLUSIVE MODE;
    IF to_regclass('flowstone.' || dropped) IS NULL THEN
        RETURN 'gone';
    END IF;
    EXECUTE format('DROP TABLE flowstone.%I', dropped);
    RETURN 'dropped';
EXCEPTION
    WHEN lock_not_available OR deadlock_detected THEN
        RETURN 'busy';
END
$$;

DO $$
BEGIN
    FOR ahead IN 0 .. 3 LOOP
        PERFORM flowstone.add_delivery_partition((statement_timestamp() AT TIME ZONE 'UTC')::date + ahead);
    END LOOP;
END
$$;

-- Give a gate its outcome, unless it has one; answers whether it did. The outcome depends on what is found behind the
-- gate's lock: a run that has ended, a deadline that has passed. Where another one was first, the lock is let go again:
-- this may be a transaction that stays open.
CREATE FUNCTION flowstone.decide_gate(a_gate uuid, a_signal text, a_payload bytea, instant timestamptz) RETURNS boolean
LANGUAGE plpgsql
AS $$
DECLARE
    of_run uuid;
    deadline timestamptz;
    goes_on boolean;
BEGIN
    SELECT g.run_id, g.due INTO of_run, deadline FROM flowstone.gate AS g WHERE g.id = a_gate FOR NO KEY UPDATE;
    SELECT r.finished_at IS NULL INTO goes_on FROM flowstone.run AS r WHERE r.id = of_run;
    INSERT INTO flowstone.gate_outcome (gate, run_id, at, how, signal_id, payload)
    SELECT a_gate, of_run, instant, d.how, CASE d.how WHEN 'signalled' THEN a_signal END,
        CASE d.how WHEN 'signalled' THEN a_payload END
    FROM (SELECT CASE WHEN goes_on IS NOT TRUE THEN 'cancelled' WHEN deadline <= instant THEN 'expired'
        ELSE 'signalled' END) AS d (how)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'FS001';
    END IF;
    UPDATE flowstone.gate AS g SET open = false WHERE g.id = a_gate;
    RETURN true;
EXCEPTION
    WHEN SQLSTATE 'FS001' THEN
        RETURN false;
END
$$;

-- Deliver a signal, or find out why not; see `Gates.deliver`. Runs in the caller's transaction. Deliveries to one address
-- wait for each other, and whoever waits for another open transaction gives up after a while.
CREATE FUNCTION flowstone.signal(
    a_gate uuid, a_token bytea, a_payload bytea, a_signal text, the_facts text, keep_for double precision,
    a_now timestamptz,
    OUT state text, OUT of_gate uuid, OUT of_run uuid, OUT how text, OUT at timestamptz, OUT payload bytea,
    OUT signal_id text)
LANGUAGE plpgsql
SET lock_timeout = '10s'
AS $$
DECLARE
    instant CONSTANT timestamptz := coalesce(a_now, statement_timestamp());
    addressed CONSTANT bytea := coalesce(a_token, decode(replace(a_gate::text, '-', ''), 'hex'));
    kind text;
    early record;
    mine boolean := false;
    is_same boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(encode(addressed, 'hex'), 1));
    of_gate := a_gate;
    IF a_token IS NOT NULL THEN
        SELECT t.gate INTO of_gate FROM flowstone.gate_token AS t WHERE t.token = a_token;
    END IF;
    SELECT g.kind INTO kind FROM flowstone.gate AS g WHERE g.id = of_gate;
    SELECT * INTO early FROM flowstone.early_signal AS e WHERE e.address = addressed AND e.until > instant;
    IF kind = 'sleep' OR (kind IS NULL AND keep_for IS NULL) THEN
        state := 'unknown';
        of_gate := NULL;
    ELSIF kind IS NOT NULL THEN
        LOOP
            SELECT o.run_id, o.how, o.at, o.payload, o.signal_id INTO of_run, how, at, payload, signal_id
            FROM flowstone.gate_outcome AS o WHERE o.gate = of_gate;
            EXIT WHEN FOUND;
            IF early.address IS NOT NULL THEN
                PERFORM flowstone.decide_gate(of_gate, early.signal_id, early.payload, early.at);
                DELETE FROM flowstone.early_signal AS e WHERE e.address = addressed;
            ELSE
                mine := flowstone.decide_gate(of_gate, a_signal, a_payload, instant);
            END IF;
        END LOOP;
    ELSIF early.address IS NULL THEN
        INSERT INTO flowstone.early_signal AS e (address, at, until, signal_id, payload)
        VALUES (addressed, instant, instant + keep_for * interval '1 second', a_signal, a_payload)
        ON CONFLICT ON CONSTRAINT early_signal_pkey DO UPDATE
        SET at = excluded.at, until = excluded.until, signal_id = excluded.signal_id, payload = excluded.payload;
        state := 'early';
        of_gate := NULL;
    ELSE
        of_gate := NULL;
        how := 'signalled';
        at := early.at;
        payload := early.payload;
        signal_id := early.signal_id;
    END IF;
    IF state IS NULL THEN
        is_same := signal_id = a_signal OR payload = a_payload;
        state := CASE WHEN how = 'expired' THEN 'expired' WHEN how = 'cancelled' THEN 'closed' WHEN mine THEN 'accepted'
            WHEN is_same THEN 'duplicate' ELSE 'already' END;
    END IF;
    INSERT INTO flowstone.delivery (at, born, gate, state, signal_id, facts, token, payload)
    VALUES (instant, (instant AT TIME ZONE 'UTC')::date, coalesce(of_gate, a_gate), state, a_signal, the_facts, a_token,
        CASE WHEN state NOT IN ('accepted', 'duplicate', 'early') THEN a_payload END);
END
$$;
