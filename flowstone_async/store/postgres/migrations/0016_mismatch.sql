-- Bodies whose code has changed wait for somebody to say how to go on, at gates of their own kind. See docs/adr/0010-waiting.md.
-- Nothing is read for it: what there is satisfies the condition that was there before.

ALTER TABLE flowstone.gate
    DROP CONSTRAINT gate_kind_check,
    ADD CONSTRAINT gate_kind_check CHECK (kind IN ('signal', 'approval', 'sleep', 'mismatch')) NOT VALID;
