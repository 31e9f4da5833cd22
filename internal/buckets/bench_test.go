package buckets

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

const endpointsPerGateway = 100

// grid is n rows: gateways with a row of their own and those of their endpoints.
func grid(n int) []limits.Limit {
	rows := make([]limits.Limit, 0, n)
	for i := 0; len(rows) < n; i++ {
		gateway := fmt.Sprint("gateway-", i/(endpointsPerGateway+1))
		if j := i % (endpointsPerGateway + 1); j > 0 {
			rows = append(rows, row(1e9, 1e9, gateway, fmt.Sprint("endpoint-", j-1)))
		} else {
			rows = append(rows, row(1e9, 1e9, gateway))
		}
	}
	return rows
}

// traffic is requests to the endpoints of a grid, each written into the same Request, as a
// decoder does: what a request itself holds is in the cache of its core.
type traffic struct {
	engine              *Engine
	clock               limits.Clock
	gateways, endpoints []string
	keys                []uint32 // gateway*endpointsPerGateway + endpoint, in random order
	request             Request
	d                   Decision
}

// newTraffic puts a grid of n rows in force and asks once for each of its endpoints, at most
// most.
func newTraffic(b *testing.B, n, most int) *traffic {
	b.Helper()
	t := &traffic{clock: limits.NewClock(), request: *ask(1, "", "-")}
	current := &limits.Current{}
	current.Store(newTable(b, nil, t.clock.NowNS(), grid(n)...))
	t.engine = New(Config{DefaultMaxTPS: 1000}, t.clock, current)
	for i := range n/(endpointsPerGateway+1) + 1 {
		t.gateways = append(t.gateways, fmt.Sprint("gateway-", i))
	}
	for i := range endpointsPerGateway {
		t.endpoints = append(t.endpoints, fmt.Sprint("endpoint-", i))
	}
	for i := range n {
		if j := i % (endpointsPerGateway + 1); j > 0 {
			t.keys = append(t.keys, uint32(i/(endpointsPerGateway+1)*endpointsPerGateway+j-1))
		}
	}
	rand.Shuffle(len(t.keys), func(i, j int) { t.keys[i], t.keys[j] = t.keys[j], t.keys[i] })
	t.keys = t.keys[:min(len(t.keys), most)]
	return t
}

// decide returns an error where the request of a key is not admitted by a limit.
func (t *traffic) decide(key uint32) error {
	desc := &t.request.Descriptors[0]
	desc.Gateway, desc.Endpoint = t.gateways[key/endpointsPerGateway], t.endpoints[key%endpointsPerGateway]
	if _, err := t.engine.decide(t.clock.NowNS(), &t.request, 0, &t.d); err != nil || t.d.Code != OK || t.d.Statuses[0].Limit == nil {
		return fmt.Errorf("decide(%+v) = %v %+v, %w", t.request, t.d.Code, t.d.Statuses, err)
	}
	return nil
}

// warmUp makes the bucket of every key.
func (t *traffic) warmUp(b *testing.B) {
	b.Helper()
	for _, key := range t.keys {
		if err := t.decide(key); err != nil {
			b.Fatal(err)
		}
	}
}

func (t *traffic) run(b *testing.B) {
	b.Helper()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := t.decide(t.keys[i]); err != nil {
			b.Fatal(err)
		}
		if i++; i == len(t.keys) {
			i = 0
		}
	}
}

// BenchmarkDecide is the decision over gateway + endpoint with traffic on at most 1,000 keys.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1_000, 1_000_000} {
		t := newTraffic(b, n, 1_000)
		t.warmUp(b)
		b.Run(fmt.Sprintf("limits=%d", n), t.run)
	}
}

// BenchmarkUniform is traffic spread evenly over 1,000,000 keys, beside bare random reads over
// as many bytes as the live state of those keys takes. x-bare is the ratio of the two.
func BenchmarkUniform(b *testing.B) {
	t := newTraffic(b, 1_000_000*(endpointsPerGateway+1)/endpointsPerGateway, 1_000_000)
	before := heapBytes()
	t.warmUp(b)
	memory := make([]uint64, (heapBytes()-before)/8)
	for i := range memory {
		memory[i] = uint64(i)
	}
	bareNS := 0.0
	b.Run("bare", func(b *testing.B) {
		readAtRandom(b, memory)
		bareNS = nsPerOp(b)
	})
	b.Run("decide", func(b *testing.B) {
		t.run(b)
		b.ReportMetric(nsPerOp(b)/bareNS, "x-bare")
	})
}

// readAtRandom reads words of memory, each at a place that depends on the one before, so that
// no two reads overlap.
func readAtRandom(b *testing.B, memory []uint64) {
	b.Helper()
	b.ReportAllocs()
	at := uint64(1)
	for b.Loop() {
		at = at*6364136223846793005 + 1442695040888963407
		place, _ := bits.Mul64(at, uint64(len(memory)))
		at += memory[place]
	}
	b.ReportMetric(float64(len(memory)*8)/(1<<20), "MiB")
}

func nsPerOp(b *testing.B) float64 {
	b.Helper()
	return float64(b.Elapsed().Nanoseconds()) / float64(b.N)
}

// heapBytes is what is reachable now.
func heapBytes() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// BenchmarkTurn is one turn of a gateway for which requests to so many invented endpoints wait, and
// one more that comes.
func BenchmarkTurn(b *testing.B) {
	for _, lanes := range []int{10, 1_000, 30_000} {
		b.Run(fmt.Sprintf("lanes=%d", lanes), func(b *testing.B) {
			w := newWorld(b, Config{}, waiting(1_800_000, 1000, 1, "gw"))
			for i := range lanes + 1 {
				w.decide(sec, ask(1, "gw", fmt.Sprintf("/%d", i)))
			}
			nowNS := sec
			for b.Loop() {
				nowNS += ms
				w.decide(nowNS, ask(1, "gw", "/new"))
			}
		})
	}
}
