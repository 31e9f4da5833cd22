package recorder

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	partitionDays = 7       // partitions are made for today and so many days ahead
	mostMoved     = 100_000 // rows that are moved from the default partition into a new one
)

// Maintain makes the partitions of today and the next seven days, in UTC. Rows of such a day that
// are in the default partition already move into it. A day with too many of them stays there, and
// so does one that a partition of somebody else covers; the error names the first kind only.
// Replicas may call it at the same time.
func (p *Postgres) Maintain(ctx context.Context) error {
	today := time.Now().UTC().Truncate(24 * time.Hour)
	var left []error
	for ahead := range partitionDays + 1 {
		day := today.AddDate(0, 0, ahead)
		err := p.makePartition(ctx, day)
		crowded, ok := errors.AsType[*crowdedError](err)
		switch {
		case ok:
			left = append(left, crowded)
		case err != nil:
			return fmt.Errorf("making the partition of %s: %w", day.Format(time.DateOnly), err)
		}
	}
	return errors.Join(left...)
}

// crowdedError says that a day stays in the default partition.
type crowdedError struct{ day time.Time }

func (e *crowdedError) Error() string {
	return fmt.Sprintf("tps_metrics_default holds more than %d rows of %s, which stay there: move them by hand", mostMoved, e.day.Format(time.DateOnly))
}

// overlaps is the SQLSTATE of a partition whose range is not free.
const overlaps = "42P17"

func (p *Postgres) makePartition(ctx context.Context, day time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	name := "tps_metrics_" + day.Format("20060102")
	var there bool
	if err := p.pool.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", name).Scan(&there); err != nil || there {
		return err
	}
	err := pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		if err := lockPartitions(ctx, tx); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", name).Scan(&there); err != nil || there {
			return err
		}
		return attachPartition(ctx, tx, name, day)
	})
	if sqlState(err) == overlaps {
		return nil
	}
	return err
}

// lockPartitions keeps other replicas out, and writers for the moment that a partition takes:
// rows of its day must not come into the default partition any more. Readers go on. Whoever
// waits here for a long query must not make everybody else wait behind, so it gives up soon.
func lockPartitions(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `
		SELECT pg_advisory_xact_lock(hashtext('tps_metrics'), 0);
		SET LOCAL lock_timeout = '2s';
		LOCK TABLE ONLY tps_metrics IN SHARE ROW EXCLUSIVE MODE`)
	return err
}

// attachPartition makes the partition and moves into it what the default one has of its day, since
// Postgres refuses a partition while the default one holds rows of its range.
func attachPartition(ctx context.Context, tx pgx.Tx, name string, day time.Time) error {
	from, err := defaultPartition(ctx, tx)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("CREATE TABLE %s (LIKE tps_metrics INCLUDING ALL)", name)); err != nil {
		return err
	}
	if from != "" {
		if err := moveRows(ctx, tx, from, name, day); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, fmt.Sprintf("ALTER TABLE tps_metrics ATTACH PARTITION %s FOR VALUES FROM ('%s') TO ('%s')",
		name, day.Format(time.RFC3339), day.AddDate(0, 0, 1).Format(time.RFC3339)))
	return err
}

// defaultPartition is fit to be written into SQL, and empty where somebody has removed it.
func defaultPartition(ctx context.Context, tx pgx.Tx) (name string, err error) {
	err = tx.QueryRow(ctx, `SELECT coalesce(
		(SELECT partdefid::regclass::text FROM pg_partitioned_table WHERE partrelid = 'tps_metrics'::regclass AND partdefid <> 0), '')`).Scan(&name)
	return name, err
}

// moveRows moves the rows of a day, unless they are too many.
func moveRows(ctx context.Context, tx pgx.Tx, from, to string, day time.Time) error {
	next := day.AddDate(0, 0, 1)
	var rows int
	count := fmt.Sprintf("SELECT count(*) FROM (SELECT FROM %s WHERE timestamp >= $1 AND timestamp < $2 LIMIT $3) r", from)
	if err := tx.QueryRow(ctx, count, day, next, mostMoved+1).Scan(&rows); err != nil {
		return err
	}
	if rows > mostMoved {
		return &crowdedError{day}
	}
	_, err := tx.Exec(ctx, fmt.Sprintf(`WITH moved AS (DELETE FROM %s WHERE timestamp >= $1 AND timestamp < $2 RETURNING *)
		INSERT INTO %s SELECT * FROM moved`, from, to), day, next)
	return err
}
