-- +goose Up
CREATE TABLE IF NOT EXISTS tps_offsets (
    server_id   text        NOT NULL,
    run         text        NOT NULL,
    next_offset bigint      NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (server_id, run)
);

COMMENT ON TABLE tps_offsets IS 'How far each run of each server is stored; moves in the transaction that stores its rows and rollups. ratelimitd removes what was not touched for 30 days.';

CREATE TABLE IF NOT EXISTS tps_rollups (
    resolution  text             NOT NULL,
    at          timestamptz      NOT NULL,
    domain      text             NOT NULL DEFAULT '',
    gateway     text             NOT NULL,
    endpoint    text             NOT NULL DEFAULT '',
    server_id   text             NOT NULL DEFAULT '',
    requests    bigint           NOT NULL DEFAULT 0,
    successes   bigint           NOT NULL DEFAULT 0,
    throttled   bigint           NOT NULL DEFAULT 0,
    held        bigint           NOT NULL DEFAULT 0,
    waited_ms   double precision NOT NULL DEFAULT 0,
    duration_ms double precision NOT NULL DEFAULT 0,
    peak_tps    bigint           NOT NULL DEFAULT 0,
    buckets     smallint[]       NOT NULL DEFAULT '{}',
    counts      bigint[]         NOT NULL DEFAULT '{}',
    PRIMARY KEY (resolution, at, domain, gateway, endpoint, server_id)
) PARTITION BY LIST (resolution);

COMMENT ON TABLE tps_rollups IS 'What was measured per second, minute and hour. Rows of several servers add up. ratelimitd makes the partitions seven days ahead.';
COMMENT ON COLUMN tps_rollups.resolution IS 'second, minute or hour';
COMMENT ON COLUMN tps_rollups.at IS 'when the second, minute or hour begins';
COMMENT ON COLUMN tps_rollups.held IS 'transactions that waited at a limit';
COMMENT ON COLUMN tps_rollups.waited_ms IS 'sum of how long they waited';
COMMENT ON COLUMN tps_rollups.duration_ms IS 'sum of durations, of transactions that were not throttled';
COMMENT ON COLUMN tps_rollups.peak_tps IS 'requests of the largest second, of this server';
COMMENT ON COLUMN tps_rollups.buckets IS 'histogram of those durations: the numbers of its buckets, for tps_percentile';
COMMENT ON COLUMN tps_rollups.counts IS 'and how many durations each of these has';

CREATE TABLE IF NOT EXISTS tps_rollups_second PARTITION OF tps_rollups FOR VALUES IN ('second') PARTITION BY RANGE (at);
CREATE TABLE IF NOT EXISTS tps_rollups_minute PARTITION OF tps_rollups FOR VALUES IN ('minute') PARTITION BY RANGE (at);
CREATE TABLE IF NOT EXISTS tps_rollups_hour PARTITION OF tps_rollups FOR VALUES IN ('hour') PARTITION BY RANGE (at);
CREATE TABLE IF NOT EXISTS tps_rollups_second_default PARTITION OF tps_rollups_second DEFAULT;
CREATE TABLE IF NOT EXISTS tps_rollups_minute_default PARTITION OF tps_rollups_minute DEFAULT;
CREATE TABLE IF NOT EXISTS tps_rollups_hour_default PARTITION OF tps_rollups_hour DEFAULT;

-- Bucket 0 has durations of up to a microsecond, bucket i those from g^(i-1) to g^i of them, where g = 1.05 / 0.95.
-- 0.95 * g^i is within 5 % of each of them (Masson, Rim, Lee: DDSketch, VLDB 2019).
-- A loop in PL/pgSQL takes a fifth of what unnest and window functions do.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tps_percentile(q double precision, buckets smallint[], counts double precision[]) RETURNS double precision
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    n    double precision;
    rank double precision := 0;
    upto double precision := 0;
    i    integer := 0;
BEGIN
    FOREACH n IN ARRAY counts LOOP
        rank := rank + n;
    END LOOP;
    rank := greatest(ceil(q * rank), 1);
    FOREACH n IN ARRAY counts LOOP
        i := i + 1;
        upto := upto + n;
        IF upto >= rank THEN
            RETURN 0.95 * (1.05 / 0.95) ^ buckets[i]::double precision / 1000;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

COMMENT ON FUNCTION tps_percentile(double precision, smallint[], double precision[]) IS 'The q-quantile in milliseconds of a histogram of tps_rollups, by nearest rank, exact to 5 %; NULL where it is empty. Buckets must be in ascending order. To merge rows, sum the counts by bucket first: SELECT tps_percentile(0.95, array_agg(bucket ORDER BY bucket), array_agg(n ORDER BY bucket)) FROM (SELECT bucket, sum(n::float8) AS n FROM tps_rollups, unnest(buckets, counts) AS b (bucket, n) WHERE ... GROUP BY bucket) AS merged';

-- +goose Down
DROP FUNCTION tps_percentile(double precision, smallint[], double precision[]);
DROP TABLE tps_rollups;
DROP TABLE tps_offsets;
