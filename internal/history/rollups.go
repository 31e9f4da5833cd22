package history

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/rollup"
)

// mergeRollups adds the counts of a batch to those that are stored of the server. Whoever calls
// holds its lock (lockSource), so that what is read here is still true when it is written.
func mergeRollups(ctx context.Context, tx pgx.Tx, g *rollup.Groups, server string) error {
	var c columns
	c.append("second", g.Seconds)
	c.append("minute", g.Minutes)
	c.append("hour", g.Hours)
	if err := c.addStored(ctx, tx, server); err != nil {
		return fmt.Errorf("reading rollups: %w", err)
	}
	for i := range g.Seconds {
		s := &g.Seconds[i]
		s.Peak = s.Requests
		g.Raise(s.Slot, s.Requests)
	}
	for _, row := range c.rows {
		c.fill(row)
	}
	if err := c.store(ctx, tx, server); err != nil {
		return fmt.Errorf("writing rollups: %w", err)
	}
	return nil
}

// columns are rows as Postgres takes them: an array for each column.
type columns struct {
	rows []*rollup.Row

	resolution                                    []string
	at                                            []time.Time
	domain, gateway, endpoint                     []string
	requests, successes, throttled, held, peakTPS []int64
	waitedMS, durationMS                          []float64
	buckets, counts                               []string // literals of arrays: an array of arrays must be a matrix
}

// append adds the slots and keys of rows.
func (c *columns) append(resolution string, rows []rollup.Row) {
	for i := range rows {
		r := &rows[i]
		c.rows, c.resolution, c.at = append(c.rows, r), append(c.resolution, resolution), append(c.at, time.Unix(r.Unix, 0))
		c.domain, c.gateway, c.endpoint = append(c.domain, r.Domain), append(c.gateway, r.Gateway), append(c.endpoint, r.Endpoint)
	}
}

// addStored adds what the table has of the same slots. OFFSET 0 makes Postgres look each of them up
// by the index of its partition; else it may read whole partitions instead.
func (c *columns) addStored(ctx context.Context, tx pgx.Tx, server string) error {
	stored, err := tx.Query(ctx, `
		SELECT i.n, r.requests, r.successes, r.throttled, r.held, r.waited_ms, r.duration_ms, r.peak_tps, r.buckets, r.counts
		FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY AS i (resolution, at, domain, gateway, endpoint, n),
			LATERAL (SELECT * FROM tps_rollups t WHERE t.resolution = i.resolution AND t.at = i.at
				AND t.domain = i.domain AND t.gateway = i.gateway AND t.endpoint = i.endpoint AND t.server_id = $6 OFFSET 0) AS r`,
		c.resolution, c.at, c.domain, c.gateway, c.endpoint, server)
	if err != nil {
		return err
	}
	var n, peak int64
	var counts rollup.Counts
	var waited, duration float64
	var index []int16
	var count []int64
	_, err = pgx.ForEachRow(stored, []any{
		&n, &counts.Requests, &counts.Successes, &counts.Throttled, &counts.Held, &waited, &duration, &peak, &index, &count,
	}, func() (err error) {
		counts.WaitedUS, counts.DurationUS = microseconds(waited), microseconds(duration)
		if counts.Histogram, err = rollup.FromPairs(index, count); err != nil {
			return err
		}
		row := c.rows[n-1]
		row.Merge(&counts)
		row.Peak = max(row.Peak, peak)
		return nil
	})
	return err
}

// microseconds is what fill has made milliseconds of. Up to 2^53 of them, 285 years, none is lost.
func microseconds(ms float64) int64 {
	const perMS, half = 1000, 0.5
	return int64(ms*perMS + half)
}

// fill appends the figures of a row.
func (c *columns) fill(r *rollup.Row) {
	const perMS = 1000
	c.requests, c.successes = append(c.requests, r.Requests), append(c.successes, r.Successes)
	c.throttled, c.held, c.peakTPS = append(c.throttled, r.Throttled), append(c.held, r.Held), append(c.peakTPS, r.Peak)
	c.waitedMS, c.durationMS = append(c.waitedMS, float64(r.WaitedUS)/perMS), append(c.durationMS, float64(r.DurationUS)/perMS)
	index, count := r.Histogram.Pairs()
	c.buckets, c.counts = append(c.buckets, literal(index)), append(c.counts, literal(count))
}

func (c *columns) store(ctx context.Context, tx pgx.Tx, server string) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO tps_rollups (resolution, at, domain, gateway, endpoint, server_id, requests, successes, throttled, held, waited_ms, duration_ms, peak_tps, buckets, counts)
		SELECT resolution, at, domain, gateway, endpoint, $1, requests, successes, throttled, held, waited_ms, duration_ms, peak_tps, buckets::smallint[], counts::bigint[]
		FROM unnest($2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::float8[], $12::float8[], $13::bigint[], $14::text[], $15::text[])
			AS i (resolution, at, domain, gateway, endpoint, requests, successes, throttled, held, waited_ms, duration_ms, peak_tps, buckets, counts)
		ON CONFLICT (resolution, at, domain, gateway, endpoint, server_id) DO UPDATE SET
			requests = excluded.requests, successes = excluded.successes, throttled = excluded.throttled, held = excluded.held, waited_ms = excluded.waited_ms,
			duration_ms = excluded.duration_ms, peak_tps = excluded.peak_tps, buckets = excluded.buckets, counts = excluded.counts`,
		server, c.resolution, c.at, c.domain, c.gateway, c.endpoint, c.requests, c.successes, c.throttled, c.held, c.waitedMS, c.durationMS, c.peakTPS, c.buckets, c.counts)
	return err
}

// literal is an array as SQL writes it.
func literal[T int16 | int64](values []T) string {
	const usual = 4 // bytes of a value with its comma
	b := append(make([]byte, 0, usual*len(values)+usual), '{')
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(v), 10)
	}
	return string(append(b, '}'))
}
