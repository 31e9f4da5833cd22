package buckets

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// TestRestoreTakesAnything gives buckets a usage that somebody has edited: it may be wrong, but
// the bucket stays one.
func TestRestoreTakesAnything(t *testing.T) {
	number := rapid.OneOf(rapid.Int64(), rapid.Int64Range(-2, 200), rapid.Int64Range(999*sec, 1001*sec))
	rapid.Check(t, func(t *rapid.T) {
		algorithm := rapid.SampledFrom([]limits.Algorithm{limits.TokenBucket, limits.FixedWindow, limits.SlidingWindow}).Draw(t, "algorithm")
		l := windowed(algorithm, rapid.Int64Range(0, 20).Draw(t, "max_tps"), 64)
		u := Usage{
			Domain: []byte("d"), Gateway: []byte("gw"), Key: levelKey(nil).gateway(l.Dim(), ""), AtNS: number.Draw(t, "at"), FullAtNS: number.Draw(t, "full at"),
			Used: rapid.Uint64().Draw(t, "used"), SlotNS: rapid.SampledFrom([]int64{0, -1, sec}).Draw(t, "slot"),
		}
		for range rapid.IntRange(0, 4).Draw(t, "slots") {
			u.Slots = append(u.Slots, [2]int64{rapid.OneOf(number, rapid.Int64Range(900, 1001)).Draw(t, "number"), number.Draw(t, "hits")})
		}
		e := New(Config{}, limits.ClockAt(1000*sec), &limits.Current{})
		e.Restore([]Usage{u})
		var b bucket
		b.adopt(l, 1000*sec, 1000*sec)
		g := &gate{engine: e, name: gateName{"d", "gw", ofGateway}}
		b.key, b.durable = string(u.Key), true
		g.recall(&b, 1000*sec)
		for nowNS := 1000 * sec; nowNS <= 1200*sec; nowNS += 10 * sec {
			b.advance(nowNS)
			if b.tokens > b.capacity {
				t.Fatalf("%+v has more than it holds", b)
			}
		}
		if wait := b.fullInNS(); wait != 0 && u.AtNS <= 1000*sec && b.window != nil {
			t.Fatalf("%+v is not full after three windows, but in %d ns", b, wait)
		}
	})
}
