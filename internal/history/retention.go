package history

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	mostDeleted = 100_000 // rows of a default partition that one statement deletes
	mostDeletes = 10      // such statements of one Maintain
	// A source that has sent nothing for this long is forgotten: what comes again of it then is new.
	runAge, keyAge = 30 * day, 7 * day
)

// dropOld drops the partitions that are older than what is kept, and deletes such rows of the
// default partition, a bounded number at a time.
func (s *Store) dropOld(ctx context.Context, f *family, now time.Time) error {
	if f.keep <= 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	before := now.Add(-f.keep)
	old, err := s.oldPartitions(ctx, f, before)
	if err != nil {
		return err
	}
	for _, name := range old {
		if err := s.drop(ctx, f, name); err != nil {
			return err
		}
	}
	return s.deleteOld(ctx, f, before)
}

// oldPartitions are those that ratelimitd has made, by their name, and whose bounds say that all of
// them is before a time. Names are fit to be written into SQL.
func (s *Store) oldPartitions(ctx context.Context, f *family, before time.Time) ([]string, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT c.oid::regclass::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
		WHERE i.inhparent = $1::regclass AND c.relname ~ ('^' || $1 || '_[0-9]{8}$')
			AND (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz <= $2
		ORDER BY 1`, f.table, before)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// drop removes a partition. It needs the table for itself for a moment, and gives up soon where a
// long query has it.
func (s *Store) drop(ctx context.Context, f *family, partition string) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := f.lock(ctx, tx, "ACCESS EXCLUSIVE"); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "DROP TABLE IF EXISTS "+partition)
		return err
	})
}

// deleteOld deletes old rows for which there was no partition. What is beyond its bounds is left to
// the next Maintain.
func (s *Store) deleteOld(ctx context.Context, f *family, before time.Time) error {
	from, err := f.defaultPartition(ctx, s.pool)
	if err != nil || from == "" {
		return err
	}
	sql := fmt.Sprintf("DELETE FROM %[1]s WHERE ctid = ANY (ARRAY (SELECT ctid FROM %[1]s WHERE %[2]s < $1 LIMIT $2))", from, f.column)
	for range mostDeletes {
		tag, err := s.pool.Exec(ctx, sql, before, mostDeleted)
		if err != nil || tag.RowsAffected() < mostDeleted {
			return err
		}
	}
	return nil
}

// forgetSources removes the offsets of what has sent nothing for long, some at a time.
func (s *Store) forgetSources(ctx context.Context) error {
	const pieces = 100
	for range pieces {
		n, err := s.forgetSome(ctx)
		if err != nil {
			return fmt.Errorf("forgetting old sources: %w", err)
		}
		if n < mostDeleted {
			break
		}
	}
	return nil
}

func (s *Store) forgetSome(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	tag, err := s.pool.Exec(ctx, `DELETE FROM tps_offsets WHERE run IN (
		SELECT run FROM tps_offsets WHERE at < now() - $1::interval AND (run LIKE 'key:%' OR at < now() - $2::interval) ORDER BY at LIMIT $3)`,
		keyAge, runAge, mostDeleted)
	return tag.RowsAffected(), err
}
