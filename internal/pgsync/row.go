package pgsync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// columns of tps_limits in the order of row.targets. Dates that Go's JSON cannot write are as
// good as unknown.
const columns = `domain, gateway, endpoint, per, max_tps, enabled, burst, max_wait_ms, shadow, note, version,
	per_seconds, algorithm, CASE WHEN created_at BETWEEN '0001-01-01Z' AND '9999-12-30Z' THEN created_at END,
	CASE WHEN updated_at BETWEEN '0001-01-01Z' AND '9999-12-30Z' THEN updated_at END`

// columnsOf is columns as the schema has them: before migration 3 there are no windows.
func columnsOf(ctx context.Context, q queryer) (string, error) {
	has, err := hasWindows(ctx, q)
	if err != nil || has {
		return columns, err
	}
	return strings.Replace(columns, "per_seconds, algorithm", "NULL::bigint, NULL::text", 1), nil
}

func hasWindows(ctx context.Context, q queryer) (has bool, err error) {
	err = q.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'tps_limits'::regclass AND attname = 'per_seconds' AND NOT attisdropped)").Scan(&has)
	if err != nil {
		return false, fmt.Errorf("looking for the column per_seconds: %w", err)
	}
	return has, nil
}

// row is a row of tps_limits as it is stored, or one side of an entry of the history. Constraints
// may have been dropped, so that every column can be NULL.
type row struct {
	Domain    pgtype.Text `json:"domain"`
	Gateway   pgtype.Text `json:"gateway"`
	Endpoint  pgtype.Text `json:"endpoint"`
	Per       pgtype.Text `json:"per"`
	MaxTPS    pgtype.Int8 `json:"max_tps"`
	Enabled   pgtype.Bool `json:"enabled"`
	Burst     pgtype.Int8 `json:"burst"`
	MaxWaitMS pgtype.Int8 `json:"max_wait_ms"`
	Shadow    pgtype.Bool `json:"shadow"`
	Note      pgtype.Text `json:"note"`
	Version   pgtype.Int8 `json:"version"`
	CreatedAt moment      `json:"created_at"`
	UpdatedAt moment      `json:"updated_at"`

	// These are NULL before the migration that added them: then they have their defaults.
	PerSeconds pgtype.Int8 `json:"per_seconds"`
	Algorithm  pgtype.Text `json:"algorithm"`
}

func (r *row) targets() []any {
	return []any{
		&r.Domain, &r.Gateway, &r.Endpoint, &r.Per, &r.MaxTPS, &r.Enabled, &r.Burst, &r.MaxWaitMS, &r.Shadow, &r.Note, &r.Version,
		&r.PerSeconds, &r.Algorithm, &r.CreatedAt, &r.UpdatedAt,
	}
}

func (r *row) key() limits.Key {
	return limits.Key{
		Domain: r.Domain.String, Gateway: r.Gateway.String, Endpoint: r.Endpoint.String, Per: r.Per.String, PerSeconds: r.PerSeconds.Int64,
	}.Canonical()
}

// limit returns what the row says, and all that is wrong with it, each as a [limits.FieldError].
func (r *row) limit() (limits.Limit, error) {
	algorithm, unknown := limits.ParseAlgorithm(r.Algorithm.String)
	l := limits.Limit{
		Key: r.key(), Algorithm: algorithm, MaxTPS: r.MaxTPS.Int64, Enabled: r.Enabled.Bool, Burst: r.Burst.Int64, MaxWaitMS: r.MaxWaitMS.Int64,
		Shadow: r.Shadow.Bool, Note: r.Note.String, Version: r.Version.Int64,
		CreatedAt: time.Time(r.CreatedAt), UpdatedAt: time.Time(r.UpdatedAt),
	}
	return l, errors.Join(r.faults(), l.Validate(), unknown)
}

// faults are those that a Limit cannot show, because a NULL looks like a value in it, or the
// other way round.
func (r *row) faults() error {
	var errs []error
	for _, c := range [...]struct {
		name  string
		valid bool
	}{{"max_tps", r.MaxTPS.Valid}, {"enabled", r.Enabled.Valid}, {"max_wait_ms", r.MaxWaitMS.Valid}, {"shadow", r.Shadow.Valid}} {
		if !c.valid {
			errs = append(errs, &limits.FieldError{Field: c.name, Value: "NULL", Reason: "must have a value"})
		}
	}
	for _, c := range [...]struct {
		name  string
		value pgtype.Text
	}{{"endpoint", r.Endpoint}, {"per", r.Per}} {
		if c.value.Valid && c.value.String == "" {
			errs = append(errs, &limits.FieldError{Field: c.name, Value: `""`, Reason: "is empty; NULL is the row without it"})
		}
	}
	if r.PerSeconds.Valid && r.PerSeconds.Int64 == 0 {
		errs = append(errs, limits.CheckSeconds(0))
	}
	if r.Burst.Valid && r.Burst.Int64 == 0 {
		errs = append(errs, &limits.FieldError{Field: "burst", Value: "0", Reason: fmt.Sprintf("is not within 1 to %d", limits.MaxBurst)})
	}
	return errors.Join(errs...)
}

// moment is a time, or the zero time where there is none that can be used. Nothing depends on it.
type moment time.Time

// ScanTimestamptz implements [pgtype.TimestamptzScanner].
func (m *moment) ScanTimestamptz(v pgtype.Timestamptz) error {
	*m = moment{}
	if v.Valid && v.InfinityModifier == pgtype.Finite {
		*m = moment(v.Time.UTC())
	}
	return nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (m *moment) UnmarshalJSON(body []byte) error {
	var t time.Time
	if json.Unmarshal(body, &t) != nil { // infinity, before Christ, after the year 9999
		t = time.Time{}
	}
	*m = moment(t.UTC())
	return nil
}
