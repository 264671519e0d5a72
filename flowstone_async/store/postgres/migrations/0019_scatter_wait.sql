-- Items of scatters that wait at gates and are in no process's memory. See docs/adr/0010-waiting.md.

-- A gate that such an item waits at. While it waits, its chunk is `ready` and due at infinity; whoever wakes the run for an
-- outcome of the gate makes the chunk due, and deletes the rows of the item.
CREATE TABLE flowstone.scatter_wait (
    gate uuid PRIMARY KEY,
    scatter uuid NOT NULL,
    first bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX scatter_wait_item ON flowstone.scatter_wait (scatter, first);

COMMENT ON COLUMN flowstone.scatter_wait.first IS 'of the chunk of the item, which is on its own';
