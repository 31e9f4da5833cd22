package history_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tps-agent/ratelimitd/internal/history"
	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/testenv"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// numbered are n endpoints from first on.
func numbered(first, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("e%05d", first+i)
	}
	return all
}

func batchOf(first int64, endpoints ...string) traffic.Batch {
	return traffic.Batch{Source: traffic.Source{Server: "edge-1", Run: "run-1"}, First: first, Transactions: transactionsOf(endpoints...)}
}

func (s *store) assertWritten(tb testing.TB, b traffic.Batch, fresh int) {
	tb.Helper()
	got, err := s.Write(tb.Context(), b)
	if err != nil || got != fresh {
		tb.Errorf("offsets %d to %d: %d new, error %v; want %d", b.First, b.Next(), got, err, fresh)
	}
}

func TestWhatComesAgainIsStoredOnce(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	s.assertWritten(t, batchOf(0, "a", "b", "c"), 3)
	s.assertWritten(t, batchOf(0, "a", "b", "c"), 0)
	s.assertWritten(t, batchOf(1, "b", "c", "d"), 1)
	s.assertWritten(t, batchOf(10, "k"), 1) // what is between was lost before it came here
	s.assertWritten(t, batchOf(4, "e"), 0)
	s.assertWritten(t, traffic.Batch{Source: traffic.Source{Server: "edge-1", Run: "run-1"}, First: 11}, 0)
	other := batchOf(0, "x")
	other.Run = "run-2"
	s.assertWritten(t, other, 1)
	other.Server = "edge-2" // the same process, which was given another name meanwhile
	s.assertWritten(t, other, 0)
	assertEndpoints(t, s.conn, []string{"a", "b", "c", "d", "k", "x"})
	s.assertRollups(t)
}

// Whoever sends a batch to several collectors has it stored by one of them.
func TestOneBatchFromManyWriters(t *testing.T) {
	address := testenv.Database(t)
	var fresh atomic.Int64
	var all sync.WaitGroup
	const writers, batches, size = 4, 20, 50
	for range writers {
		s := openStore(t, address)
		all.Go(func() {
			for b := range batches {
				n, err := s.Write(t.Context(), batchOf(int64(b*size), numbered(b*size, size)...))
				if err != nil {
					t.Errorf("batch %d: %v", b, err)
				}
				fresh.Add(int64(n))
			}
		})
	}
	all.Wait()
	s := openStore(t, address)
	assertEndpoints(t, s.conn, numbered(0, batches*size))
	s.assertRollups(t)
	if fresh.Load() != batches*size {
		t.Errorf("%d transactions were new to somebody, want %d", fresh.Load(), batches*size)
	}
}

// Replicas may be asked to store the same key at once, each in its own name.
func TestOneRunFromManyServers(t *testing.T) {
	address := testenv.Database(t)
	stores := []*store{openStore(t, address), openStore(t, address), openStore(t, address), openStore(t, address)}
	for n := range 30 {
		var all sync.WaitGroup
		for i, s := range stores {
			all.Go(func() {
				b := batchOf(0, numbered(n, 1)...)
				b.Server, b.Run = fmt.Sprint("edge-", i), fmt.Sprint("key:", n)
				if _, err := s.Write(t.Context(), b); err != nil {
					t.Errorf("key %d: %v", n, err)
				}
			})
		}
		all.Wait()
	}
	s := openStore(t, address)
	assertEndpoints(t, s.conn, numbered(0, 30))
	s.assertRollups(t)
}

// forgetful is a connection that breaks when Postgres says that it has committed.
type forgetful struct {
	net.Conn
	armed *atomic.Bool
}

func (c *forgetful) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if bytes.Contains(b[:n], []byte("COMMIT\x00")) && c.armed.CompareAndSwap(true, false) {
		return 0, fmt.Errorf("the answer is lost: %w", net.ErrClosed)
	}
	return n, err
}

