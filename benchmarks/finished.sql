-- :rows finished runs of the pipeline, oldest first, with no more than a run needs.
INSERT INTO flowstone.run
    (id, fence, created_at, finished_at, continuable, state, pipeline, partition, targets, options, params, submitted)
SELECT (lpad(to_hex(n >> 16), 8, '0') || '-' || lpad(to_hex(n & 65535), 4, '0') || '-7000-8000-000000000000')::uuid,
    1, now() - (:rows - n) * interval '1 millisecond', now(), true, 'succeeded', 'three', '', '[]', '{}', '{}', true
FROM generate_series(1, :rows) AS n;

VACUUM (ANALYZE) flowstone.run;
