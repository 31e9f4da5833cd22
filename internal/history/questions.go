package history

import (
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
// seconds, minutes or hours, as fine as its length and its age let it be. TPS is the mean of the
// newest ten seconds of which all servers have stored what they measured: they ended Config.FlushInterval
// and five seconds ago. Of a range that does not reach to now it is 0. A peak is the largest sum of the
// peaks of servers, and of endpoints for a gateway, in a slot: of seconds exact, of minutes and hours at
// most that.
func (s *Store) Stats(ctx context.Context, from, to time.Time, f Filter) (rollup.Snapshot, error) {
	now := time.Now()
	res := s.resolutionOf(from, to, now)
	snap := rollup.Snapshot{From: from.UTC().Truncate(res.length), To: to.UTC().Truncate(res.length)}
	if snap.To.Before(to) {
		snap.To = snap.To.Add(res.length)
	}
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{BeginQuery: beginRead}, func(tx pgx.Tx) error {
		args := []any{res.name, snap.From, snap.To, f.Domain, f.Gateway, f.Endpoint}
		if err := readKeys(ctx, tx, &snap, args); err != nil {
			return err
		}
		if err := readPeaks(ctx, tx, &snap, args); err != nil || now.Sub(to) > toNow {
			return err
		}
		return s.readTPS(ctx, tx, &snap, args, now)
	})
	if err != nil {
		return snap, &UnavailableError{fmt.Errorf("reading rollups per %s: %w", res.name, err)}
	}
	for _, all := range [...][]rollup.Stats{snap.Keys, snap.Gateways} {
		for i := range all {
			finish(&all[i], &snap)
		}
	}
	return snap, nil
}

// beginRead begins what reads the same in each of its statements. To compile them would take longer
// than to run them, and the peaks of a month need some memory.
const beginRead = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL jit = off; SET LOCAL work_mem = '64MB'"

// wanted are the rows of a range; its parameters are args of Stats.
const wanted = ` FROM tps_rollups WHERE resolution = $1 AND at >= $2 AND at < $3
	AND ($4 = '' OR domain = $4) AND ($5 = '' OR gateway = $5) AND ($6 = '' OR endpoint = $6)`

// readKeys reads the figures of keys, which Postgres has merged, and merges those of gateways.
func readKeys(ctx context.Context, tx pgx.Tx, snap *rollup.Snapshot, args []any) error {
	rows, err := tx.Query(ctx, `
		SELECT domain, gateway, endpoint, sum(requests)::bigint, sum(successes)::bigint, sum(throttled)::bigint, sum(held)::bigint,
			sum(waited_ms), sum(duration_ms), numeric_send(sum(histogram))`+wanted+`
		GROUP BY domain, gateway, endpoint`, args...)
	if err != nil {
		return err
	}
	var st rollup.Stats
	var waited, duration float64
	var histogram []byte
	_, err = pgx.ForEachRow(rows, []any{
		&st.Domain, &st.Gateway, &st.Endpoint, &st.Requests, &st.Successes, &st.Throttled, &st.Held, &waited, &duration, &histogram,
	}, func() (err error) {
		st.Waited, st.Duration = rollup.TotalOf(waited), rollup.TotalOf(duration)
		st.Histogram, err = readHistogram(histogram)
		snap.Keys = append(snap.Keys, st)
		return err
	})
	slices.SortFunc(snap.Keys, func(a, b rollup.Stats) int { return a.Compare(b.Key) })
	snap.Gateways = gatewaysOf(snap.Keys)
	return err
}

// gatewaysOf merges keys, which are sorted.
func gatewaysOf(keys []rollup.Stats) (gateways []rollup.Stats) {
	for i := range keys {
		key := rollup.Key{Domain: keys[i].Domain, Gateway: keys[i].Gateway}
		if n := len(gateways); n == 0 || gateways[n-1].Key != key {
			gateways = append(gateways, rollup.Stats{Key: key})
		}
		gateways[len(gateways)-1].Merge(&keys[i].Counts)
	}
	return gateways
}

// readPeaks adds the peaks of keys, and of gateways, whose endpoint is NULL.
func readPeaks(ctx context.Context, tx pgx.Tx, snap *rollup.Snapshot, args []any) error {
	rows, err := tx.Query(ctx, `
		SELECT domain, gateway, endpoint, max(peak)::bigint FROM (
			SELECT domain, gateway, endpoint, sum(peak_tps) AS peak`+wanted+` GROUP BY GROUPING SETS ((at, domain, gateway, endpoint), (at, domain, gateway))) AS slots
		GROUP BY domain, gateway, endpoint`, args...)
	if err != nil {
		return err
	}
	var key rollup.Key
	var endpoint *string
	var peak int64
	_, err = pgx.ForEachRow(rows, []any{&key.Domain, &key.Gateway, &endpoint, &peak}, func() error {
		stats := snap.Gateways
		if key.Endpoint = ""; endpoint != nil {
			stats, key.Endpoint = snap.Keys, *endpoint
		}
		if i, found := find(stats, key); found {
			stats[i].PeakTPS = peak
		}
		return nil
	})
	return err
}

const (
	toNow   = 2 * time.Second  // a range that ends so long ago ends now
	storing = 5 * time.Second  // until what was measured is stored, beside FlushInterval: Envoy sends every second, and a write takes its time
	tpsSpan = 10 * time.Second // that TPS is the mean of
)

// readTPS adds what is measured now.
func (s *Store) readTPS(ctx context.Context, tx pgx.Tx, snap *rollup.Snapshot, args []any, now time.Time) error {
	end := now.Add(-s.cfg.FlushInterval - storing).Truncate(time.Second)
	rows, err := tx.Query(ctx, `SELECT domain, gateway, endpoint, sum(requests)::bigint`+wanted+` GROUP BY domain, gateway, endpoint`,
		append([]any{"second", end.Add(-tpsSpan), end}, args[3:]...)...)
	if err != nil {
		return err
	}
	var key rollup.Key
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&key.Domain, &key.Gateway, &key.Endpoint, &n}, func() error {
		addTPS(snap.Keys, key, n)
		addTPS(snap.Gateways, rollup.Key{Domain: key.Domain, Gateway: key.Gateway}, n)
		return nil
	})
	const seconds = int64(tpsSpan / time.Second)
	for _, all := range [...][]rollup.Stats{snap.Keys, snap.Gateways} {
		for i := range all {
			all[i].TPS = (all[i].TPS + seconds/2) / seconds
		}
	}
	return err
}

// addTPS adds requests to the TPS of a key. One of which there is nothing in the range is passed over.
func addTPS(sorted []rollup.Stats, key rollup.Key, n int64) {
	if i, found := find(sorted, key); found {
		sorted[i].TPS += n
	}
}

func find(sorted []rollup.Stats, key rollup.Key) (i int, found bool) {
	return slices.BinarySearchFunc(sorted, key, func(st rollup.Stats, k rollup.Key) int { return st.Compare(k) })
}

// finish computes what follows from the counts.
func finish(st *rollup.Stats, snap *rollup.Snapshot) {
	st.AverageTPS = float64(st.Requests) / snap.To.Sub(snap.From).Seconds()
	h := &st.Histogram
	st.P50, st.P95, st.P99 = h.Quantile(0.50), h.Quantile(0.95), h.Quantile(0.99)
}
