package history

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/rollup"
)

// Filter says of what figures are wanted: exact names, empty = all.
type Filter struct{ Domain, Gateway, Endpoint string }

// UnavailableError says that Postgres does not answer.
type UnavailableError struct{ Err error }

func (e *UnavailableError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UnavailableError) Unwrap() error { return e.Err }

// Unavailable tells that a later try may succeed.
func (e *UnavailableError) Unavailable() bool { return true }

// resolution is how fine the figures of a range are.
type resolution struct {
	name   string
	length time.Duration
	keep   time.Duration // 0 = for ever
}

// resolutionOf is seconds up to 10 minutes, minutes up to a day, hours beyond; coarser where what is
// finer is not kept for that long.
func (s *Store) resolutionOf(from, to, now time.Time) resolution {
	const bySecond, byMinute = 10 * time.Minute, day
	r := s.cfg.Retention
	all := [...]resolution{{"second", time.Second, r.Second}, {"minute", time.Minute, r.Minute}, {"hour", time.Hour, r.Hour}}
	first := 0
	if length := to.Sub(from); length > byMinute {
		first = 2
	} else if length > bySecond {
		first = 1
	}
	for _, res := range all[first:2] {
		if res.keep == 0 || from.After(now.Add(-res.keep)) {
			return res
		}
	}
	return all[2]
}

// Stats returns what is stored of a time, by key and by gateway. The range is widened to whole
// seconds, minutes or hours, as fine as its length and its age let it be. TPS of a range in the past is 0.
func (s *Store) Stats(ctx context.Context, from, to time.Time, f Filter) (rollup.Snapshot, error) {
	res := s.resolutionOf(from, to, time.Now())
	snap := rollup.Snapshot{From: from.UTC().Truncate(res.length), To: to.UTC().Truncate(res.length)}
	if snap.To.Before(to) {
		snap.To = snap.To.Add(res.length)
	}
	var err error
	if snap.Keys, err = s.stats(ctx, res, &snap, f); err != nil {
		return snap, &UnavailableError{fmt.Errorf("reading rollups per %s: %w", res.name, err)}
	}
	snap.Gateways, err = s.gatewayPeaks(ctx, res, &snap, f)
	if err != nil {
		return snap, &UnavailableError{fmt.Errorf("reading peaks per %s: %w", res.name, err)}
	}
	return snap, nil
}

// stats merges in Postgres what servers and slots have of a key.
func (s *Store) stats(ctx context.Context, res resolution, snap *rollup.Snapshot, f Filter) (keys []rollup.Stats, err error) {
	rows, err := s.pool.Query(ctx, `
		WITH wanted AS (
			SELECT * FROM tps_rollups WHERE resolution = $1 AND at >= $2 AND at < $3
				AND ($4 = '' OR domain = $4) AND ($5 = '' OR gateway = $5) AND ($6 = '' OR endpoint = $6)),
		slots AS (
			SELECT at, domain, gateway, endpoint, sum(requests) AS requests, sum(successes) AS successes, sum(throttled) AS throttled, sum(held) AS held,
				sum(waited_ms) AS waited_ms, sum(duration_ms) AS duration_ms, sum(peak_tps) AS peak_tps
			FROM wanted GROUP BY 1, 2, 3, 4),
		histograms AS (
			SELECT domain, gateway, endpoint, array_agg(bucket ORDER BY bucket) AS buckets, array_agg(n::bigint ORDER BY bucket) AS counts
			FROM (SELECT domain, gateway, endpoint, bucket, sum(n::float8) AS n FROM wanted, unnest(buckets, counts) AS b (bucket, n) GROUP BY 1, 2, 3, 4) AS merged
			GROUP BY 1, 2, 3)
		SELECT domain, gateway, endpoint, sum(requests)::bigint, sum(successes)::bigint, sum(throttled)::bigint, sum(held)::bigint, sum(waited_ms)::float8, sum(duration_ms)::float8, max(peak_tps)::bigint,
			coalesce(h.buckets, '{}'), coalesce(h.counts, '{}')
		FROM slots LEFT JOIN histograms h USING (domain, gateway, endpoint) GROUP BY 1, 2, 3, h.buckets, h.counts`,
		res.name, snap.From, snap.To, f.Domain, f.Gateway, f.Endpoint)
	if err != nil {
		return nil, err
	}
	var st rollup.Stats
	var waited, duration float64
	var index []int16
	var count []int64
	_, err = pgx.ForEachRow(rows, []any{
		&st.Domain, &st.Gateway, &st.Endpoint, &st.Requests, &st.Successes, &st.Throttled, &st.Held, &waited, &duration, &st.PeakTPS, &index, &count,
	}, func() (err error) {
		st.WaitedUS, st.DurationUS = microseconds(waited), microseconds(duration)
		if st.Histogram, err = rollup.FromPairs(index, count); err != nil {
			return err
		}
		keys = append(keys, st)
		finish(&keys[len(keys)-1], snap)
		return nil
	})
	slices.SortFunc(keys, func(a, b rollup.Stats) int { return a.Compare(b.Key) })
	return keys, err
}

// finish computes what follows from the counts.
func finish(st *rollup.Stats, snap *rollup.Snapshot) {
	st.AverageTPS = float64(st.Requests) / snap.To.Sub(snap.From).Seconds()
	h := &st.Histogram
	st.P50, st.P95, st.P99 = h.Quantile(0.50), h.Quantile(0.95), h.Quantile(0.99)
}

// gatewayPeaks merges the endpoints of each gateway. The peak of a gateway is the largest sum of its
// endpoints' peaks in a slot: of seconds exact, else at most that.
func (s *Store) gatewayPeaks(ctx context.Context, res resolution, snap *rollup.Snapshot, f Filter) (gateways []rollup.Stats, err error) {
	for i := range snap.Keys {
		k := &snap.Keys[i]
		n := len(gateways)
		if n == 0 || gateways[n-1].Domain != k.Domain || gateways[n-1].Gateway != k.Gateway {
			gateways = append(gateways, rollup.Stats{Key: rollup.Key{Domain: k.Domain, Gateway: k.Gateway}})
			n++
		}
		gateways[n-1].Merge(&k.Counts)
	}
	for i := range gateways {
		finish(&gateways[i], snap)
	}
	rows, err := s.pool.Query(ctx, `
		SELECT domain, gateway, max(peak)::bigint FROM (
			SELECT domain, gateway, at, sum(peak_tps) AS peak FROM tps_rollups WHERE resolution = $1 AND at >= $2 AND at < $3
				AND ($4 = '' OR domain = $4) AND ($5 = '' OR gateway = $5) AND ($6 = '' OR endpoint = $6) GROUP BY 1, 2, 3) AS slots
		GROUP BY 1, 2`, res.name, snap.From, snap.To, f.Domain, f.Gateway, f.Endpoint)
	if err != nil {
		return nil, err
	}
	var key rollup.Key
	var peak int64
	_, err = pgx.ForEachRow(rows, []any{&key.Domain, &key.Gateway, &peak}, func() error {
		if at, found := slices.BinarySearchFunc(gateways, key, func(st rollup.Stats, k rollup.Key) int {
			return cmp.Or(cmp.Compare(st.Domain, k.Domain), cmp.Compare(st.Gateway, k.Gateway))
		}); found {
			gateways[at].PeakTPS = peak
		}
		return nil
	})
	return gateways, err
}
