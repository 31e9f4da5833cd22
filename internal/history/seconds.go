package history

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/rollup"
)

// Seconds returns how many requests a key had in each second from one time to before another, those
// that were throttled included, in ascending order; seconds without any are left out. Without an
// endpoint it is all endpoints of the gateway together.
func (s *Store) Seconds(ctx context.Context, key rollup.Key, from, to time.Time) (iter.Seq2[int64, int64], error) {
	rows, err := s.pool.Query(ctx, `
		SELECT extract(epoch FROM at)::bigint, sum(requests)::bigint FROM tps_rollups
		WHERE resolution = 'second' AND at >= $1 AND at < $2 AND domain = $3 AND gateway = $4 AND ($5 = '' OR endpoint = $5)
		GROUP BY at ORDER BY at`, from, to, key.Domain, key.Gateway, key.Endpoint)
	if err != nil {
		return nil, &UnavailableError{fmt.Errorf("reading rollups per second: %w", err)}
	}
	type count struct{ second, requests int64 }
	counts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c count, err error) {
		err = row.Scan(&c.second, &c.requests)
		return c, err
	})
	if err != nil {
		return nil, &UnavailableError{fmt.Errorf("reading rollups per second: %w", err)}
	}
	return func(yield func(int64, int64) bool) {
		for _, c := range counts {
			if !yield(c.second, c.requests) {
				return
			}
		}
	}, nil
}

// KeepsSeconds is how long seconds are kept; 0 = for ever.
func (s *Store) KeepsSeconds() time.Duration { return s.cfg.Retention.Second }
