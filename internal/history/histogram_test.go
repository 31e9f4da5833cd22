package history_test

import (
	"encoding/binary"
	"maps"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/history"
	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// histograms are of every kind: empty, of one bucket, of all, with counts of 1 and of most digits.
func histograms() *rapid.Generator[rollup.Histogram] {
	return rapid.Custom(func(t *rapid.T) rollup.Histogram {
		low := rapid.IntRange(0, rollup.NumBuckets-1).Draw(t, "low")
		high := rapid.IntRange(low, rollup.NumBuckets-1).Draw(t, "high")
		counts := rapid.MapOfN(rapid.IntRange(low, high), rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(1, 1e15)), 0, 5)
		buckets := counts.Draw(t, "counts")
		var index []int16
		var count []int64
		for b := range rollup.NumBuckets {
			if n, ok := buckets[b]; ok {
				index, count = append(index, int16(b)), append(count, n)
			}
		}
		h, err := rollup.FromPairs(index, count)
		if err != nil {
			t.Fatal(err)
		}
		return h
	})
}

// What Postgres adds up is what Merge makes, and its percentiles are those of Quantile.
func TestPostgresAddsHistograms(t *testing.T) {
	conn := testenv.Connect(t, testenv.Database(t))
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(histograms(), 1, 4).Draw(t, "parts")
		var want rollup.Histogram
		var all []*rollup.Histogram
		for i := range parts {
			want.Merge(&parts[i])
			all = append(all, &parts[i])
		}
		q := rapid.SampledFrom([]float64{-1, 0, 0.01, 0.5, 0.95, 0.99, 1, 1e18}).Draw(t, "q")
		var sent []byte
		var percentile *float64
		result := conn.PgConn().ExecParams(t.Context(), "SELECT numeric_send(sum(n)), tps_percentile($2, sum(n)) FROM unnest($1::numeric[]) AS n",
			[][]byte{history.AppendHistograms(nil, all), binary.BigEndian.AppendUint64(nil, math.Float64bits(q))}, nil, []int16{1, 1}, []int16{1})
		rows := pgx.RowsFromResultReader(conn.TypeMap(), result)
		if _, err := pgx.ForEachRow(rows, []any{&sent, &percentile}, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
		got, err := history.ReadHistogram(sent)
		if err != nil || !got.Equal(want) {
			t.Fatalf("histograms %v: their sum is %v, error %v; want %v", parts, maps.Collect(got.All()), err, maps.Collect(want.All()))
		}
		if (percentile == nil) != (want.Total() == 0) {
			t.Fatalf("histogram %v: the percentile is NULL: %t", maps.Collect(want.All()), percentile == nil)
		}
		ms := float64(want.Quantile(q)) / float64(time.Millisecond)
		if percentile != nil && math.Abs(*percentile-ms) > 2e-6+1e-9*ms { // Quantile has whole nanoseconds
			t.Fatalf("histogram %v: quantile %g is %g ms, want %g", maps.Collect(want.All()), q, *percentile, ms)
		}
	})
}

// What is no histogram is refused, whoever has written it.
func TestReadsHistogramsOnly(t *testing.T) {
	conn := testenv.Connect(t, testenv.Database(t))
	for number, ok := range map[string]bool{
		"0": true, "1": true, "12e16": true, "1e4095": true,
		"-1": false, "0.5": false, "1.5": false, "NaN": false, "Infinity": false, "1e4096": false, "9999999999999999e16": true,
	} {
		sent := query[[]byte](t, conn, "SELECT numeric_send($1::text::numeric)", number)
		if _, err := history.ReadHistogram(sent); (err == nil) != ok {
			t.Errorf("the number %s: error %v, want one: %t", number, err, !ok)
		}
	}
	for _, sent := range [][]byte{nil, {0}, make([]byte, 7), make([]byte, 9), {0, 1, 0xff, 0xff, 0, 0, 0, 0, 0, 5}} {
		if h, err := history.ReadHistogram(sent); err == nil {
			t.Errorf("bytes %x are the histogram %v, want an error", sent, h)
		}
	}
}
