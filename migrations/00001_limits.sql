-- +goose Up
-- +goose StatementBegin
CREATE FUNCTION tps_valid_name(name text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN octet_length(name) BETWEEN 1 AND 255 AND name !~ '[\x01-\x1f\x7f-\u009f]';
-- +goose StatementEnd

CREATE TABLE IF NOT EXISTS tps_limits (
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
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    version     bigint      NOT NULL DEFAULT 0,
    CONSTRAINT tps_limits_key UNIQUE NULLS NOT DISTINCT (domain, gateway, endpoint, per)
);

COMMENT ON TABLE tps_limits IS 'At most max_tps transactions per second for a gateway (endpoint NULL), an endpoint, or each value of the descriptor key per. A change is in force on every replica at once.';
COMMENT ON COLUMN tps_limits.version IS 'id in tps_limits_history of the change that made the row what it is; set by a trigger';

CREATE TABLE IF NOT EXISTS tps_limits_history (
    id     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    who    text        NOT NULL,
    before jsonb,
    after  jsonb
);

COMMENT ON TABLE tps_limits_history IS 'One entry per changed row of tps_limits, in the order of their commits. Replicas read what is after the last id that they know.';

-- Writers go one after the other: whoever takes this lock holds it to the end of the
-- transaction, so that ids are given in the order of commits. It is taken before any row
-- lock; a row trigger would take it after, and two writers could wait for each other.
-- +goose StatementBegin
CREATE FUNCTION tps_limits_serialise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('tps_limits'), 0);
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION tps_limits_stamp() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.created_at := OLD.created_at;
        NEW.version := OLD.version;
        NEW.updated_at := OLD.updated_at;
        IF NEW IS NOT DISTINCT FROM OLD THEN
            RETURN NULL; -- nothing changes: no entry, no notification
        END IF;
    END IF;
    NEW.updated_at := clock_timestamp();
    NEW.version := nextval(pg_get_serial_sequence('tps_limits_history', 'id'));
    RETURN NEW;
END $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION tps_limits_record() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    author text := coalesce(nullif(current_setting('ratelimitd.who', true), ''), session_user);
    newest bigint;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO tps_limits_history (who, before)
            SELECT author, to_jsonb(l) FROM tps_limits l;
        PERFORM pg_notify('tps_limits', coalesce(max(id), 0)::text) FROM tps_limits_history;
        RETURN NULL;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO tps_limits_history (who, before) VALUES (author, to_jsonb(OLD)) RETURNING id INTO newest;
    ELSE
        newest := NEW.version;
        INSERT INTO tps_limits_history (id, who, before, after) OVERRIDING SYSTEM VALUE
            VALUES (newest, author, CASE WHEN TG_OP = 'UPDATE' THEN to_jsonb(OLD) END, to_jsonb(NEW));
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- One notification per statement, however many rows it changed.
-- +goose StatementBegin
CREATE FUNCTION tps_limits_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tps_limits', coalesce(max(id), 0)::text) FROM tps_limits_history;
    RETURN NULL;
END $$;
-- +goose StatementEnd

CREATE TRIGGER tps_limits_1_serialise BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON tps_limits
    FOR EACH STATEMENT EXECUTE FUNCTION tps_limits_serialise();
CREATE TRIGGER tps_limits_2_stamp BEFORE INSERT OR UPDATE ON tps_limits
    FOR EACH ROW EXECUTE FUNCTION tps_limits_stamp();
CREATE TRIGGER tps_limits_3_record AFTER INSERT OR UPDATE OR DELETE ON tps_limits
    FOR EACH ROW EXECUTE FUNCTION tps_limits_record();
CREATE TRIGGER tps_limits_3_record_truncate BEFORE TRUNCATE ON tps_limits
    FOR EACH STATEMENT EXECUTE FUNCTION tps_limits_record();
CREATE TRIGGER tps_limits_4_notify AFTER INSERT OR UPDATE OR DELETE ON tps_limits
    FOR EACH STATEMENT EXECUTE FUNCTION tps_limits_notify();

-- +goose Down
DROP TABLE tps_limits;
DROP TABLE tps_limits_history;
DROP FUNCTION tps_limits_serialise, tps_limits_stamp, tps_limits_record, tps_limits_notify, tps_valid_name;
