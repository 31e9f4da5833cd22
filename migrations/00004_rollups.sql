-- +goose Up
CREATE TABLE IF NOT EXISTS tps_offsets (
    run         text        PRIMARY KEY,
    server_id   text        NOT NULL,
    next_offset bigint      NOT NULL,
    at          timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS tps_offsets_at ON tps_offsets (at);

COMMENT ON TABLE tps_offsets IS 'How far each run of a server, and each idempotency key, is stored; moves in the transaction that stores its rows and rollups. ratelimitd removes what was not touched for 30 days, keys after 7.';
COMMENT ON COLUMN tps_offsets.server_id IS 'the last one that has sent it: a process may get another name while transactions wait';

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
    histogram   numeric          NOT NULL DEFAULT 0,
    PRIMARY KEY (domain, gateway, endpoint, at, server_id, resolution)
) PARTITION BY LIST (resolution);

COMMENT ON TABLE tps_rollups IS 'What was measured per second, minute and hour. Rows of several servers add up. ratelimitd makes the partitions seven days ahead.';
COMMENT ON COLUMN tps_rollups.resolution IS 'second, minute or hour';
COMMENT ON COLUMN tps_rollups.at IS 'when the second, minute or hour begins';
COMMENT ON COLUMN tps_rollups.held IS 'transactions that waited at a limit';
COMMENT ON COLUMN tps_rollups.waited_ms IS 'sum of how long they waited';
COMMENT ON COLUMN tps_rollups.duration_ms IS 'sum of durations, of transactions that were not throttled';
COMMENT ON COLUMN tps_rollups.peak_tps IS 'requests of the largest second, of this server';
COMMENT ON COLUMN tps_rollups.histogram IS 'histogram of those durations, for tps_percentile: bucket i has the decimal digits 16*i to 16*i+15, so that + and sum() add histograms';

-- What asks for all keys of a time finds it by this; what asks for the time of one key, by the primary key.
CREATE INDEX IF NOT EXISTS tps_rollups_at ON tps_rollups USING brin (at) WITH (pages_per_range = 32, autosummarize = on);

CREATE TABLE IF NOT EXISTS tps_rollups_second PARTITION OF tps_rollups FOR VALUES IN ('second') PARTITION BY RANGE (at);
CREATE TABLE IF NOT EXISTS tps_rollups_minute PARTITION OF tps_rollups FOR VALUES IN ('minute') PARTITION BY RANGE (at);
CREATE TABLE IF NOT EXISTS tps_rollups_hour PARTITION OF tps_rollups FOR VALUES IN ('hour') PARTITION BY RANGE (at);
CREATE TABLE IF NOT EXISTS tps_rollups_second_default PARTITION OF tps_rollups_second DEFAULT;
CREATE TABLE IF NOT EXISTS tps_rollups_minute_default PARTITION OF tps_rollups_minute DEFAULT;
CREATE TABLE IF NOT EXISTS tps_rollups_hour_default PARTITION OF tps_rollups_hour DEFAULT;

-- Bucket 0 has durations of up to a microsecond, bucket i those from g^(i-1) to g^i of them, where g = 1.05 / 0.95.
-- 0.95 * g^i is within 5 % of each of them (Masson, Rim, Lee: DDSketch, VLDB 2019).
--
-- Postgres sends a numeric as numbers of two bytes: how many digits to the base 10000, the power of the first one,
-- sign, scale, and the digits; zeros at the end are left out. A bucket has four digits, which are eight bytes here.
-- 10^16 leaves 1 when it is divided by 10^16 - 1, so what a histogram leaves is the sum of its buckets.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION tps_percentile(q double precision, histogram numeric) RETURNS double precision
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    total   bigint  := mod(histogram, 9999999999999999);
    above   bigint  := total - least(greatest(ceil(q * total), 1), total);
    sent    bytea   := numeric_send(histogram);
    power   integer := get_byte(sent, 2) * 256 + get_byte(sent, 3);
    buckets bytea   := substr('\x000000000000'::bytea, 1, 2 * (3 - power % 4)) || substr(sent, 9) || '\x000000000000'::bytea;
BEGIN
    IF total = 0 THEN
        RETURN NULL;
    END IF;
    FOR i IN 0 .. power / 4 LOOP -- from the longest durations on, until more are counted than may be above
        above := above
            - (get_byte(buckets, 8 * i)     * 256 + get_byte(buckets, 8 * i + 1)) * 1000000000000
            - (get_byte(buckets, 8 * i + 2) * 256 + get_byte(buckets, 8 * i + 3)) * 100000000::bigint
            - (get_byte(buckets, 8 * i + 4) * 256 + get_byte(buckets, 8 * i + 5)) * 10000
            - (get_byte(buckets, 8 * i + 6) * 256 + get_byte(buckets, 8 * i + 7));
        IF above < 0 THEN
            RETURN 0.95 * (1.05 / 0.95) ^ (power / 4 - i)::double precision / 1000;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

COMMENT ON FUNCTION tps_percentile(double precision, numeric) IS 'The q-quantile of a histogram of tps_rollups, in milliseconds, by nearest rank, exact to 5 %; NULL where it is empty. Of many rows: SELECT gateway, tps_percentile(0.95, sum(histogram)) FROM tps_rollups WHERE resolution = ''hour'' AND ... GROUP BY gateway';

-- +goose Down
DROP FUNCTION tps_percentile(double precision, numeric);
DROP TABLE tps_rollups;
DROP TABLE tps_offsets;
