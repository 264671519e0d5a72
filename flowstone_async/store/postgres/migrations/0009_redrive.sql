-- Scatters that go on from another one: docs/adr/0008-scatter.md. A chain is the first of them and all that come of it: its
-- pages and keys are under the first one's id, for as long as any of the chain is there.

ALTER TABLE flowstone.scatter
    ADD COLUMN origin uuid,
    ADD COLUMN root uuid,
    ADD COLUMN kept uuid[] NOT NULL DEFAULT '{}',
    ADD COLUMN before text,
    ADD COLUMN carried bigint NOT NULL DEFAULT 0;

CREATE UNIQUE INDEX scatter_origin ON flowstone.scatter (origin) WHERE origin IS NOT NULL;
CREATE INDEX scatter_root ON flowstone.scatter (root) WHERE root IS NOT NULL;

COMMENT ON COLUMN flowstone.scatter.origin IS 'the scatter that it goes on from; no two go on from the same one';
COMMENT ON COLUMN flowstone.scatter.root IS 'the first one of its chain; NULL for that one itself';
COMMENT ON COLUMN flowstone.scatter.kept IS 'scatters of its chain whose results are its own too';
COMMENT ON COLUMN flowstone.scatter.before IS 'what was decided for the results that it keeps, as JSON, as facts says it for its own';
COMMENT ON COLUMN flowstone.scatter.carried IS 'items that were final when it went on from the other one';

-- Bits, the first in the lowest bit of the first byte, `size` of them, without those at some places.
CREATE FUNCTION flowstone.without_bits(bits bytea, size integer, places integer[]) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    place integer;
    found bytea := bits || decode(repeat('00', greatest((size + 7) / 8 - length(bits), 0)), 'hex');
BEGIN
    FOREACH place IN ARRAY coalesce(places, '{}') LOOP
        found := set_bit(found, place, 0);
    END LOOP;
    RETURN found;
END
$$;
