package recorder

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// writeTimeout is when a database that hangs is given up, and another connection tried.
const writeTimeout = 30 * time.Second

// Postgres stores transactions in tps_metrics, and makes its partitions.
type Postgres struct {
	pool     *pgxpool.Pool
	serverID string
}

// NewPostgres returns the sink over a pool, which stays the caller's. serverID goes into each row.
func NewPostgres(pool *pgxpool.Pool, serverID string) *Postgres {
	return &Postgres{pool: pool, serverID: clean(serverID)}
}

// Write stores a batch in one transaction. The error is a *RefusedError where Postgres finds fault
// with the values of a row: SQLSTATE classes 22 (data exception) and 23 (constraint violation).
func (p *Postgres) Write(ctx context.Context, batch []Transaction) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	columns := []string{"gateway", "endpoint", "timestamp", "duration_ms", "success", "domain", "server_id", "status_code", "throttled", "waited_ms"}
	_, err := p.pool.CopyFrom(ctx, pgx.Identifier{"tps_metrics"}, columns, pgx.CopyFromSlice(len(batch), func(i int) ([]any, error) {
		t := &batch[i]
		return []any{t.Gateway, t.Endpoint, t.At, ms(t.Duration), t.Success, t.Domain, p.serverID, t.StatusCode, t.Throttled, ms(t.Waited)}, nil
	}))
	if err == nil {
		return nil
	}
	err = fmt.Errorf("writing %d transactions: %w", len(batch), err)
	if code := sqlState(err); strings.HasPrefix(code, "22") || strings.HasPrefix(code, "23") {
		return &RefusedError{err}
	}
	return err
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// sqlState is empty where Postgres has said nothing.
func sqlState(err error) string {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return refused.Code
	}
	return ""
}
