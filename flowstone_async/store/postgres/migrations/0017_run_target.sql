-- Runs by their targets: lists of the runs of an asset that seldom runs, or never did, read no others. Long lists of
-- targets are cut, as an index has no room for them; whoever asks looks at the whole.

CREATE INDEX run_target ON flowstone.run (pipeline, (substr(targets, 1, 200) COLLATE "C"), created_at);
