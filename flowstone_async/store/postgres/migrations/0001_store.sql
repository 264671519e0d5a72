-- The durable store's first schema. docs/store.md says what each table holds and which transaction writes it.
--
-- Asset keys (pipeline, asset, io, partition) are compared byte by byte (COLLATE "C"): Python sorts a batch the same
-- way, so that every process locks keys in one order. Text that people wrote and that may hold a NUL (messages,
-- reasons, event bodies) is kept as ASCII JSON. Nothing has a foreign key: rows belong together by construction.

CREATE TABLE flowstone.worker (
    id text COLLATE "C" PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    pipelines text[] NOT NULL,
    dead boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL,
    lease_until timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON COLUMN flowstone.worker.dead IS 'declared dead, for ever: a renewal never brings a worker back';

CREATE TABLE flowstone.run (
    id uuid PRIMARY KEY,
    fence bigint NOT NULL,
    created_at timestamptz NOT NULL,
    finished_at timestamptz,
    lost integer NOT NULL DEFAULT 0,
    continuable boolean NOT NULL,
    watched boolean NOT NULL DEFAULT false,
    state text NOT NULL,
    worker text COLLATE "C",
    pipeline text COLLATE "C" NOT NULL,
    partition text COLLATE "C" NOT NULL,
    targets text NOT NULL,
    options text NOT NULL,
    params text NOT NULL,
    error text,
    CHECK (state IN ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled')),
    CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled')))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

COMMENT ON COLUMN flowstone.run.fence IS 'grows with each change of owner and with a cancellation';
COMMENT ON COLUMN flowstone.run.watched IS 'another process waits for the run: its end is worth a notification';

CREATE INDEX run_newest ON flowstone.run (pipeline, created_at, id);
CREATE INDEX run_active ON flowstone.run (pipeline, worker, created_at, id) WHERE finished_at IS NULL;
CREATE INDEX run_unhappy ON flowstone.run (pipeline, state, created_at, id) WHERE state IN ('failed', 'cancelled');

CREATE TABLE flowstone.asset_key (
    current uuid,
    previous uuid,
    run_id uuid,
    claim_run uuid,
    claimed_at timestamptz,
    started_at timestamptz,
    completed_at timestamptz,
    seconds double precision,
    attempts integer NOT NULL DEFAULT 0,
    lost integer NOT NULL DEFAULT 0,
    slot bigint NOT NULL DEFAULT 0,
    contended boolean NOT NULL DEFAULT false,
    state text NOT NULL DEFAULT 'pending',
    pipeline text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    io text COLLATE "C" NOT NULL,
    partition text COLLATE "C" NOT NULL,
    error text,
    reason text,
    PRIMARY KEY (pipeline, asset, io, partition)
) WITH (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

COMMENT ON COLUMN flowstone.asset_key.current IS 'the last materialization committed under the claim';
COMMENT ON COLUMN flowstone.asset_key.previous IS 'what the newest attempt replaced';
COMMENT ON COLUMN flowstone.asset_key.state IS 'how the newest attempt that ended did end; a claim leaves it alone';
COMMENT ON COLUMN flowstone.asset_key.claim_run IS 'the run that computes the key now';
COMMENT ON COLUMN flowstone.asset_key.lost IS 'owners that died under the present claim';
COMMENT ON COLUMN flowstone.asset_key.contended IS 'another run asked for the key: its release is worth a notification';
COMMENT ON COLUMN flowstone.asset_key.slot IS 'place in the batch that wrote the row last: tells results apart';

CREATE TABLE flowstone.materialization (
    id uuid PRIMARY KEY,
    run_id uuid NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    size bigint NOT NULL,
    seconds double precision NOT NULL,
    started_at timestamptz NOT NULL,
    committed_at timestamptz NOT NULL,
    attempts integer NOT NULL,
    pipeline text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    io text COLLATE "C" NOT NULL,
    partition text COLLATE "C" NOT NULL,
    fingerprint text NOT NULL,
    version text,
    code_hash text NOT NULL,
    inputs text NOT NULL,
    manager text NOT NULL,
    location text NOT NULL,
    checksum text,
    host text NOT NULL,
    metadata text,
    payload bytea
);

ALTER TABLE flowstone.materialization ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE INDEX materialization_newest ON flowstone.materialization (pipeline, asset, seq);

-- Materializations that are current no more, until `prune` forgets them.
CREATE TABLE flowstone.superseded (
    at timestamptz NOT NULL,
    materialization uuid NOT NULL
);

CREATE INDEX superseded_oldest ON flowstone.superseded (at, materialization);

-- One row for each input that is a materialization, found by the input's key.
CREATE TABLE flowstone.lineage (
    pipeline text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    io text COLLATE "C" NOT NULL,
    partition text COLLATE "C" NOT NULL,
    materialization uuid NOT NULL,
    upstream uuid NOT NULL,
    PRIMARY KEY (pipeline, asset, io, partition, materialization, upstream)
);

-- Keys of dynamic partition sets, by the set's identity, in the order in which they were added.
CREATE SEQUENCE flowstone.partition_key_no;

CREATE TABLE flowstone.partition_key (
    identity text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    no bigint NOT NULL,
    PRIMARY KEY (identity, key)
);

-- A stream's chunks, written ahead of the record that makes them visible.
CREATE TABLE flowstone.value_chunk (
    materialization uuid NOT NULL,
    no integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (materialization, no)
);

ALTER TABLE flowstone.value_chunk ALTER COLUMN data SET STORAGE EXTERNAL;

-- Streams whose record had not been seen when their first chunk came.
CREATE TABLE flowstone.upload (
    materialization uuid PRIMARY KEY,
    at timestamptz NOT NULL
);

CREATE INDEX upload_oldest ON flowstone.upload (at, materialization);

-- One row for each step of a run: its events from `first_no` on, packed. A step without events has a negative number
-- and a count of 0. `cursor` orders events across runs: the transaction's number times 2^20, plus the place in it.
CREATE TABLE flowstone.event (
    run_id uuid NOT NULL,
    first_no bigint NOT NULL,
    cursor bigint NOT NULL,
    at timestamptz NOT NULL,
    count integer NOT NULL,
    pipeline text COLLATE "C" NOT NULL,
    body text NOT NULL,
    claims text,
    PRIMARY KEY (run_id, first_no)
);

ALTER TABLE flowstone.event ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE INDEX event_cursor ON flowstone.event (pipeline, cursor);

COMMENT ON COLUMN flowstone.event.claims IS 'keys that the step asked for, as JSON: finds the claims of a run again';

CREATE TABLE flowstone.audit (
    no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    run_id uuid,
    action text NOT NULL,
    subject text NOT NULL,
    actor text NOT NULL,
    actor_kind text NOT NULL,
    details text
);

CREATE FUNCTION flowstone.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit entries are never changed or deleted' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_is_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON flowstone.audit
    FOR EACH STATEMENT EXECUTE FUNCTION flowstone.refuse_change();
