-- Scatters in batches: what is read and in no page yet, and batches that were split off from others.

ALTER TABLE flowstone.scatter ADD COLUMN carry bytea, ADD COLUMN items bigint;
ALTER TABLE flowstone.scatter ALTER COLUMN carry SET STORAGE EXTERNAL;
ALTER TABLE flowstone.scatter_chunk ADD COLUMN number bigint;

COMMENT ON COLUMN flowstone.scatter.carry IS 'items that were read and are in no page yet: of batches that are not closed';
COMMENT ON COLUMN flowstone.scatter.items IS 'distinct items that were read, where pages hold batches of them';
COMMENT ON COLUMN flowstone.scatter_chunk.number IS 'among the distinct items, of one that was split off: its page cannot tell';
