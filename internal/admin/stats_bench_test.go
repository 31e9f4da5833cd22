package admin

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// BenchmarkStatsEvent is what a second of a stream costs, for all clients with one question: the
// snapshot and its JSON.
func BenchmarkStatsEvent(b *testing.B) {
	for _, endpoints := range []int{10, 200, 10_000} {
		b.Run(strconv.Itoa(endpoints), func(b *testing.B) {
			w := rollup.NewWindows(rollup.NewNames(2 * endpoints))
			for i := range 10 * endpoints {
				w.Add(time.Now().Add(-time.Second), &traffic.Transaction{Duration: time.Duration(i) * time.Microsecond, Success: true}, rollup.Key{Domain: "edge", Gateway: fmt.Sprint("gateway-", i%20), Endpoint: fmt.Sprint("/v1/endpoints/", i%endpoints)})
			}
			a := &api{fromMemory: make(chan struct{}, 1), Deps: Deps{Stats: func(_ context.Context, q StatsQuery) (StatsAnswer, error) {
				snap, err := w.Snapshot(time.Now(), q.Window)
				return StatsAnswer{Snapshot: snap, Source: SourceMemory}, err
			}}}
			b.ReportAllocs()
			size := 0
			for b.Loop() {
				event, err := a.statsEvent(b.Context(), StatsQuery{Window: 100 * time.Second})
				if size = len(event); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(size), "B/event")
		})
	}
}
