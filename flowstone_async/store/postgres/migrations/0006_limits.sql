-- Limits: what was granted by key, who holds slots, who waits, and what was set. docs/adr/0009-limits.md has the argument for
-- both functions; limits/history.py is the same judge in Python.
--
-- Lock order: keys in their own order (COLLATE "C"), then holders and waiters of a key under its lock.

CREATE TABLE flowstone.limit_key (
    key text COLLATE "C" PRIMARY KEY,
    set_n bigint,
    set_per double precision,
    set_burst bigint,
    n bigint,
    per double precision,
    burst bigint,
    slots bigint,
    horizon double precision NOT NULL DEFAULT 0,
    blocked_until timestamptz,
    firsts timestamptz[] NOT NULL DEFAULT '{}',
    lasts timestamptz[] NOT NULL DEFAULT '{}',
    counts bigint[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50, toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

COMMENT ON COLUMN flowstone.limit_key.set_n IS 'what was set: a number of slots, or with set_per a rate; NULL: what callers say';
COMMENT ON COLUMN flowstone.limit_key.n IS 'the rate by which it was last granted; slots: the number of them, likewise';
COMMENT ON COLUMN flowstone.limit_key.horizon IS 'the longest per, in seconds, that what is remembered was asked with';
COMMENT ON COLUMN flowstone.limit_key.firsts IS 'for each entry: no permit of it was used before; lasts: nor after; counts: how many';

CREATE TABLE flowstone.limit_holder (
    key text COLLATE "C" NOT NULL,
    holder uuid NOT NULL,
    worker text COLLATE "C" NOT NULL,
    since timestamptz NOT NULL,
    run_id text NOT NULL,
    asset text NOT NULL,
    PRIMARY KEY (key, holder)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

CREATE INDEX limit_holder_worker ON flowstone.limit_holder (worker);

-- Who waits, a row for each key and process: shown, and a reason to notify. It is out of date once it is not renewed any more.
CREATE TABLE flowstone.limit_waiting (
    key text COLLATE "C" NOT NULL,
    worker text COLLATE "C" NOT NULL,
    asked_at timestamptz NOT NULL,
    oldest timestamptz NOT NULL,
    waiting bigint NOT NULL,
    shown text NOT NULL,
    PRIMARY KEY (key, worker)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

COMMENT ON COLUMN flowstone.limit_waiting.asked_at IS 'on the real clock, as leases are';

-- Return a key's row, locked, as it is now.
CREATE FUNCTION flowstone.locked_limit(a_key text) RETURNS flowstone.limit_key
LANGUAGE plpgsql
AS $$
DECLARE
    known flowstone.limit_key;
BEGIN
    LOOP
        SELECT k.* INTO known FROM flowstone.limit_key AS k WHERE k.key = a_key FOR UPDATE;
        IF FOUND THEN
            RETURN known;
        END IF;
        INSERT INTO flowstone.limit_key (key) VALUES (a_key) ON CONFLICT DO NOTHING;
    END LOOP;
END
$$;

-- Note that some wait at a key in one process: how many, for how many seconds the first has, and the first of them as JSON;
-- or, with none, that nobody does.
CREATE FUNCTION flowstone.note_waiting(
    a_key text, a_worker text, how_many bigint, a_wait double precision, a_shown text) RETURNS void
LANGUAGE sql
AS $$
    DELETE FROM flowstone.limit_waiting AS w WHERE how_many = 0 AND w.key = a_key AND w.worker = a_worker;
    INSERT INTO flowstone.limit_waiting AS w (key, worker, asked_at, oldest, waiting, shown)
    SELECT a_key, a_worker, clock_timestamp(), clock_timestamp() - a_wait * interval '1 second', how_many, a_shown
    WHERE how_many > 0
    ON CONFLICT (key, worker) DO UPDATE
    SET asked_at = excluded.asked_at, oldest = excluded.oldest, waiting = excluded.waiting, shown = excluded.shown
    -- Not with each look, unless somebody was served: others leave him room no more.
    WHERE w.asked_at < excluded.asked_at - interval '0.5 seconds' OR w.oldest < excluded.oldest - interval '0.25 seconds';
$$;

-- Return how many wait at a key in other processes who have done so a second longer, and still do: they come first.
CREATE FUNCTION flowstone.waiting_longer(a_key text, a_worker text, a_wait double precision) RETURNS bigint
LANGUAGE sql
AS $$
    SELECT coalesce(sum(w.waiting), 0)::bigint
    FROM flowstone.limit_waiting AS w
    WHERE w.key = a_key AND w.worker <> a_worker AND w.asked_at > clock_timestamp() - interval '3 seconds'
        AND w.oldest < clock_timestamp() - (a_wait + 1) * interval '1 second';
$$;

-- Grant permits: each wish by what was set for its key, else by its own rate, against all that was granted for the key.
-- `the_spans`: seconds within which they are used. What is remembered comes back where not all was granted, and the
-- `how_many` who wait then are noted.
CREATE FUNCTION flowstone.take_permits(
    a_worker text, the_keys text[], the_ns bigint[], the_pers double precision[], the_bursts bigint[], the_wants bigint[],
    the_spans double precision[], how_many bigint[], the_waits double precision[], the_shown text[], a_now timestamptz)
RETURNS TABLE (
    place bigint, granted bigint, granted_at timestamptz, rate_n bigint, rate_per double precision, rate_burst bigint,
    blocked double precision, first_at timestamptz[], last_at timestamptz[], amounts bigint[])
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    wish record;
    known flowstone.limit_key;
    fs timestamptz[];
    ls timestamptz[];
    cs bigint[];
    held integer;
    used bigint;
    room bigint;
    tokens double precision;
    step interval;
BEGIN
    FOR wish IN
        SELECT * FROM unnest(
            the_keys, the_ns, the_pers, the_bursts, the_wants, the_spans, how_many, the_waits, the_shown)
            WITH ORDINALITY AS u (key, n, per, burst, want, span, waiting, waits, shown, no)
        ORDER BY u.key COLLATE "C", u.no
    LOOP
        known := flowstone.locked_limit(wish.key);
        -- Only now: what expired while the lock was waited for counts no more.
        granted_at := coalesce(a_now, clock_timestamp());
        place := wish.no;
        granted := 0;
        blocked := greatest(0, coalesce(extract(epoch FROM known.blocked_until - granted_at), 0));
        rate_n := CASE WHEN known.set_n IS NULL THEN wish.n ELSE known.set_n END;
        rate_per := CASE WHEN known.set_n IS NULL THEN wish.per ELSE known.set_per END;
        rate_burst := CASE WHEN known.set_n IS NULL THEN wish.burst ELSE known.set_burst END;
        first_at := NULL;
        last_at := NULL;
        amounts := NULL;
        IF rate_n IS NULL OR rate_per IS NULL THEN
            RETURN NEXT;
            CONTINUE;
        END IF;
        step := rate_per * interval '1 second';
        known.horizon := greatest(known.horizon, rate_per);
        SELECT array_agg(e.f ORDER BY e.no), array_agg(e.l ORDER BY e.no), array_agg(e.c ORDER BY e.no),
            coalesce(sum(e.c) FILTER (WHERE e.l > granted_at - step), 0)
        INTO fs, ls, cs, used
        FROM unnest(known.firsts, known.lasts, known.counts) WITH ORDINALITY AS e (f, l, c, no)
        WHERE e.l > granted_at - known.horizon * interval '1 second';
        held := coalesce(cardinality(cs), 0);
        known.horizon := CASE WHEN held = 0 THEN rate_per ELSE known.horizon END;
        room := rate_n - used;
        IF rate_burst < rate_n AND held > 0 THEN
            SELECT min(rate_burst - e.since + greatest(0,
                extract(epoch FROM granted_at - e.f)::double precision * rate_n / rate_per
                - floor(extract(epoch FROM e.l - e.f)::double precision * rate_n / rate_per)))
            INTO tokens
            FROM (
                SELECT u.f, u.l, sum(u.c) OVER (ORDER BY u.no DESC) AS since
                FROM unnest(fs, ls, cs) WITH ORDINALITY AS u (f, l, c, no)
            ) AS e
            WHERE e.l > granted_at - step;
            room := least(room, floor(coalesce(tokens, rate_burst) + 1e-9)::bigint);
        END IF;
        room := least(room, rate_burst);
        IF blocked = 0 AND wish.want > 0 AND room > 0 THEN
            granted := greatest(0, least(wish.want, room - flowstone.waiting_longer(wish.key, a_worker, wish.waits)));
            IF granted = 0 THEN
                blocked := 0.05;  -- they will be here soon, or gone
            END IF;
        END IF;
        IF granted > 0 THEN
            IF held >= 128 AND granted_at - fs[held] <= step / 128 THEN
                ls[held] := greatest(ls[held], granted_at + wish.span * interval '1 second');
                cs[held] := cs[held] + granted;
            ELSE
                fs := fs || granted_at;
                ls := ls || granted_at + wish.span * interval '1 second';
                cs := cs || granted;
                IF held >= 600 THEN
                    SELECT m.fs, m.ls, m.cs INTO fs, ls, cs FROM flowstone.merged_grants(fs, ls, cs, granted_at) AS m;
                END IF;
            END IF;
            UPDATE flowstone.limit_key AS k
            SET firsts = fs, lasts = ls, counts = cs, horizon = known.horizon, n = rate_n, per = rate_per, burst = rate_burst
            WHERE k.key = wish.key;
        END IF;
        IF granted < wish.want OR wish.want = 0 THEN
            first_at := fs;
            last_at := ls;
            amounts := cs;
        END IF;
        IF wish.waiting > 0 THEN
            -- Who is the first of those left, nobody knows here; he will ask.
            PERFORM flowstone.note_waiting(wish.key, a_worker, CASE WHEN granted < wish.want THEN wish.waiting - granted ELSE 0 END,
                CASE WHEN granted = 0 THEN wish.waits ELSE 0 END, wish.shown);
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

-- Let old grants share entries, each by at most 1/128 of its age: so their number stays bounded whatever rates are asked.
CREATE FUNCTION flowstone.merged_grants(
    INOUT fs timestamptz[], INOUT ls timestamptz[], INOUT cs bigint[], an_instant timestamptz)
LANGUAGE plpgsql
AS $$
DECLARE
    kept integer := 1;
BEGIN
    FOR i IN 2 .. cardinality(fs) LOOP
        IF ls[i] - fs[kept] <= (an_instant - ls[i]) / 128 THEN
            ls[kept] := greatest(ls[kept], ls[i]);
            cs[kept] := cs[kept] + cs[i];
        ELSE
            kept := kept + 1;
            fs[kept] := fs[i];
            ls[kept] := ls[i];
            cs[kept] := cs[i];
        END IF;
    END LOOP;
    fs := fs[1:kept];
    ls := ls[1:kept];
    cs := cs[1:kept];
END
$$;

-- Take back permits that were granted at an instant and not used.
CREATE FUNCTION flowstone.give_back_permits(the_keys text[], the_instants timestamptz[], the_amounts bigint[]) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    back record;
    known flowstone.limit_key;
BEGIN
    FOR back IN
        SELECT * FROM unnest(the_keys, the_instants, the_amounts) AS u (key, at, amount) ORDER BY u.key COLLATE "C"
    LOOP
        known := flowstone.locked_limit(back.key);
        FOR i IN REVERSE cardinality(known.counts) .. 1 LOOP
            IF back.at BETWEEN known.firsts[i] AND known.lasts[i] THEN
                known.counts[i] := greatest(0, known.counts[i] - back.amount);
                UPDATE flowstone.limit_key AS k SET counts = known.counts WHERE k.key = back.key;
                EXIT;
            END IF;
        END LOOP;
    END LOOP;
END
$$;

-- Free slots, then give some to those of a worker's wishes that may have one; where one may not, the `how_many` who wait then are
-- noted. A row without a place is a key that others wait for. No answer (`held` is NULL) if the worker has no lease any more.
CREATE FUNCTION flowstone.change_slots(
    a_worker text, freed_keys text[], freed_holders uuid[], the_keys text[], the_ns bigint[], the_holders uuid[],
    the_runs text[], the_assets text[], how_many bigint[], the_waits double precision[], the_shown text[], a_now timestamptz)
RETURNS TABLE (
    place bigint, held boolean, since timestamptz, slots_n bigint, rate_per double precision, rate_burst bigint,
    blocked double precision, told text)
LANGUAGE plpgsql
AS $$
#variable_conflict use_column
DECLARE
    one text;
    wish record;
    known flowstone.limit_key;
    lives boolean;
    taken bigint;
BEGIN
    SELECT EXISTS (
        SELECT FROM flowstone.worker AS w WHERE w.id = a_worker AND NOT w.dead AND w.lease_until > clock_timestamp()
    ) INTO lives;
    FOR one IN SELECT DISTINCT u.key COLLATE "C" FROM unnest(freed_keys || the_keys) AS u (key) ORDER BY 1 LOOP
        known := flowstone.locked_limit(one);
        DELETE FROM flowstone.limit_holder AS h
        USING unnest(freed_keys, freed_holders) AS u (key, holder)
        WHERE u.key = one AND h.key = one AND h.holder = u.holder;
        IF FOUND THEN
            RETURN QUERY SELECT NULL::bigint, NULL::boolean, NULL::timestamptz, NULL::bigint, NULL::double precision, NULL::bigint,
                NULL::double precision, one
            WHERE EXISTS (
                SELECT FROM flowstone.limit_waiting AS w
                WHERE w.key = one AND w.worker <> a_worker AND w.asked_at > clock_timestamp() - interval '10 seconds');
        END IF;
        -- Those of the dead count no more, and nobody else will free them.
        DELETE FROM flowstone.limit_holder AS h
        WHERE h.key = one AND NOT EXISTS (
            SELECT FROM flowstone.worker AS w WHERE w.id = h.worker AND NOT w.dead AND w.lease_until > clock_timestamp());
        SELECT count(*) INTO taken FROM flowstone.limit_holder AS h WHERE h.key = one;
        FOR wish IN
            SELECT * FROM unnest(the_keys, the_ns, the_holders, the_runs, the_assets, how_many, the_waits, the_shown)
                WITH ORDINALITY AS u (key, n, holder, run_id, asset, waiting, waits, shown, no)
            WHERE u.key = one
            ORDER BY u.no
        LOOP
            place := wish.no;
            told := NULL;
            since := coalesce(a_now, clock_timestamp());
            blocked := greatest(0, coalesce(extract(epoch FROM known.blocked_until - since), 0));
            slots_n := CASE WHEN known.set_n IS NULL THEN wish.n ELSE known.set_n END;
            rate_per := known.set_per;
            rate_burst := known.set_burst;
            held := CASE WHEN lives THEN false END;
            IF lives AND slots_n IS NOT NULL AND rate_per IS NULL THEN
                SELECT h.since INTO since FROM flowstone.limit_holder AS h WHERE h.key = one AND h.holder = wish.holder;
                held := FOUND;  -- asked before, and the answer was lost
                IF NOT held AND blocked = 0 AND taken < slots_n THEN
                    IF taken + flowstone.waiting_longer(one, a_worker, wish.waits) < slots_n THEN
                        since := coalesce(a_now, clock_timestamp());
                        INSERT INTO flowstone.limit_holder (key, holder, worker, since, run_id, asset)
                        VALUES (one, wish.holder, a_worker, since, wish.run_id, wish.asset);
                        taken := taken + 1;
                        held := true;
                        IF known.slots IS DISTINCT FROM slots_n THEN
                            UPDATE flowstone.limit_key AS k SET slots = slots_n WHERE k.key = one;
                            known.slots := slots_n;
                        END IF;
                    END IF;
                END IF;
                IF wish.waiting > 0 THEN
                    PERFORM flowstone.note_waiting(
                        one, a_worker, CASE WHEN held THEN 0 ELSE wish.waiting END, wish.waits, wish.shown);
                END IF;
            END IF;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END
$$;
