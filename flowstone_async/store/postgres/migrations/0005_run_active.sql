-- What is active, by state first: who looks for runs without a live owner reads no run that is queued, and nothing that live
-- workers own or have owned.

DROP INDEX flowstone.run_active;
CREATE INDEX run_active ON flowstone.run (pipeline, state, worker, created_at, id) WHERE finished_at IS NULL;
