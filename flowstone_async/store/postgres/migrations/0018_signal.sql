-- Deliver a signal, as before, but for one order: a signal that came early is looked for before its gate is. Else both could
-- be missed, if the gate is recorded and gets that signal in between, and a second, different signal would be kept as early.
CREATE OR REPLACE FUNCTION flowstone.signal(
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
    -- Before the gate: whoever records it delivers what came early, and that is gone then.
    SELECT * INTO early FROM flowstone.early_signal AS e WHERE e.address = addressed AND e.until > instant;
    of_gate := a_gate;
    IF a_token IS NOT NULL THEN
        SELECT t.gate INTO of_gate FROM flowstone.gate_token AS t WHERE t.token = a_token;
    END IF;
    SELECT g.kind INTO kind FROM flowstone.gate AS g WHERE g.id = of_gate;
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
