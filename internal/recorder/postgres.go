package recorder

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	writeTimeout  = 30 * time.Second // of a batch; a database that hangs is given up then
	partitionDays = 7                // partitions are made this many days ahead of today
)

// Postgres stores transactions in tps_metrics.
type Postgres struct {
	pool     *pgxpool.Pool
	serverID string
}

// NewPostgres returns the sink over a pool. serverID goes into each row.
func NewPostgres(pool *pgxpool.Pool, serverID string) *Postgres {
	return &Postgres{pool: pool, serverID: serverID}
}

// Write stores a batch in one transaction.
func (p *Postgres) Write(ctx context.Context, batch []Transaction) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	columns := []string{"gateway", "endpoint", "timestamp", "duration_ms", "success", "domain", "server_id", "status_code", "throttled", "waited_ms"}
	_, err := p.pool.CopyFrom(ctx, pgx.Identifier{"tps_metrics"}, columns, pgx.CopyFromSlice(len(batch), func(i int) ([]any, error) {
		t := &batch[i]
		return []any{t.Gateway, t.Endpoint, t.At, ms(t.Duration), t.Success, t.Domain, p.serverID, int32(t.StatusCode), t.Throttled, ms(t.Waited)}, nil //nolint:gosec // 0 to 999
	}))
	if err == nil {
		return nil
	}
	err = fmt.Errorf("writing %d transactions: %w", len(batch), err)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && (refused.Code[:2] == "22" || refused.Code[:2] == "23") {
		return &RefusedError{err}
	}
	return err
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// partitionLock is the advisory lock under which one replica makes partitions.
const partitionLock = "SELECT pg_advisory_xact_lock(hashtext('tps_metrics'), 0)"

// Maintain makes the partitions of today and the next seven days, in UTC. Rows of such a day
// that are in the default partition already move into it.
func (p *Postgres) Maintain(ctx context.Context) error {
	today := time.Now().UTC().Truncate(24 * time.Hour)
	for day := range partitionDays + 1 {
		from := today.AddDate(0, 0, day)
		if err := p.makePartition(ctx, from); err != nil {
			return fmt.Errorf("making the partition of %s: %w", from.Format(time.DateOnly), err)
		}
	}
	return nil
}

func (p *Postgres) makePartition(ctx context.Context, from time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	name := "tps_metrics_" + from.Format("20060102")
	var there bool
	if err := p.pool.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", name).Scan(&there); err != nil || there {
		return err
	}
	return pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, partitionLock); err != nil {
			return err
		}
		if err := tx.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", name).Scan(&there); err != nil || there {
			return err
		}
		// Postgres refuses a partition while the default one holds rows of its range. Names and
		// times are this function's own.
		low, high := from.Format(time.RFC3339), from.AddDate(0, 0, 1).Format(time.RFC3339)
		_, err := tx.Exec(ctx, fmt.Sprintf(`
			LOCK TABLE tps_metrics IN ACCESS EXCLUSIVE MODE;
			CREATE TABLE %[1]s (LIKE tps_metrics INCLUDING ALL);
			WITH moved AS (DELETE FROM tps_metrics_default WHERE timestamp >= '%[2]s' AND timestamp < '%[3]s' RETURNING *)
				INSERT INTO %[1]s SELECT * FROM moved;
			ALTER TABLE tps_metrics ATTACH PARTITION %[1]s FOR VALUES FROM ('%[2]s') TO ('%[3]s')`, name, low, high))
		return err
	})
}
