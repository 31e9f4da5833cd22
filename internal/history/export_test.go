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

// AppendHistograms and ReadHistogram are the form of histograms.
var (
	AppendHistograms = appendHistograms
	ReadHistogram    = readHistogram
)

// ResolutionOf is the name of what Stats reads.
func ResolutionOf(keeps Retention, from, to, now time.Time) string {
	s := Store{cfg: Config{Retention: keeps}}
	return s.resolutionOf(from, to, now).name
}
