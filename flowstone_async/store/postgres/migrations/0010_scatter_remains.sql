-- What is left of scatters that were deleted: a transaction deletes some of it at a time, and whoever prunes goes on.
CREATE TABLE flowstone.scatter_remains (
    scatter uuid NOT NULL,
    part text NOT NULL,
    PRIMARY KEY (scatter, part),
    CHECK (part IN ('run', 'results', 'read'))
);

COMMENT ON COLUMN flowstone.scatter_remains.part IS 'run: chunks and failures; results: blocks and rows; read: pages and keys';
