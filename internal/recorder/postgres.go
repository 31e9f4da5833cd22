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
// with the values of a row.
func (p *Postgres) Write(ctx context.Context, batch []Transaction) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err := p.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error { return p.copyRows(ctx, conn.Conn(), batch) })
	if err == nil {
		return nil
	}
	err = fmt.Errorf("writing %d transactions: %w", len(batch), err)
	if refuses(sqlState(err)) {
		return &RefusedError{err}
	}
	return err
}

// copyRows forgets after an error what the connection knew of the table: a migration may have
// changed the kind of a column, and values of the old kind would never be taken.
func (p *Postgres) copyRows(ctx context.Context, conn *pgx.Conn, batch []Transaction) error {
	columns := []string{"gateway", "endpoint", "timestamp", "duration_ms", "success", "domain", "server_id", "status_code", "throttled", "waited_ms"}
	_, err := conn.CopyFrom(ctx, pgx.Identifier{"tps_metrics"}, columns, pgx.CopyFromSlice(len(batch), func(i int) ([]any, error) {
		t := &batch[i]
		return []any{t.Gateway, t.Endpoint, t.At, ms(t.Duration), t.Success, t.Domain, p.serverID, t.StatusCode, t.Throttled, ms(t.Waited)}, nil
	}))
	if err != nil {
		_ = conn.DeallocateAll(ctx) // where it fails the connection is gone, and what it knew
	}
	return err
}

// refuses tells whether Postgres finds fault with the values of a row: data exception, constraint
// violation, program limit (a row too large for an index), or what a trigger raises. A value of the
// wrong kind (22P03) is no fault of the row.
func refuses(code string) bool {
	if len(code) != 5 || code == "22P03" {
		return false
	}
	switch code[:2] {
	case "22", "23", "54", "P0":
		return true
	}
	return false
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// sqlState is empty where Postgres has said nothing.
func sqlState(err error) string {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return refused.Code
	}
	return ""
}
