-- +goose Up
-- A name has 1 to 255 bytes and no control character (U+0000 cannot be stored at all).
-- +goose StatementBegin
CREATE FUNCTION tps_valid_name(name text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN octet_length(name) BETWEEN 1 AND 255 AND name !~ '[\x01-\x1f\x7f-\u009f]';
-- +goose StatementEnd

CREATE TABLE tps_limits (
    domain      text        NOT NULL DEFAULT '' CHECK (domain = '' OR tps_valid_name(domain)),
    gateway     text        NOT NULL CHECK (tps_valid_name(gateway)),
    endpoint    text        CHECK (tps_valid_name(endpoint)),
    per         text        CHECK (tps_valid_name(per)),
    max_tps     bigint      NOT NULL DEFAULT 1000 CHECK (max_tps BETWEEN 0 AND 1000000000),
    enabled     boolean     NOT NULL DEFAULT true,
    burst       bigint      CHECK (burst BETWEEN 1 AND 1000000000),
    max_wait_ms bigint      NOT NULL DEFAULT 0 CHECK (max_wait_ms BETWEEN 0 AND 1800000),
    shadow      boolean     NOT NULL DEFAULT false,
    note        text        NOT NULL DEFAULT '' CHECK (octet_length(note) <= 4096),
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
                            CHECK (created_at BETWEEN '1970-01-01 00:00:00Z' AND '9999-12-31 00:00:00Z'),
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    version     bigint      NOT NULL DEFAULT 0,
    CONSTRAINT tps_limits_key UNIQUE NULLS NOT DISTINCT (domain, gateway, endpoint, per)
);

COMMENT ON TABLE tps_limits IS 'At most max_tps transactions per second for a gateway (endpoint NULL), an endpoint, or each value of the descriptor key per. A change is in force on every replica at once. An UPDATE that changes nothing is not made.';
COMMENT ON COLUMN tps_limits.domain IS 'one tenant; empty = the rows for every domain that has no row of its own';
COMMENT ON COLUMN tps_limits.endpoint IS 'NULL = the whole gateway';
COMMENT ON COLUMN tps_limits.per IS 'descriptor key of which each value has the limit for itself; NULL = all requests together';
COMMENT ON COLUMN tps_limits.burst IS 'capacity of the bucket; NULL = a tenth of a second, at least min(max_tps, 10)';
COMMENT ON COLUMN tps_limits.max_wait_ms IS 'a request without room may wait this long; 0 = it is refused at once';
COMMENT ON COLUMN tps_limits.updated_at IS 'set by a trigger, whatever a statement says';
COMMENT ON COLUMN tps_limits.version IS 'id in tps_limits_history of the change that made the row what it is; set by a trigger';

CREATE TABLE tps_limits_history (
    id     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    who    text        NOT NULL,
    before jsonb,
    after  jsonb
);

COMMENT ON TABLE tps_limits_history IS 'One entry per changed row of tps_limits, in the order of commits; ids may have gaps. Replicas read what is after the last id that they know: old entries may be deleted, the newest must stay.';
COMMENT ON COLUMN tps_limits_history.who IS 'the setting ratelimitd.who of the transaction, else the role that logged in';
COMMENT ON COLUMN tps_limits_history.before IS 'NULL = the row was made';
COMMENT ON COLUMN tps_limits_history.after IS 'NULL = the row was deleted';

-- Every function below keeps the search_path of this migration, so that a session with
-- another one writes to the same history.

-- Writers go one after the other: whoever takes this lock holds it to the end of the
-- transaction, so that ids are given in the order of commits. A statement trigger takes it
-- before the statement locks any row. A row trigger would take it after, and two writers
-- could wait for each other. (Who locks rows by SELECT ... FOR UPDATE first can still do
-- that; Postgres then ends one of the two with an error.)
-- +goose StatementBegin
CREATE FUNCTION tps_limits_serialise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('tps_limits'), 0);
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- Ids are taken in the order in which rows change, also within one statement that both
-- deletes and inserts. AFTER triggers run when the statement has ended, so INSERT and UPDATE
-- take theirs here, and DELETE writes its entry in a BEFORE trigger. (INSERT must not: with
-- ON CONFLICT its BEFORE trigger runs for rows that are not inserted.)
-- +goose StatementBegin
CREATE FUNCTION tps_limits_stamp() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.created_at := OLD.created_at;
        NEW.updated_at := OLD.updated_at;
        NEW.version := OLD.version;
        IF NEW IS NOT DISTINCT FROM OLD THEN
            RETURN NULL; -- nothing changes: the row is left alone, and there is no entry
        END IF;
    END IF;
    NEW.updated_at := clock_timestamp();
    NEW.version := nextval('tps_limits_history_id_seq');
    RETURN NEW;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION tps_limits_author() RETURNS text LANGUAGE sql STABLE
    RETURN coalesce(nullif(current_setting('ratelimitd.who', true), ''), session_user);
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION tps_limits_record() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO tps_limits_history (id, who, before, after) OVERRIDING SYSTEM VALUE
        VALUES (NEW.version, tps_limits_author(), CASE WHEN TG_OP = 'UPDATE' THEN to_jsonb(OLD) END, to_jsonb(NEW));
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION tps_limits_record_delete() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO tps_limits_history (who, before) VALUES (tps_limits_author(), to_jsonb(OLD));
    RETURN OLD;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION tps_limits_record_truncate() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    -- TRUNCATE removes every row, also those that an old snapshot does not see.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION 'truncating tps_limits needs the isolation level read committed, or DELETE'
            USING ERRCODE = 'feature_not_supported';
    END IF;
    INSERT INTO tps_limits_history (who, before)
        SELECT tps_limits_author(), to_jsonb(l) FROM tps_limits l;
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- One notification per statement, however many rows it changed.
-- +goose StatementBegin
CREATE FUNCTION tps_limits_notify() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_notify('tps_limits', coalesce(max(id), 0)::text) FROM tps_limits_history;
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- Triggers of one moment run in the order of their names.
CREATE TRIGGER tps_limits_1_serialise BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON tps_limits
    FOR EACH STATEMENT EXECUTE FUNCTION tps_limits_serialise();
CREATE TRIGGER tps_limits_2_stamp BEFORE INSERT OR UPDATE ON tps_limits
    FOR EACH ROW EXECUTE FUNCTION tps_limits_stamp();
CREATE TRIGGER tps_limits_3_record AFTER INSERT OR UPDATE ON tps_limits
    FOR EACH ROW EXECUTE FUNCTION tps_limits_record();
CREATE TRIGGER tps_limits_3_record_delete BEFORE DELETE ON tps_limits
    FOR EACH ROW EXECUTE FUNCTION tps_limits_record_delete();
CREATE TRIGGER tps_limits_3_record_truncate BEFORE TRUNCATE ON tps_limits
    FOR EACH STATEMENT EXECUTE FUNCTION tps_limits_record_truncate();
CREATE TRIGGER tps_limits_4_notify AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON tps_limits
    FOR EACH STATEMENT EXECUTE FUNCTION tps_limits_notify();

-- +goose Down
DROP TABLE tps_limits;
DROP TABLE tps_limits_history;
DROP FUNCTION tps_limits_serialise, tps_limits_stamp, tps_limits_author, tps_limits_record,
    tps_limits_record_delete, tps_limits_record_truncate, tps_limits_notify, tps_valid_name;
