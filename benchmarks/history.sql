-- :rows materializations of three assets, most of them current for a partition of their own, with their lineage.
INSERT INTO flowstone.materialization
    (id, run_id, size, seconds, started_at, committed_at, attempts, pipeline, asset, io, partition, fingerprint,
     code_hash, inputs, manager, location, host)
SELECT gen_random_uuid(), gen_random_uuid(), 20, 0.001, now(), now(), 1, 'three',
       (ARRAY['raw', 'doubled', 'total'])[n % 3 + 1], '', 'p' || n / 3, md5(n::text), '', '[]', 'postgres', '', 'host'
FROM generate_series(1, :rows) AS n;

INSERT INTO flowstone.asset_key
    (pipeline, asset, io, partition, current, run_id, started_at, completed_at, seconds, attempts, state)
SELECT pipeline, asset, io, partition, id, run_id, started_at, committed_at, seconds, attempts, 'completed'
FROM flowstone.materialization
WHERE partition <> ''
ON CONFLICT DO NOTHING;

ANALYZE flowstone.materialization, flowstone.asset_key;
