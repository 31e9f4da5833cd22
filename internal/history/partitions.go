package history

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	daysAhead = 7       // partitions are made for today and so many days ahead
	mostMoved = 100_000 // rows that are moved from the default partition into a new one
	day       = 24 * time.Hour
)

// family is a table that is partitioned by ranges of time.
type family struct {
	table  string // its partitions are called after it, with the first day of each
	column string // of the time
	days   int    // that a partition covers, counted from 1970
	fill   int    // percent of a page that new rows fill
	keep   time.Duration
}

// families have room in their pages for the next version of rows that are written again and again.
// Without it each version goes to another page, with new entries in the indexes: a row of an hour to
// which a batch is added every ten seconds leaves 147 KB behind until the next VACUUM, with it 1.6.
func (s *Store) families() [4]family {
	const week, month = 7, 28
	const whole, most, half = 100, 70, 50
	r := s.cfg.Retention
	return [...]family{
		{"tps_metrics", "timestamp", 1, whole, r.Raw},
		{"tps_rollups_second", "at", 1, most, r.Second},
		{"tps_rollups_minute", "at", week, half, r.Minute},
		{"tps_rollups_hour", "at", month, half, r.Hour},
	}
}

// span is what one partition covers, in UTC.
type span struct{ from, to time.Time }

// span is the one that holds a time.
func (f *family) span(t time.Time) span {
	length := time.Duration(f.days) * day
	from := t.UTC().Truncate(day)
	from = from.Add(-(time.Duration(from.Unix())*time.Second%length + length) % length)
	return span{from, from.Add(length)}
}

func (f *family) name(s span) string { return f.table + "_" + s.from.Format("20060102") }

// Maintain makes the partitions of today and the next seven days, in UTC, and drops those that are
// older than Config.Retention. Rows that are in a default partition already move into a new one. A
// partition that would have too many of them is not made, and neither is one whose time a partition
// of somebody else covers; the error names the first kind only. Replicas may call it at the same time.
func (s *Store) Maintain(ctx context.Context) error { return s.maintain(ctx, time.Now()) }

func (s *Store) maintain(ctx context.Context, now time.Time) error {
	var left []error
	for _, f := range s.families() {
		if err := s.makeAhead(ctx, &f, now); err != nil {
			if _, crowded := errors.AsType[*crowdedError](err); !crowded {
				return err
			}
			left = append(left, err)
		}
		if err := s.dropOld(ctx, &f, now); err != nil {
			return fmt.Errorf("dropping old partitions of %s: %w", f.table, err)
		}
	}
	if err := s.forgetSources(ctx); err != nil {
		return err
	}
	return errors.Join(left...)
}

func (s *Store) makeAhead(ctx context.Context, f *family, now time.Time) error {
	var left []error
	last := now.Add(daysAhead * day)
	for sp := f.span(now); !sp.from.After(last); sp = f.span(sp.to) {
		err := s.makePartition(ctx, f, sp)
		crowded, ok := errors.AsType[*crowdedError](err)
		switch {
		case ok:
			left = append(left, crowded)
		case err != nil:
			return fmt.Errorf("making the partition of %s from %s: %w", f.table, sp.from.Format(time.DateOnly), err)
		}
	}
	return errors.Join(left...)
}

// crowdedError says that rows stay in a default partition.
type crowdedError struct {
	partition string
	span      span
}

func (e *crowdedError) Error() string {
	return fmt.Sprintf("%s holds more than %d rows from %s on, before %s, which stay there: move them by hand",
		e.partition, mostMoved, e.span.from.Format(time.DateOnly), e.span.to.Format(time.DateOnly))
}

// overlaps is the SQLSTATE of a partition whose range is not free.
const overlaps = "42P17"

func (s *Store) makePartition(ctx context.Context, f *family, sp span) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	var there bool
	const known = "SELECT to_regclass($1) IS NOT NULL"
	if err := s.pool.QueryRow(ctx, known, f.name(sp)).Scan(&there); err != nil || there {
		return err
	}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := f.lock(ctx, tx, "SHARE ROW EXCLUSIVE"); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, known, f.name(sp)).Scan(&there); err != nil || there {
			return err
		}
		return f.attach(ctx, tx, sp)
	})
	if sqlState(err) == overlaps {
		return nil
	}
	return err
}

// lock keeps other replicas out, and writers for the moment that a partition takes: rows of its span
// must not come into the default partition any more. Whoever waits here for a long query must not
// make everybody else wait behind, so it gives up soon.
func (f *family) lock(ctx context.Context, tx pgx.Tx, mode string) error {
	_, err := tx.Exec(ctx, fmt.Sprintf(`
		SELECT pg_advisory_xact_lock(hashtext('tps_metrics'), 0);
		SET LOCAL lock_timeout = '2s';
		LOCK TABLE ONLY %s IN %s MODE`, f.table, mode), pgx.QueryExecModeSimpleProtocol)
	return err
}

// attach makes the partition and moves into it what the default one has of its span, since Postgres
// refuses a partition while the default one holds rows of its range.
func (f *family) attach(ctx context.Context, tx pgx.Tx, sp span) error {
	from, err := f.defaultPartition(ctx, tx)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("CREATE TABLE %s (LIKE %s INCLUDING ALL) WITH (fillfactor = %d)", f.name(sp), f.table, f.fill)); err != nil {
		return err
	}
	if from != "" {
		if err := f.moveRows(ctx, tx, from, sp); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, fmt.Sprintf("ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')",
		f.table, f.name(sp), sp.from.Format(time.RFC3339), sp.to.Format(time.RFC3339)))
	return err
}

// defaultPartition is fit to be written into SQL, and empty where somebody has removed it.
func (f *family) defaultPartition(ctx context.Context, q querier) (name string, err error) {
	err = q.QueryRow(ctx, `SELECT coalesce(
		(SELECT partdefid::regclass::text FROM pg_partitioned_table WHERE partrelid = $1::regclass AND partdefid <> 0), '')`, f.table).Scan(&name)
	return name, err
}

// querier is a pool or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// moveRows moves the rows of a span, unless they are too many.
func (f *family) moveRows(ctx context.Context, tx pgx.Tx, from string, sp span) error {
	var rows int
	count := fmt.Sprintf("SELECT count(*) FROM (SELECT FROM %s WHERE %[2]s >= $1 AND %[2]s < $2 LIMIT $3) r", from, f.column)
	if err := tx.QueryRow(ctx, count, sp.from, sp.to, mostMoved+1).Scan(&rows); err != nil {
		return err
	}
	if rows > mostMoved {
		return &crowdedError{from, sp}
	}
	_, err := tx.Exec(ctx, fmt.Sprintf(`WITH moved AS (DELETE FROM %s WHERE %[2]s >= $1 AND %[2]s < $2 RETURNING *)
		INSERT INTO %[3]s SELECT * FROM moved`, from, f.column, f.name(sp)), sp.from, sp.to)
	return err
}
