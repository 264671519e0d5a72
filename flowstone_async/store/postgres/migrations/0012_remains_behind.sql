-- Deleting what is left of scatters goes on where it was, however many dead rows lie behind that; see docs/adr/0008-scatter.md.
ALTER TABLE flowstone.scatter_remains
    ADD COLUMN at timestamptz NOT NULL DEFAULT statement_timestamp(),
    ADD COLUMN behind jsonb NOT NULL DEFAULT '{}',
    SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON COLUMN flowstone.scatter_remains.at IS 'when it was listed, or something of it was last deleted';
COMMENT ON COLUMN flowstone.scatter_remains.behind IS 'by table, the key up to which nothing is left';

-- What only deleted scatters had read of chains that go on to be there: pages from `pages` on, keys of items from `read` on.
CREATE TABLE flowstone.scatter_trim (
    scatter uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    read bigint NOT NULL,
    pages integer NOT NULL,
    behind jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON COLUMN flowstone.scatter_trim.scatter IS 'the first one of the chain';
COMMENT ON COLUMN flowstone.scatter_trim.behind IS 'as of scatter_remains';
