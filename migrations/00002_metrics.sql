-- +goose Up
-- A table without partitions, from before there were any, makes room; its rows come over below.
-- +goose StatementBegin
DO $$
BEGIN
    IF (SELECT relkind FROM pg_class WHERE oid = to_regclass('tps_metrics')) = 'r' THEN
        ALTER TABLE tps_metrics RENAME TO tps_metrics_unpartitioned;
        ALTER INDEX IF EXISTS tps_metrics_timestamp RENAME TO tps_metrics_unpartitioned_timestamp;
    END IF;
END $$;
-- +goose StatementEnd

CREATE TABLE IF NOT EXISTS tps_metrics (
    gateway     text             NOT NULL,
    endpoint    text             NOT NULL DEFAULT '',
    timestamp   timestamptz      NOT NULL DEFAULT now(),
    duration_ms double precision NOT NULL DEFAULT 0,
    success     boolean          NOT NULL DEFAULT true,
    domain      text             NOT NULL DEFAULT '',
    server_id   text             NOT NULL DEFAULT '',
    status_code integer          NOT NULL DEFAULT 0,
    throttled   boolean          NOT NULL DEFAULT false,
    waited_ms   double precision NOT NULL DEFAULT 0
) PARTITION BY RANGE (timestamp);

COMMENT ON TABLE tps_metrics IS 'One row per transaction, partitioned by UTC day. ratelimitd makes the partitions seven days ahead.';
COMMENT ON COLUMN tps_metrics.timestamp IS 'when the transaction ended';
COMMENT ON COLUMN tps_metrics.duration_ms IS 'what Envoy measured, less waited_ms';
COMMENT ON COLUMN tps_metrics.throttled IS 'refused by a limit of ratelimitd; an upstream''s own 429 is not';

CREATE TABLE IF NOT EXISTS tps_metrics_default PARTITION OF tps_metrics DEFAULT;

-- +goose StatementBegin
DO $$
BEGIN
    IF to_regclass('tps_metrics_unpartitioned') IS NOT NULL THEN
        -- Every column that both have. What is empty takes the default.
        EXECUTE (
            SELECT format('INSERT INTO tps_metrics (%s) SELECT %s FROM tps_metrics_unpartitioned',
                string_agg(quote_ident(n.attname), ', '),
                string_agg(format(CASE n.attname
                    WHEN 'gateway' THEN 'coalesce(%1$I, ''-'')' WHEN 'timestamp' THEN 'coalesce(%1$I, now())' WHEN 'success' THEN 'coalesce(%1$I, true)'
                    WHEN 'throttled' THEN 'coalesce(%1$I, false)' WHEN 'endpoint' THEN 'coalesce(%1$I, '''')' WHEN 'domain' THEN 'coalesce(%1$I, '''')'
                    WHEN 'server_id' THEN 'coalesce(%1$I, '''')' ELSE 'coalesce(%1$I, 0)' END, n.attname), ', '))
            FROM pg_attribute n JOIN pg_attribute o ON o.attrelid = 'tps_metrics_unpartitioned'::regclass AND o.attname = n.attname
            WHERE n.attrelid = 'tps_metrics'::regclass AND n.attnum > 0 AND NOT n.attisdropped AND NOT o.attisdropped);
        COMMENT ON TABLE tps_metrics_unpartitioned IS 'What tps_metrics was before it had partitions. All rows are in tps_metrics: drop this table when nothing reads it any more.';
    END IF;
END $$;
-- +goose StatementEnd

-- Rows come nearly in the order of time, so a block range index costs next to nothing and
-- still finds an hour of a day.
CREATE INDEX IF NOT EXISTS tps_metrics_timestamp ON tps_metrics USING brin (timestamp) WITH (pages_per_range = 32);

-- +goose Down
DROP TABLE tps_metrics;
