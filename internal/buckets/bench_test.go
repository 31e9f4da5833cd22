package buckets

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// newTable compiles rows or ends the test.
func newTable(tb testing.TB, prev *limits.Table, nowNS int64, rows ...limits.Limit) *limits.Table {
	tb.Helper()
	id := int64(1)
	if prev != nil {
		id = prev.ID() + 1
	}
	t, err := limits.NewTable(prev, rows, limits.Stamp{ID: id, AtNS: nowNS})
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// grid is rows for gateways gateways with endpoints endpoints each, a gateway row included.
func grid(n int) (rows []limits.Limit, requests []Request) {
	perGateway := 100
	for i := 0; len(rows) < n; i++ {
		gw := fmt.Sprintf("gateway-%d", i)
		rows = append(rows, limits.Limit{Key: limits.Key{Domain: "d", Gateway: gw}, MaxTPS: 1e9, Burst: 1e9, Enabled: true})
		for j := 0; j < perGateway && len(rows) < n; j++ {
			ep := fmt.Sprintf("endpoint-%d", j)
			rows = append(rows, limits.Limit{Key: limits.Key{Domain: "d", Gateway: gw, Endpoint: ep}, MaxTPS: 1e9, Burst: 1e9, Enabled: true})
			requests = append(requests, Request{Domain: "d", Descriptors: []Descriptor{
				{Gateway: gw, Endpoint: ep, HasGateway: true, HasEndpoint: true, Hits: 1, MaxWaitMS: -1},
			}})
		}
	}
	return rows, requests
}

// BenchmarkDecide is the decision over gateway + endpoint with traffic on at most 1,000 keys.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1_000, 1_000_000} {
		b.Run(fmt.Sprintf("limits=%d", n), func(b *testing.B) {
			rows, requests := grid(n)
			e, clock := newBenchEngine(b, rows)
			rand.Shuffle(len(requests), func(i, j int) { requests[i], requests[j] = requests[j], requests[i] })
			requests = requests[:min(len(requests), 1000)]
			var d Decision
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, err := e.decide(clock.NowNS(), &requests[i], 0, &d); err != nil || d.Code != OK {
					b.Fatal(err, d.Code)
				}
				if i++; i == len(requests) {
					i = 0
				}
			}
		})
	}
}

// BenchmarkUniform is traffic spread evenly over 1,000,000 keys, beside bare random reads of
// as many bytes as those keys' live state takes.
func BenchmarkUniform(b *testing.B) {
	rows, requests := grid(1_000_000)
	e, clock := newBenchEngine(b, rows)
	order := make([]uint32, 1<<20)
	for i := range order {
		order[i] = rand.Uint32N(uint32(len(requests)))
	}
	var d Decision
	for i := range requests {
		if _, err := e.decide(clock.NowNS(), &requests[i], 0, &d); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("decide", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := e.decide(clock.NowNS(), &requests[order[i&(1<<20-1)]], 0, &d); err != nil {
				b.Fatal(err)
			}
		}
	})
	memory := make([]uint64, 1<<26) // 512 MiB
	for i := range memory {
		memory[i] = uint64(i)
	}
	b.Run("bare", func(b *testing.B) {
		sum := uint64(0)
		for i := 0; b.Loop(); i++ {
			at := (uint64(order[i&(1<<20-1)])*0x9E3779B97F4A7C15 + sum&1) >> 38 // depends on the read before
			sum += memory[at]
		}
		if sum == 1 {
			b.Log(sum)
		}
	})
}

func newBenchEngine(b *testing.B, rows []limits.Limit) (*Engine, limits.Clock) {
	b.Helper()
	clock := limits.NewClock()
	current := &limits.Current{}
	current.Store(newTable(b, nil, clock.NowNS(), rows...))
	return New(Config{DefaultMaxTPS: 1000}, clock, current), clock
}

func TestMain(m *testing.M) { m.Run() }

var _ = time.Second
