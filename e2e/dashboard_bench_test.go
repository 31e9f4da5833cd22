package e2e_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/history"
	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/testenv"

	"github.com/jackc/pgx/v5/pgxpool"
)

// month fills a database with 30 days of 1,000 transactions a second over 20 gateways with 10 endpoints each, as far
// as they are kept: hours, minutes of the last two days, seconds of the last hour.
func month(tb testing.TB) *pgx.Conn {
	tb.Helper()
	address := testenv.Database(tb)
	pool, err := pgxpool.New(tb.Context(), address)
	if err != nil {
		tb.Fatal(err)
	}
	defer pool.Close()
	if err := history.New(history.Config{}, pool, rollup.NewNames(1)).Maintain(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	conn := testenv.Connect(tb, address)
	for _, r := range []struct {
		resolution, length string
		requests, buckets  int // of an endpoint, in a slot
	}{{"hour", "30 days", 18_000, 40}, {"minute", "2 days", 300, 25}, {"second", "1 hour", 5, 5}} {
		_, err := conn.Exec(tb.Context(), fmt.Sprintf(`
			INSERT INTO tps_rollups (resolution, at, domain, gateway, endpoint, server_id, requests, successes, throttled, held, waited_ms, duration_ms, peak_tps, buckets, counts)
			SELECT '%[1]s', at, 'edge', 'gateway-' || g, 'endpoint-' || e, 'edge-1', %[3]d, %[3]d * 9 / 10, %[3]d / 20, %[3]d / 50, %[3]d, %[3]d * 25, 5 + e, b, c
			FROM generate_series(date_trunc('%[1]s', now() - interval '%[2]s'), now(), interval '1 %[1]s') at, generate_series(1, 20) g, generate_series(1, 10) e,
				(SELECT array_agg((90 + n)::smallint) AS b, array_agg((%[3]d / %[4]d + 1)::bigint) AS c FROM generate_series(1, %[4]d) n) h`,
			r.resolution, r.length, r.requests, r.buckets))
		if err != nil {
			tb.Fatal(err)
		}
	}
	if _, err := conn.Exec(tb.Context(), "ANALYZE tps_rollups"); err != nil {
		tb.Fatal(err)
	}
	return conn
}

// BenchmarkDashboard asks what each panel asks of Postgres, for ranges from half an hour to 30 days.
func BenchmarkDashboard(b *testing.B) {
	conn := month(b)
	for _, r := range []struct {
		name             string
		length, interval time.Duration
	}{{"30 days", 30 * 24 * time.Hour, time.Hour}, {"1 day", 24 * time.Hour, 2 * time.Minute}, {"half an hour", 30 * time.Minute, 2 * time.Second}} {
		for _, p := range loadDashboard(b).Panels {
			for _, q := range p.Targets {
				if q.RawSQL == "" {
					continue
				}
				b.Run(p.Title+"/"+r.name, func(b *testing.B) {
					for b.Loop() {
						rows, err := conn.Query(b.Context(), overRange(q.RawSQL, r.length, r.interval))
						if err != nil {
							b.Fatal(err)
						}
						n := 0
						for rows.Next() {
							n++
						}
						if err := rows.Err(); err != nil {
							b.Fatal(err)
						}
						b.ReportMetric(float64(n), "rows")
					}
					b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/query")
				})
			}
		}
	}
}
