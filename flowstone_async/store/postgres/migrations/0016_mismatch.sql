-- Bodies whose code has changed wait for somebody to say how to go on, and runs of assets that a worker does not know for
-- another worker, at gates of their own kinds. See docs/adr/0010-waiting.md.
-- Nothing is read for it: what there is satisfies the condition that was there before.

ALTER TABLE flowstone.gate
    DROP CONSTRAINT gate_kind_check,
    ADD CONSTRAINT gate_kind_check CHECK (kind IN ('signal', 'approval', 'sleep', 'mismatch', 'worker')) NOT VALID;
