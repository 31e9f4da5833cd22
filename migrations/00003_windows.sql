-- +goose Up
-- Every row that there is counts per second, by a token bucket.
ALTER TABLE tps_limits
    ADD COLUMN per_seconds bigint NOT NULL DEFAULT 1 CHECK (per_seconds BETWEEN 1 AND 31622400),
    ADD COLUMN algorithm   text   NOT NULL DEFAULT 'token_bucket' CHECK (algorithm IN ('token_bucket', 'fixed_window', 'sliding_window')),
    ADD CONSTRAINT tps_limits_burst_of_token_bucket CHECK (burst IS NULL OR algorithm = 'token_bucket'),
    DROP CONSTRAINT tps_limits_key,
    ADD CONSTRAINT tps_limits_key UNIQUE NULLS NOT DISTINCT (domain, gateway, endpoint, per, per_seconds);

COMMENT ON COLUMN tps_limits.max_tps IS 'transactions per second, or per window of per_seconds; 0 refuses everything';
COMMENT ON COLUMN tps_limits.burst IS 'capacity of a token bucket; NULL = a tenth of a second, at least min(max_tps, 10); for a longer window max_tps';
COMMENT ON COLUMN tps_limits.per_seconds IS 'length of the window; rows that differ in it alone apply side by side';
COMMENT ON COLUMN tps_limits.algorithm IS 'token_bucket: room comes back evenly; fixed_window: at the multiples of the window since 1970 UTC; sliding_window: never more than max_tps in any window';

-- +goose Down
DELETE FROM tps_limits WHERE per_seconds <> 1;
ALTER TABLE tps_limits
    DROP CONSTRAINT tps_limits_key,
    DROP COLUMN per_seconds,
    DROP COLUMN algorithm,
    ADD CONSTRAINT tps_limits_key UNIQUE NULLS NOT DISTINCT (domain, gateway, endpoint, per);
COMMENT ON COLUMN tps_limits.max_tps IS NULL;
COMMENT ON COLUMN tps_limits.burst IS 'capacity of the bucket; NULL = a tenth of a second, at least min(max_tps, 10)';