func TestACommitWithoutAnAnswer(t *testing.T) {
	var armed atomic.Bool
	s := openStoreWith(t, testenv.Database(t), func(cfg *pgxpool.Config) {
		dial := cfg.ConnConfig.DialFunc
		cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return &forgetful{conn, &armed}, nil
		}
	})
	s.assertWritten(t, batchOf(0, numbered(0, 10)...), 10)
	armed.Store(true)
	if n, err := s.Write(t.Context(), batchOf(10, numbered(10, 10)...)); err == nil {
		t.Fatalf("the answer to a commit was lost, and %d were new without an error", n)
	}
	if armed.Load() {
		t.Fatal("no commit was seen: this test shows nothing")
	}
	s.assertWritten(t, batchOf(10, numbered(10, 10)...), 0)
	s.assertWritten(t, batchOf(15, numbered(15, 10)...), 5)
	assertEndpoints(t, s.conn, numbered(0, 25))
	s.assertRollups(t)
}

// assertRollups wants each rollup to be the sum of its rows.
func (s *store) assertRollups(tb testing.TB) {
	tb.Helper()
	const differ = `
		WITH sums AS (
			SELECT resolution, date_trunc(resolution, timestamp) AS at, domain, gateway, endpoint, server_id, count(*) AS requests,
				count(*) FILTER (WHERE success) AS successes, count(*) FILTER (WHERE m.throttled) AS throttled, count(*) FILTER (WHERE waited_ms > 0) AS held,
				coalesce(sum(duration_ms) FILTER (WHERE NOT m.throttled), 0) AS duration_ms, coalesce(sum(waited_ms), 0) AS waited_ms
			FROM tps_metrics m, (VALUES ('second'), ('minute'), ('hour')) AS r (resolution) GROUP BY 1, 2, 3, 4, 5, 6)
		SELECT count(*) FROM sums s FULL JOIN tps_rollups r USING (resolution, at, domain, gateway, endpoint, server_id)
		WHERE (s.requests, s.successes, s.throttled, s.held) IS DISTINCT FROM (r.requests, r.successes, r.throttled, r.held)
			OR abs(s.duration_ms - r.duration_ms) > 1e-12 * (1 + r.duration_ms) * r.requests OR abs(s.waited_ms - r.waited_ms) > 1e-12 * (1 + r.waited_ms) * r.requests
			OR mod(histogram, 9999999999999999) <> r.requests - r.throttled`
	if n := query[int](tb, s.conn, differ); n != 0 {
		tb.Errorf("%d rollups differ from the sums of the rows", n)
	}
	const peaks = `
		SELECT count(*) FROM tps_rollups r WHERE peak_tps <> (
			SELECT max(requests) FROM tps_rollups s WHERE s.resolution = 'second' AND date_trunc(r.resolution, s.at) = r.at
				AND (s.domain, s.gateway, s.endpoint, s.server_id) = (r.domain, r.gateway, r.endpoint, r.server_id))`
	if n := query[int](tb, s.conn, peaks); n != 0 {
		tb.Errorf("%d rollups have a peak that is not their largest second", n)
	}
}

// random are transactions of a few names within some minutes, with durations of every size.
func random(r *rand.Rand, n int, around time.Time) []traffic.Transaction {
	all := make([]traffic.Transaction, n)
	for i := range all {
		t := traffic.Transaction{
			Domain: []string{"", "edge"}[r.IntN(2)], Gateway: fmt.Sprint("gw", r.IntN(3)), Endpoint: []string{"", "a", "b"}[r.IntN(3)],
			At: around.Add(time.Duration(r.NormFloat64() * float64(time.Minute))), Duration: time.Duration(math.Exp(r.NormFloat64()*2+16)) * time.Nanosecond, StatusCode: 200,
		}
		t.Throttled = r.IntN(5) == 0
		t.Success = !t.Throttled && r.IntN(4) > 0
		if r.IntN(3) == 0 {
			t.Waited = time.Duration(r.IntN(1000)) * time.Millisecond
		}
		all[i] = t
	}
	return all
}

