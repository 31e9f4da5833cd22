package buckets

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// TestSaturatedHour asks for all there is, at random instants of an hour and at least thirty
// windows, by requests over a gateway and an endpoint, either of which may be the narrow one. At
// each instant exactly floor(burst + rate·t) hits have passed, and one more is refused.
func TestSaturatedHour(t *testing.T) {
	for _, seconds := range []int64{1, 60, 86_400} {
		for _, n := range []int64{1, 3, 7, 333, 9_999, 999_999} {
			for _, narrow := range []string{"", "ep"} {
				t.Run(fmt.Sprintf("%d in %ds/endpoint=%q", n, seconds, narrow), func(t *testing.T) {
					l := row(n, 0, "gw", narrow)
					l.PerSeconds = seconds
					newFlood(t, l).run(max(3600*sec, 30*seconds*sec))
				})
			}
		}
	}
}

// flood asks the narrower of the two limits for all that it has.
type flood struct {
	*testing.T
	world    *world
	limit    *limits.Limit
	random   *rand.Rand
	seed     uint64
	atNS     int64 // since the bucket was full
	fullNS   int64 // when it would be full again
	admitted uint64
	d        Decision
}

func newFlood(t *testing.T, narrow limits.Limit) *flood {
	t.Helper()
	wide := row(limits.MaxMaxTPS, limits.MaxBurst, "gw")
	if narrow.Endpoint == "" {
		wide.Endpoint = "ep"
	}
	f := &flood{T: t, world: newWorld(t, Config{}, narrow, wide), limit: narrow.Compile(0), seed: rand.Uint64()}
	f.random = rand.New(rand.NewPCG(f.seed, 0))
	return f
}

func (f *flood) run(untilNS int64) {
	f.Helper()
	for f.takeAll(); f.atNS < untilNS; f.takeAll() {
		f.atNS = min(f.atNS+f.step(), untilNS)
	}
	if f.admitted != f.mayHavePassed() {
		f.Errorf("seed %d: %d hits passed in %d ns, want %d", f.seed, f.admitted, f.atNS, f.mayHavePassed())
	}
}

// step ends before the bucket is full, and is often about as long as some tokens take.
func (f *flood) step() int64 {
	most := max(f.fullNS-f.atNS-1, 1)
	if f.random.IntN(2) == 0 {
		most = min(most, 3*f.limit.WindowNS()/f.limit.MaxTPS+2)
	}
	return 1 + f.random.Int64N(most)
}

func (f *flood) takeAll() {
	f.Helper()
	rest := f.mayHavePassed() - f.admitted
	f.ask(rest+1, OverLimit)
	if rest == 0 {
		return
	}
	f.ask(rest, OK)
	f.admitted += rest
	s := f.d.Statuses[0]
	if f.fullNS = f.atNS + s.ResetNS; s.Remaining != 0 || s.Limit.Key != f.limit.Key {
		f.Fatalf("seed %d, %d ns, after %d hits: %d remain of %s, want 0 of %s", f.seed, f.atNS, f.admitted, s.Remaining, s.Limit.Key, f.limit.Key)
	}
}

func (f *flood) ask(hits uint64, want Code) {
	f.Helper()
	if _, err := f.world.engine.decide(goldenBeginNS+f.atNS, ask(hits, "gw", "ep"), 0, &f.d); err != nil || f.d.Code != want {
		f.Fatalf("seed %d: %d hits after %d hits in %d ns: %v (%v), want %v", f.seed, hits, f.admitted, f.atNS, f.d.Code, err, want)
	}
}

// mayHavePassed is floor(burst + rate·t).
func (f *flood) mayHavePassed() uint64 {
	hi, lo := bits.Mul64(uint64(f.atNS), uint64(f.limit.MaxTPS))
	refilled, _ := bits.Div64(hi, lo, uint64(f.limit.WindowNS()))
	return f.limit.Capacity() + refilled
}
