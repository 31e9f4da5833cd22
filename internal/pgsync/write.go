package pgsync

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// UnavailableError says that the database could not be written to, or that the change is not in
// force here yet. Where the connection broke during the commit it may have been made.
type UnavailableError struct{ Err error }

func (e *UnavailableError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Unavailable tells the API to answer 503.
func (e *UnavailableError) Unavailable() bool { return true }

const upsert = `INSERT INTO tps_limits (domain, gateway, endpoint, per, per_seconds, max_tps, enabled, burst, max_wait_ms, shadow, note, algorithm)
VALUES ($1, $2, nullif($3, ''), nullif($4, ''), $5, $6, $7, nullif($8::bigint, 0), $9, $10, $11, $12)
ON CONFLICT ON CONSTRAINT tps_limits_key DO UPDATE SET max_tps = excluded.max_tps, enabled = excluded.enabled,
	burst = excluded.burst, max_wait_ms = excluded.max_wait_ms, shadow = excluded.shadow, note = excluded.note, algorithm = excluded.algorithm`

const whereKey = ` WHERE domain = $1 AND gateway = $2 AND endpoint IS NOT DISTINCT FROM nullif($3, '') AND per IS NOT DISTINCT FROM nullif($4, '')
	AND per_seconds = $5`

func keyArgs(k limits.Key) []any { return []any{k.Domain, k.Gateway, k.Endpoint, k.Per, k.Seconds()} }

// needWindows refuses to write where the schema is that of an older release.
func needWindows(ctx context.Context, tx pgx.Tx) error {
	has, err := hasWindows(ctx, tx)
	if err == nil && !has {
		err = errors.New("tps_limits has no column per_seconds yet: run `ratelimitd migrate`")
	}
	return err
}

// Put writes one whole row and returns it as stored, once it is in force on this replica. A row
// that is there already stays as it is, version included. who goes into the history. Errors:
// limits.FieldError for a row out of bounds, *UnavailableError while Postgres is away.
func (s *Sync) Put(ctx context.Context, l limits.Limit, who string) (limits.Limit, error) {
	if err := l.Validate(); err != nil {
		return limits.Limit{}, fmt.Errorf("writing the limit %s: %w", l.Key, err)
	}
	var stored limits.Limit
	err := s.write(ctx, who, func(ctx context.Context, tx pgx.Tx) error {
		if err := needWindows(ctx, tx); err != nil {
			return err
		}
		key := keyArgs(l.Key)
		_, err := tx.Exec(ctx, upsert, append(key, l.MaxTPS, l.Enabled, l.Burst, l.MaxWaitMS, l.Shadow, l.Note, l.Algorithm.String())...)
		if err != nil {
			return err
		}
		var r row
		err = tx.QueryRow(ctx, "SELECT "+columns+" FROM tps_limits"+whereKey, key...).Scan(r.targets()...)
		if err != nil {
			return err
		}
		stored, err = r.limit()
		return err
	})
	if err == nil {
		err = s.inForce(ctx, stored.Version)
	}
	if err != nil {
		return limits.Limit{}, fmt.Errorf("writing the limit %s: %w", l.Key, err)
	}
	return stored, nil
}

// Delete removes the row of exactly this key and returns once it is no longer in force on this
// replica. Errors: limits.ErrNotFound, *UnavailableError while Postgres is away.
func (s *Sync) Delete(ctx context.Context, key limits.Key, who string) error {
	if err := key.Validate(); err != nil {
		return fmt.Errorf("deleting the limit %s: %w", key, err)
	}
	var id int64
	err := s.write(ctx, who, func(ctx context.Context, tx pgx.Tx) error {
		if err := needWindows(ctx, tx); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, "DELETE FROM tps_limits"+whereKey, keyArgs(key)...)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return limits.ErrNotFound
		}
		id, err = s.newestID(ctx, tx)
		return err
	})
	if err == nil {
		err = s.inForce(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("deleting the limit %s: %w", key, err)
	}
	return nil
}

// write runs f in a transaction, unless the database is one that is not believed.
func (s *Sync) write(ctx context.Context, who string, f func(context.Context, pgx.Tx) error) error {
	s.mu.Lock()
	pool, cause := s.pool, s.cause
	s.mu.Unlock()
	if pool == nil {
		return &UnavailableError{errors.New("there is no connection to Postgres yet, or no longer")}
	}
	if errors.Is(cause, errOlder) || errors.Is(cause, errEmptied) {
		return &UnavailableError{cause}
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.QueryTimeout)
	defer cancel()
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		// A lock that is not to be had in time is given up by Postgres, which can say so.
		lockTimeout := strconv.FormatInt((s.cfg.QueryTimeout * 4 / 5).Milliseconds(), 10)
		_, err := tx.Exec(ctx, "SELECT set_config('ratelimitd.who', $1, true), set_config('lock_timeout', $2, true)", who, lockTimeout)
		if err != nil {
			return err
		}
		return f(ctx, tx)
	})
	return classify(err)
}

// classify tells a change that Postgres refuses for what it says from a fault of the way to it.
func classify(err error) error {
	if err == nil || errors.Is(err, limits.ErrNotFound) {
		return err
	}
	refused, ok := errors.AsType[*pgconn.PgError](err)
	switch {
	case ok && refused.Code == "55P03": // lock_not_available
		return &UnavailableError{fmt.Errorf("another transaction has changed tps_limits and does not end: %w", err)}
	case ok && refused.Code[:2] == "23": // integrity_constraint_violation, by a constraint that Validate does not know
		return &limits.FieldError{Field: "row", Value: refused.TableName, Reason: "is refused by the constraint " + refused.ConstraintName}
	}
	return &UnavailableError{err}
}

// inForce waits until the table in force holds the change and is known to be current.
func (s *Sync) inForce(ctx context.Context, id int64) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.QueryTimeout)
	defer cancel()
	const kickEvery = 100 * time.Millisecond
	again := time.NewTicker(kickEvery)
	defer again.Stop()
	for {
		s.mu.Lock()
		applied, current := s.applied, s.cause == nil
		s.mu.Unlock()
		if current && s.current.Load().ID() >= id {
			return nil
		}
		select {
		case s.kick <- struct{}{}:
		default:
		}
		select {
		case <-applied:
		case <-again.C:
		case <-ctx.Done():
			return &UnavailableError{fmt.Errorf("change %d is stored, but not in force here yet: %w", id, ctx.Err())}
		}
	}
}
