package history_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

const benchBatch, benchRows = 10_000, 100_000

// spread are transactions of 20 gateways with 10 endpoints, at an even pace.
func spread(n int, from time.Time, rate float64) []traffic.Transaction {
	all := make([]traffic.Transaction, n)
	for i := range all {
		all[i] = traffic.Transaction{
			Domain: "edge", Gateway: fmt.Sprint("gateway-", i%20), Endpoint: fmt.Sprint("/api/v1/endpoint-", i/20%10),
			At:       from.Add(time.Duration(float64(i) / rate * float64(time.Second))).Truncate(time.Microsecond),
			Duration: time.Duration(1+i%97) * 773 * time.Microsecond, StatusCode: 200, Success: true,
		}
	}
	return all
}

// asText is what psql sends of them.
func asText(ts []traffic.Transaction) []byte {
	var b bytes.Buffer
	for i := range ts {
		t := &ts[i]
		fmt.Fprintf(&b, "%s\t%s\t%s\t%g\tt\t%s\tedge-1\t%d\tf\t0\n", t.Gateway, t.Endpoint, t.At.UTC().Format("2006-01-02 15:04:05.999999Z"), float64(t.Duration)/1e6, t.Domain, t.StatusCode)
	}
	return b.Bytes()
}

// BenchmarkWrite writes batches of 10,000 beside psql's COPY of the same rows into the same table, in
// turns: ratio is rows a second by those of psql, of the medians.
func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct {
		name string
		rate float64 // of what is measured: it decides how many rollups a batch touches
		rows bool    // alone
	}{{"rows alone", 100_000, true}, {"with rollups/100000 a second", 100_000, false}, {"with rollups/1000 a second", 1000, false}} {
		b.Run(c.name, func(b *testing.B) {
			address := testenv.Database(b)
			s := openStore(b, address)
			s.maintain(b)
			write, from := s.put, time.Now()
			if c.rows {
				write = s.CopyRows
			}
			var copied, written []time.Duration
			for b.Loop() {
				ts := spread(benchRows, from, c.rate)
				from = from.Add(time.Duration(benchRows / c.rate * float64(time.Second)))
				text := asText(ts)
				copied = append(copied, byPSQL(b, address, text))
				began := time.Now()
				for batch := range slices.Chunk(ts, benchBatch) {
					if err := write(b.Context(), batch); err != nil {
						b.Fatal(err)
					}
				}
				written = append(written, time.Since(began))
			}
			slices.Sort(copied)
			slices.Sort(written)
			psqlTook, took := copied[len(copied)/2], written[len(written)/2]
			b.ReportMetric(psqlTook.Seconds()/took.Seconds(), "ratio")
			b.ReportMetric(benchRows/took.Seconds(), "rows/s")
			b.ReportMetric(benchRows/psqlTook.Seconds(), "psql-rows/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// byPSQL returns how long psql takes for rows, its start included.
func byPSQL(b *testing.B, address string, rows []byte) time.Duration {
	b.Helper()
	began := time.Now()
	cmd := exec.Command("psql", address, "-qc", `\copy tps_metrics (gateway, endpoint, timestamp, duration_ms, success, domain, server_id, status_code, throttled, waited_ms) FROM STDIN`)
	cmd.Stdin = bytes.NewReader(rows)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return time.Since(began)
}
