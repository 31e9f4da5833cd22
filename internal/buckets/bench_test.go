package buckets

import (
	"fmt"
	"math/bits"
	"testing"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

const (
	endpointsPerGateway = 100
	unbounded           = 1e9 // max_tps and burst of limits that refuse nothing here
)

// grid makes the rows of n endpoints, a hundred of each gateway, and those of their gateways. edit
// changes the row of an endpoint, or adds to it.
func grid(n int, edit func(limits.Limit) []limits.Limit) (rows []limits.Limit) {
	for i := range n {
		gateway := fmt.Sprintf("gateway-%05x", i/endpointsPerGateway)
		if i%endpointsPerGateway == 0 {
			rows = append(rows, row(unbounded, unbounded, gateway))
		}
		rows = append(rows, edit(row(unbounded, unbounded, gateway, fmt.Sprintf("endpoint-%05x", i%endpointsPerGateway)))...)
	}
	return rows
}

func asIs(l limits.Limit) []limits.Limit { return []limits.Limit{l} }

// BenchmarkHit is a decision over gateway + endpoint, each with a row, by the number of limits:
// one hot key, a thousand keys of ten gateways and of a thousand ones, and keys spread evenly.
// x-first is the cost beside that of a thousand limits and the same keys.
func BenchmarkHit(b *testing.B) {
	flat := &baseline{}
	for _, n := range []int{10, 1_000, 100_000, 1_000_000} {
		l := &load{name: onGrid, rows: func() []limits.Limit { return grid(n, asIs) }}
		l.bench(b, fmt.Sprintf("limits=%d/hot", n), shuffled(1, 1), nil)
		if n >= 1_000 {
			l.bench(b, fmt.Sprintf("limits=%d/keys=1000", n), shuffled(1_000, 1), flat)
		}
		if n >= 100_000 {
			l.bench(b, fmt.Sprintf("limits=%d/gateways=1000", n), shuffled(1_000, endpointsPerGateway), nil)
			l.bench(b, fmt.Sprintf("limits=%d/keys=%d", n, n), shuffled(n, 1), nil)
		}
	}
}

// BenchmarkMiss is the default limit of gateways that no row matches. At the bound each request
// makes a gate and evicts one.
func BenchmarkMiss(b *testing.B) {
	for _, n := range []int{1_000, 1_000_000} {
		rows := func() []limits.Limit { return grid(n, asIs) }
		l := &load{name: onUnknown, rows: rows, cfg: Config{DefaultMaxTPS: unbounded}}
		for _, k := range []int{1, 1_000, 100_000} {
			l.bench(b, fmt.Sprintf("limits=%d/keys=%d", n, k), shuffled(k, 1), nil)
		}
		bounded := &load{name: onUnknown, rows: rows, cfg: Config{DefaultMaxTPS: unbounded, MaxBuckets: 1_000}}
		bounded.bench(b, fmt.Sprintf("limits=%d/evicting", n), shuffled(100_000, 1), nil)
	}
}

// BenchmarkPattern is hits of 10,000 rows with `*`, each of which matches sixteen names. At the
// bound nearly every request looks the row up, makes a bucket and evicts one.
func BenchmarkPattern(b *testing.B) {
	l := &load{name: onEndpoint, rows: patterns}
	for _, k := range []int{1, 1_000, 100_000} {
		l.bench(b, fmt.Sprintf("keys=%d", k), shuffled(k, 1), nil)
	}
	bounded := &load{name: onEndpoint, rows: patterns, cfg: Config{MaxBuckets: 1_000}}
	bounded.bench(b, "evicting", shuffled(100_000, 1), nil)
}

func patterns() []limits.Limit {
	rows := []limits.Limit{row(unbounded, unbounded, "gateway-00000")}
	for i := range 10_000 {
		rows = append(rows, row(unbounded, unbounded, "gateway-00000", fmt.Sprintf("endpoint-%04x*", i)))
	}
	return rows
}

// BenchmarkPer is a gateway, an endpoint, and a limit for each value of a key. At the bound nearly
// every request makes a bucket and evicts one.
func BenchmarkPer(b *testing.B) {
	rows := func() []limits.Limit {
		return append(grid(1, asIs), row(unbounded, unbounded, "gateway-00000", "", "user"))
	}
	l := &load{name: onUser, rows: rows}
	for _, k := range []int{1, 1_000, 1_000_000} {
		l.bench(b, fmt.Sprintf("values=%d", k), shuffled(k, 1), nil)
	}
	bounded := &load{name: onUser, rows: rows, cfg: Config{MaxBuckets: 100_000}}
	bounded.bench(b, "evicting", shuffled(1_000_000, 1), nil)
}

// BenchmarkWindows is other windows than a second: two side by side at an endpoint, and the
// algorithms that have windows.
func BenchmarkWindows(b *testing.B) {
	windows := map[string]func(limits.Limit) []limits.Limit{
		"second+day": func(l limits.Limit) []limits.Limit { return []limits.Limit{l, windowOf(l, limits.TokenBucket, 86_400)} },
		"fixed":      func(l limits.Limit) []limits.Limit { return []limits.Limit{windowOf(l, limits.FixedWindow, 60)} },
		"sliding":    func(l limits.Limit) []limits.Limit { return []limits.Limit{windowOf(l, limits.SlidingWindow, 60)} },
	}
	for _, name := range []string{"second+day", "fixed", "sliding"} {
		l := &load{name: onGrid, rows: func() []limits.Limit { return grid(100_000, windows[name]) }}
		for _, k := range []int{1, 1_000, 100_000} {
			l.bench(b, fmt.Sprintf("%s/keys=%d", name, k), shuffled(k, 1), nil)
		}
	}
}

func windowOf(l limits.Limit, a limits.Algorithm, seconds int64) limits.Limit {
	l.Algorithm, l.PerSeconds, l.Burst = a, seconds, 0
	return l
}

// BenchmarkUniform is hits spread evenly over 1,000,000 keys, beside bare random reads over as many
// bytes as the live state of those keys takes. x-bare is the ratio of the two.
func BenchmarkUniform(b *testing.B) {
	l := &load{name: onGrid, rows: func() []limits.Limit { return grid(1_000_000, asIs) }}
	l.make(b)
	keys := shuffled(1_000_000, 1)
	perBucket, made := l.warmUp(b, keys)
	memory := make([]uint64, int(perBucket*float64(made))/8)
	for i := range memory {
		memory[i] = uint64(i)
	}
	bareNS := 0.0
	b.Run("bare", func(b *testing.B) {
		readAtRandom(b, memory)
		bareNS = nsPerOp(b)
	})
	b.Run("decide", func(b *testing.B) {
		b.ReportAllocs()
		r, i := newRequester(l), 0
		for b.Loop() {
			if err := r.decide(keys[i%len(keys)]); err != nil {
				b.Fatal(err)
			}
			i++
		}
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

// BenchmarkTurn is one turn of a gateway for which requests to so many invented endpoints wait, and
// one more that comes: all wait for the gateway, or each for a row of its own pattern alone.
func BenchmarkTurn(b *testing.B) {
	for name, l := range map[string]limits.Limit{"gateway": waiting(1_800_000, 1000, 1, "gw"), "pattern": waiting(1_800_000, 1, 1, "gw", "*")} {
		for _, lanes := range []int{10, 1_000, 30_000} {
			b.Run(fmt.Sprintf("%s/lanes=%d", name, lanes), func(b *testing.B) {
				w := newWorld(b, Config{}, l)
				for i := range lanes + 1 {
					w.decide(sec, ask(1, "gw", fmt.Sprintf("/%d", i)))
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
}
