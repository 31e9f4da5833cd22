package pgsync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// UnavailableError says that the database could not be written to, or that the change is not in
// force here yet.
type UnavailableError struct{ Err error }

func (e *UnavailableError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Unavailable tells the API to answer 503.
func (e *UnavailableError) Unavailable() bool { return true }

const upsert = `INSERT INTO tps_limits (domain, gateway, endpoint, per, max_tps, enabled, burst, max_wait_ms, shadow, note)
VALUES ($1, $2, nullif($3, ''), nullif($4, ''), $5, $6, nullif($7::bigint, 0), $8, $9, $10)
ON CONFLICT ON CONSTRAINT tps_limits_key DO UPDATE SET max_tps = excluded.max_tps, enabled = excluded.enabled,
	burst = excluded.burst, max_wait_ms = excluded.max_wait_ms, shadow = excluded.shadow, note = excluded.note`

const whereKey = " WHERE domain = $1 AND gateway = $2 AND endpoint IS NOT DISTINCT FROM nullif($3, '') AND per IS NOT DISTINCT FROM nullif($4, '')"

// Put writes one whole row and returns it as stored, once it is in force on this replica. who
// goes into the history. Errors: *UnavailableError while Postgres is away.
func (s *Sync) Put(ctx context.Context, l limits.Limit, who string) (limits.Limit, error) {
	var stored limits.Limit
	err := s.write(ctx, who, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, upsert, l.Domain, l.Gateway, l.Endpoint, l.Per, l.MaxTPS, l.Enabled, l.Burst, l.MaxWaitMS, l.Shadow, l.Note); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT "+columns+" FROM tps_limits"+whereKey, l.Domain, l.Gateway, l.Endpoint, l.Per)
		if err != nil {
			return err
		}
		stored, err = pgx.CollectExactlyOneRow(rows, scanLimit)
		return err
	})
	if err != nil {
		return limits.Limit{}, fmt.Errorf("writing the limit %s: %w", l.Key, err)
	}
	return stored, s.inForce(ctx, stored.Version)
}

// Delete removes the row of exactly this key and returns once it is no longer in force on this
// replica. Errors: limits.ErrNotFound, *UnavailableError while Postgres is away.
func (s *Sync) Delete(ctx context.Context, key limits.Key, who string) error {
	var id int64
	err := s.write(ctx, who, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "DELETE FROM tps_limits"+whereKey, key.Domain, key.Gateway, key.Endpoint, key.Per)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return limits.ErrNotFound
		}
		id, err = newestID(ctx, tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("deleting the limit %s: %w", key, err)
	}
	return s.inForce(ctx, id)
}

// write runs f in a transaction. Whatever Postgres itself does not refuse is a fault of the way
// to it.
func (s *Sync) write(ctx context.Context, who string, f func(pgx.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.QueryTimeout)
	defer cancel()
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT set_config('ratelimitd.who', $1, true)", who); err != nil {
			return err
		}
		return f(tx)
	})
	var refused *pgconn.PgError
	if err == nil || errors.Is(err, limits.ErrNotFound) || (errors.As(err, &refused) && refused.Code[:2] == "23") {
		return err
	}
	return &UnavailableError{err}
}

// inForce waits until the table in force holds the change.
func (s *Sync) inForce(ctx context.Context, id int64) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.QueryTimeout)
	defer cancel()
	for {
		s.mu.Lock()
		applied := s.applied
		s.mu.Unlock()
		if t := s.current.Load(); t != nil && t.ID() >= id {
			return nil
		}
		select {
		case s.kick <- struct{}{}:
		default:
		}
		select {
		case <-applied:
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return &UnavailableError{fmt.Errorf("change %d is stored, but not in force here yet: %w", id, ctx.Err())}
		}
	}
}
