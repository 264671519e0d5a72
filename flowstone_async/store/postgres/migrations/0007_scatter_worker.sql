-- Who runs a scatter, and how many bodies each may run; see docs/adr/0008-scatter.md.

CREATE TABLE flowstone.scatter_worker (
    scatter uuid NOT NULL,
    no bigint GENERATED ALWAYS AS IDENTITY,
    permits integer,
    hungry boolean NOT NULL,
    worker text COLLATE "C" NOT NULL,
    PRIMARY KEY (scatter, worker)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON COLUMN flowstone.scatter_worker.no IS 'who came first gets one more where permits do not divide';
COMMENT ON COLUMN flowstone.scatter_worker.permits IS 'bodies that it may run at once; NULL for no bound';
COMMENT ON COLUMN flowstone.scatter_worker.hungry IS 'whether it could run more than it has';
