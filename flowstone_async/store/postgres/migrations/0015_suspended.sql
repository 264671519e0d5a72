-- What a run that is suspended, or was, has to know of it when it goes on. See docs/adr/0010-waiting.md.

ALTER TABLE flowstone.run
    ADD COLUMN suspended_at timestamptz,
    ADD COLUMN paused double precision NOT NULL DEFAULT 0,
    ADD COLUMN quiet bigint;

COMMENT ON COLUMN flowstone.run.suspended_at IS 'since when it is suspended; NULL while it is not';
COMMENT ON COLUMN flowstone.run.paused IS 'seconds for which it was suspended, but for those since suspended_at';
COMMENT ON COLUMN flowstone.run.quiet IS 'the fence under which it was suspended last: who takes it next finds that all its '
    'bodies did nothing but wait';
