-- Scatters: docs/adr/0008-scatter.md. An item's number counts the items of a scatter as they were read, from 0.

CREATE TABLE flowstone.scatter (
    id uuid PRIMARY KEY,
    run_id uuid NOT NULL,
    fence bigint NOT NULL,
    read bigint NOT NULL DEFAULT 0,
    total bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    pages integer NOT NULL DEFAULT 0,
    sealed boolean NOT NULL DEFAULT false,
    state text NOT NULL DEFAULT 'running',
    pipeline text COLLATE "C" NOT NULL,
    asset text COLLATE "C" NOT NULL,
    io text COLLATE "C" NOT NULL,
    partition text COLLATE "C" NOT NULL,
    cursor text,
    facts text NOT NULL,
    CHECK (state IN ('running', 'closed', 'failed', 'cancelled'))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE UNIQUE INDEX scatter_of_run ON flowstone.scatter (run_id, pipeline, asset, io, partition);

COMMENT ON COLUMN flowstone.scatter.fence IS 'of the run when its owner began to read: an earlier owner adds no page';
COMMENT ON COLUMN flowstone.scatter.read IS 'items read, duplicates included';
COMMENT ON COLUMN flowstone.scatter.total IS 'distinct items';
COMMENT ON COLUMN flowstone.scatter.facts IS 'what was decided when it began, as JSON: the same after a restart';

CREATE TABLE flowstone.scatter_page (
    scatter uuid NOT NULL,
    no integer NOT NULL,
    count integer NOT NULL,
    first bigint NOT NULL,
    before bigint NOT NULL,
    fence bigint NOT NULL,
    duplicates integer[] NOT NULL,
    items bytea NOT NULL,
    keys bytea,
    PRIMARY KEY (scatter, no)
);

CREATE INDEX scatter_page_first ON flowstone.scatter_page (scatter, first);
ALTER TABLE flowstone.scatter_page ALTER COLUMN items SET STORAGE EXTERNAL, ALTER COLUMN keys SET STORAGE EXTERNAL;

COMMENT ON COLUMN flowstone.scatter_page.before IS 'distinct items of the pages before it';
COMMENT ON COLUMN flowstone.scatter_page.duplicates IS 'places in the page of items whose key was there already';
COMMENT ON COLUMN flowstone.scatter_page.keys IS 'what key= made of each item; NULL where the item is its own key';

CREATE TABLE flowstone.scatter_key (
    scatter uuid NOT NULL,
    hash uuid NOT NULL,
    item_no bigint NOT NULL,
    PRIMARY KEY (scatter, hash)
);

-- Some items of one page, or (alone) one item that left its chunk to be tried again.
CREATE TABLE flowstone.scatter_chunk (
    scatter uuid NOT NULL,
    first bigint NOT NULL,
    fence bigint NOT NULL DEFAULT 1,
    due_at timestamptz,
    page integer NOT NULL,
    count integer NOT NULL,
    flushes integer NOT NULL DEFAULT 0,
    succeeded integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    lost integer NOT NULL DEFAULT 0,
    alone boolean NOT NULL,
    state text NOT NULL,
    worker text COLLATE "C",
    done bytea,
    error text,
    PRIMARY KEY (scatter, first, alone),
    CHECK (state IN ('ready', 'running', 'done', 'cancelled')),
    CHECK ((worker IS NOT NULL) = (state = 'running'))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

CREATE INDEX scatter_chunk_open ON flowstone.scatter_chunk (scatter, due_at, first) WHERE state IN ('ready', 'running');

COMMENT ON COLUMN flowstone.scatter_chunk.flushes IS 'how often its present owner has flushed it';
COMMENT ON COLUMN flowstone.scatter_chunk.done IS 'a bit for each item that is final or has left for a chunk of its own';
COMMENT ON COLUMN flowstone.scatter_chunk.attempts IS 'attempts at an item on its own that failed';
COMMENT ON COLUMN flowstone.scatter_chunk.error IS 'of the last of them';
COMMENT ON COLUMN flowstone.scatter_chunk.lost IS 'workers that died with it';

-- The results of one flush of one chunk: what to add to `first` for their positions (4 bytes each), and their values.
CREATE TABLE flowstone.scatter_block (
    scatter uuid NOT NULL,
    no bigint GENERATED ALWAYS AS IDENTITY,
    first bigint NOT NULL,
    page integer NOT NULL,
    places bytea NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (scatter, page, no)
);

CREATE INDEX scatter_block_committed ON flowstone.scatter_block (scatter, no);
ALTER TABLE flowstone.scatter_block ALTER COLUMN places SET STORAGE EXTERNAL, ALTER COLUMN body SET STORAGE EXTERNAL;

-- Results of scatters with results="rows".
CREATE TABLE flowstone.scatter_result (
    scatter uuid NOT NULL,
    item_no bigint NOT NULL,
    no bigint GENERATED ALWAYS AS IDENTITY,
    value text NOT NULL,
    PRIMARY KEY (scatter, item_no)
);

CREATE INDEX scatter_result_committed ON flowstone.scatter_result (scatter, no);

CREATE TABLE flowstone.scatter_failure (
    scatter uuid NOT NULL,
    item_no bigint NOT NULL,
    at timestamptz NOT NULL,
    attempts integer NOT NULL,
    code text NOT NULL,
    worker text NOT NULL,
    error text NOT NULL,
    PRIMARY KEY (scatter, item_no)
);