// In whatever pieces transactions come, rollups are the sums of their rows, and percentiles are within 5 %.
func TestRollupsAreTheSumsOfTheRows(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	s.maintain(t)
	r := rand.New(rand.NewPCG(1, 2))
	around := today().Add(13 * time.Hour)
	for range 25 {
		if err := s.put(t.Context(), random(r, 1+r.IntN(400), around)); err != nil {
			t.Fatal(err)
		}
	}
	s.assertRollups(t)
	const percentiles = `
		SELECT q, r.value, d.value FROM unnest('{0,0.01,0.5,0.9,0.95,0.99,0.999,1}'::float8[]) AS q,
			LATERAL (SELECT tps_percentile(q, sum(histogram)) AS value FROM tps_rollups WHERE resolution = $1) AS r,
			LATERAL (SELECT percentile_disc(q) WITHIN GROUP (ORDER BY duration_ms) AS value FROM tps_metrics WHERE NOT throttled) AS d`
	for _, resolution := range []string{"second", "minute", "hour"} {
		rows, err := s.conn.Query(t.Context(), percentiles, resolution)
		if err != nil {
			t.Fatal(err)
		}
		var q, got, want float64
		n := 0
		if _, err := pgx.ForEachRow(rows, []any{&q, &got, &want}, func() error {
			n++
			if math.Abs(got-want) > rollup.RelativeError*want+1e-6 {
				t.Errorf("quantile %g from rollups per %s: %g ms, of the rows %g", q, resolution, got, want)
			}
			return nil
		}); err != nil || n != 8 {
			t.Errorf("%d quantiles, error %v; want 8", n, err)
		}
	}
}

// Of a sample of rows rollups still count all, and what comes again is sampled alike.
func TestSampling(t *testing.T) {
	address := testenv.Database(t)
	for _, c := range []struct {
		share       float64
		least, most int
	}{{0, 0, 0}, {0.1, 800, 1200}, {1, 10_000, 10_000}} {
		s := openStore(t, address)
		s.Store = history.New(history.Config{RawSample: c.share}, s.pool, rollup.NewNames(1000))
		s.exec(t, "TRUNCATE tps_metrics, tps_rollups, tps_offsets")
		b := batchOf(0, slices.Repeat([]string{"pay"}, 10_000)...)
		for i := range b.Transactions {
			b.Transactions[i].Duration = time.Duration(i) * time.Microsecond
		}
		s.assertWritten(t, b, 10_000)
		const kept = "SELECT coalesce(array_agg(round(duration_ms * 1000)::int ORDER BY duration_ms), '{}') FROM tps_metrics"
		first := query[[]int32](t, s.conn, kept)
		if n := len(first); n < c.least || n > c.most {
			t.Errorf("share %g: %d rows of 10,000, want %d to %d", c.share, n, c.least, c.most)
		}
		if n := query[int](t, s.conn, "SELECT sum(requests) FROM tps_rollups WHERE resolution = 'hour'"); n != 10_000 {
			t.Errorf("share %g: rollups have %d requests, want 10,000", c.share, n)
		}
		s.exec(t, "TRUNCATE tps_metrics, tps_rollups, tps_offsets")
		s.assertWritten(t, b, 10_000)
		if diff := cmp.Diff(first, query[[]int32](t, s.conn, kept)); diff != "" {
			t.Errorf("share %g: another sample (-first +second):\n%s", c.share, diff)
		}
	}
}

// Names beyond the bound are `other` in rollups, and themselves in rows.
func TestRollupsHaveBoundedNames(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	s.Store = history.New(history.Config{RawSample: 1}, s.pool, rollup.NewNames(10))
	s.assertWritten(t, batchOf(0, numbered(0, 100)...), 100)
	if n := query[int](t, s.conn, "SELECT count(DISTINCT endpoint) FROM tps_metrics"); n != 100 {
		t.Errorf("rows have %d endpoints, want 100", n)
	}
	if n := query[int](t, s.conn, "SELECT count(DISTINCT endpoint) FROM tps_rollups"); n != 6 {
		t.Errorf("rollups have %d endpoints, want half of the bound and other", n)
	}
	if n := query[int](t, s.conn, "SELECT sum(requests) FROM tps_rollups WHERE resolution = 'minute'"); n != 100 {
		t.Errorf("rollups have %d requests, want 100", n)
	}
}
