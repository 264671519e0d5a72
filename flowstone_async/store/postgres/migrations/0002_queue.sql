-- Runs that are submitted: the columns of the queue, keys, and the function that stores one. See docs/adr/0007-queue.md.

ALTER TABLE flowstone.run
    ADD COLUMN priority smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN 0 AND 3),
    ADD COLUMN at timestamptz,
    ADD COLUMN due_at timestamptz,
    ADD COLUMN no bigint,
    ADD COLUMN submitted boolean NOT NULL DEFAULT false,
    ADD COLUMN request text;

COMMENT ON COLUMN flowstone.run.at IS 'the instant that it was asked to wait for';
COMMENT ON COLUMN flowstone.run.due_at IS 'a queued run may start from here on: its submission, or at';
COMMENT ON COLUMN flowstone.run.no IS 'order of submission';
COMMENT ON COLUMN flowstone.run.request IS 'what it was asked for, hashed: equal active runs are joined; NULL never is';

CREATE SEQUENCE flowstone.submission_no;
CREATE INDEX run_queued ON flowstone.run (pipeline, priority, due_at, no) WHERE state = 'queued';
CREATE INDEX run_request ON flowstone.run (pipeline, request) WHERE finished_at IS NULL AND request IS NOT NULL;
CREATE UNIQUE INDEX run_submitted ON flowstone.run (pipeline, request, at) NULLS NOT DISTINCT
    WHERE submitted AND finished_at IS NULL AND request IS NOT NULL;

-- Keys of submissions, as long as their run is on record.
CREATE TABLE flowstone.run_key (
    pipeline text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    run_id uuid NOT NULL,
    subject text NOT NULL,
    PRIMARY KEY (pipeline, key)
);

CREATE INDEX run_key_run ON flowstone.run_key (run_id);

COMMENT ON COLUMN flowstone.run_key.subject IS 'targets, partition and params, hashed: another use of the key is refused';

-- Store a run, or find the one that it joins: `created`, `joined` (an equal active one), `known` (its key was used),
-- `conflict` (its key was used for something else), `taken` (its id was). Runs in the caller's transaction. Whoever
-- waits here for another open transaction gives up after a while.
CREATE FUNCTION flowstone.submit(
    a_run uuid, a_pipeline text, a_partition text, the_targets text, the_options text, the_params text,
    a_priority smallint, an_at timestamptz, a_request text, a_key text, a_subject text, an_actor text,
    an_actor_kind text, the_details text, a_now timestamptz,
    OUT run_id uuid, OUT outcome text)
LANGUAGE plpgsql
SET lock_timeout = '10s'
AS $$
DECLARE
    instant timestamptz := coalesce(a_now, statement_timestamp());
    is_later boolean := an_at > instant;
    used text;
BEGIN
    IF a_key IS NOT NULL THEN
        LOOP
            INSERT INTO flowstone.run_key AS k (pipeline, key, run_id, subject)
            VALUES (a_pipeline, a_key, a_run, a_subject)
            ON CONFLICT DO NOTHING;
            EXIT WHEN FOUND;
            SELECT k.run_id, k.subject INTO run_id, used
            FROM flowstone.run_key AS k WHERE k.pipeline = a_pipeline AND k.key = a_key;
            IF FOUND AND EXISTS (SELECT FROM flowstone.run AS r WHERE r.id = submit.run_id) THEN
                outcome := CASE WHEN used = a_subject THEN 'known' ELSE 'conflict' END;
                RETURN;
            END IF;
            DELETE FROM flowstone.run_key AS k
            WHERE k.pipeline = a_pipeline AND k.key = a_key AND k.run_id = submit.run_id;
        END LOOP;
    END IF;
    LOOP
        IF a_request IS NOT NULL THEN
            SELECT r.id INTO run_id
            FROM (
                SELECT r.id, r.state, r.at, r.created_at
                FROM flowstone.run AS r
                WHERE r.pipeline = a_pipeline AND r.request = a_request AND r.finished_at IS NULL
                OFFSET 0  -- or the order below would be read from another index
            ) AS r
            WHERE r.id <> a_run
                AND CASE WHEN is_later THEN r.at = an_at ELSE r.state <> 'queued' OR coalesce(r.at <= instant, true) END
            ORDER BY r.created_at, r.id
            LIMIT 1;
            IF FOUND THEN
                -- Held against being cancelled as one that nobody awaits (lock_run), and against nothing else.
                PERFORM FROM flowstone.run AS r WHERE r.id = submit.run_id AND r.finished_at IS NULL FOR KEY SHARE;
                CONTINUE WHEN NOT FOUND;
                IF a_key IS NULL THEN
                    -- A mark for `joined`: the run's row itself may be locked by its owner's next commit.
                    INSERT INTO flowstone.run_key (pipeline, key, run_id, subject)
                    VALUES (a_pipeline, 'joined by ' || a_run, run_id, a_subject) ON CONFLICT DO NOTHING;
                ELSE
                    UPDATE flowstone.run_key AS k SET run_id = submit.run_id
                    WHERE k.pipeline = a_pipeline AND k.key = a_key;
                END IF;
                outcome := 'joined';
                RETURN;
            END IF;
        END IF;
        INSERT INTO flowstone.run AS r
            (id, fence, created_at, continuable, state, pipeline, partition, targets, options, params, priority, at,
            due_at, no, submitted, request)
        VALUES (a_run, 1, instant, true, 'queued', a_pipeline, a_partition, the_targets, the_options, the_params,
            a_priority, an_at, greatest(instant, an_at), nextval('flowstone.submission_no'), true, a_request)
        ON CONFLICT DO NOTHING;
        IF FOUND THEN
            INSERT INTO flowstone.audit (at, run_id, action, subject, actor, actor_kind, details)
            VALUES (instant, a_run, 'run.submitted', a_run::text, an_actor, an_actor_kind, the_details);
            run_id := a_run;
            outcome := 'created';
            RETURN;
        END IF;
        SELECT r.id, CASE WHEN (r.pipeline, r.partition, r.targets, r.options, r.params, r.submitted)
            = (a_pipeline, a_partition, the_targets, the_options, the_params, true) THEN 'created' ELSE 'taken' END
        INTO run_id, outcome
        FROM flowstone.run AS r WHERE r.id = a_run;
        IF FOUND THEN
            IF outcome = 'taken' THEN
                DELETE FROM flowstone.run_key AS k
                WHERE k.pipeline = a_pipeline AND k.key = a_key AND k.run_id = a_run;
            END IF;
            RETURN;
        END IF;
    END LOOP;
END
$$;
