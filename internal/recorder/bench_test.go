package recorder_test

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/recorder"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// messages are those of a busy Envoy: 100 transactions each, of 20 gateways with 10 endpoints.
func messages() [][]traffic.Transaction {
	all := make([][]traffic.Transaction, 20)
	for m := range all {
		for i := range 100 {
			n := m*100 + i
			all[m] = append(all[m], traffic.Transaction{
				Domain: "edge", Gateway: fmt.Sprint("gateway-", n%20), Endpoint: fmt.Sprint("/api/v1/endpoint-", n/20%10), At: time.Now(),
				Duration: time.Duration(1+n%97) * time.Millisecond, StatusCode: 200, Success: true,
			})
		}
	}
	return all
}

func benchmarkRecord(b *testing.B, sinks ...recorder.NamedSink) {
	b.Helper()
	r, err := newRecorder(b, config(), sinks, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	all, n := messages(), 0
	b.ReportAllocs()
	for b.Loop() {
		r.Record(all[n%len(all)])
		n++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(100*n), "ns/transaction")
}

// BenchmarkRecord counts a message of 100 transactions.
func BenchmarkRecord(b *testing.B) { benchmarkRecord(b) }
