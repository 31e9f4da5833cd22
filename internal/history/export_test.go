package history

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// MaintainAt is Maintain at another time.
func (s *Store) MaintainAt(ctx context.Context, now time.Time) error { return s.maintain(ctx, now) }

// CopyRows is the part of Write that writes rows.
func (s *Store) CopyRows(ctx context.Context, ts []traffic.Transaction) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return copyRows(ctx, tx, ts, "edge-1") })
}
