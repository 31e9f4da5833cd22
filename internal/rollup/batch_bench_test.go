package rollup

import (
	"fmt"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// batchOf is n transactions of 200 keys that ended within that time.
func batchOf(n int, within time.Duration) []traffic.Transaction {
	keys, durations, ts := someKeys(200), lognormal(1, n), make([]traffic.Transaction, n)
	for i := range ts {
		k := keys[i*7919%len(keys)]
		ts[i] = traffic.Transaction{
			Domain: k.Domain, Gateway: k.Gateway, Endpoint: k.Endpoint, Duration: durations[i], Success: true,
			At: noon.Add(time.Duration(i) * within / time.Duration(n)),
		}
	}
	return ts
}

// BenchmarkGroup is a batch of 10,000 transactions, as they come from a queue at 10,000 a second and
// at 1,000.
func BenchmarkGroup(b *testing.B) {
	for _, within := range []time.Duration{time.Second, 10 * time.Second, 100 * time.Second} {
		b.Run(fmt.Sprint("within=", within), func(b *testing.B) {
			b.ReportAllocs()
			ts, names := batchOf(10_000, within), NewNames(1000)
			for b.Loop() {
				Group(ts, names)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(ts)), "ns/transaction")
		})
	}
}
