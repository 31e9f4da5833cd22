package buckets

import (
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// oddRates are rates whose tokens do not fall on whole nanoseconds, and the ends of the range.
var oddRates = []int64{1, 3, 7, 333, 9_999, 999_999, 1_000_000, 999_999_937, 1_000_000_000}

// exactBucket is the token bucket in rational numbers, without any rounding.
type exactBucket struct {
	level, capacity, rate *big.Rat // rate per nanosecond
	lastNS                int64
	lost                  *big.Rat // the most that a bucket of integers may have less: the parts of a token cut at changes
}

func newExactBucket(l *limits.Limit, nowNS int64) *exactBucket {
	b := &exactBucket{lastNS: nowNS, lost: new(big.Rat)}
	b.setLimit(l)
	b.level = new(big.Rat).Set(b.capacity)
	return b
}

func (b *exactBucket) setLimit(l *limits.Limit) {
	b.capacity = ratOf(l.Capacity())
	b.rate = big.NewRat(l.MaxTPS, l.WindowNS())
}

func ratOf(n uint64) *big.Rat { return new(big.Rat).SetUint64(n) }

func minRat(a, b *big.Rat) *big.Rat {
	if a.Cmp(b) < 0 {
		return a
	}
	return b
}

func (b *exactBucket) advance(nowNS int64) {
	more := new(big.Rat).Mul(b.rate, big.NewRat(nowNS-b.lastNS, 1))
	b.level = minRat(more.Add(more, b.level), b.capacity)
	b.lastNS = nowNS
}

func (b *exactBucket) has(hits uint64) bool { return b.level.Cmp(ratOf(hits)) >= 0 }

func (b *exactBucket) take(hits uint64) { b.level = new(big.Rat).Sub(b.level, ratOf(hits)) }

func (b *exactBucket) give(hits uint64) {
	b.level = minRat(new(big.Rat).Add(b.level, ratOf(hits)), b.capacity)
}

// change keeps the usage: refill up to the change, then max(0, new capacity - used).
func (b *exactBucket) change(l *limits.Limit, atNS int64) {
	b.advance(atNS)
	used := new(big.Rat).Sub(b.capacity, b.level)
	b.setLimit(l)
	b.level = new(big.Rat).Sub(b.capacity, used)
	if b.level.Sign() < 0 {
		b.level = new(big.Rat)
	}
	if per := l.Rate().PerNS; per > 0 {
		b.lost.Add(b.lost, big.NewRat(1, int64(per)))
	}
}

// wait is the number of whole nanoseconds until hits are there.
func (b *exactBucket) wait(hits uint64) int64 {
	missing := new(big.Rat).Sub(ratOf(hits), b.level)
	if missing.Sign() <= 0 {
		return 0
	}
	missing.Quo(missing, b.rate)
	ceil := new(big.Int).Add(missing.Num(), new(big.Int).Sub(missing.Denom(), big.NewInt(1)))
	if ceil.Div(ceil, missing.Denom()); !ceil.IsInt64() {
		return limits.Never // in more than 292 years
	}
	return ceil.Int64()
}

func (b *exactBucket) full() int64 {
	return b.wait(new(big.Int).Quo(b.capacity.Num(), b.capacity.Denom()).Uint64())
}

func (b *exactBucket) whole() uint64 {
	return new(big.Int).Quo(b.level.Num(), b.level.Denom()).Uint64()
}

func (b *exactBucket) used() uint64 {
	return new(big.Int).Quo(b.capacity.Num(), b.capacity.Denom()).Uint64() - b.whole()
}

// cut rounds the part of a token that is there down to what the new rate can count.
func (b *exactBucket) cut(perNS uint64) {
	scale := ratOf(max(perNS, 1))
	parts := new(big.Rat).Mul(b.level, scale)
	parts.SetInt(new(big.Int).Quo(parts.Num(), parts.Denom()))
	b.level = parts.Quo(parts, scale)
}

func drawLimit(t *rapid.T) *limits.Limit {
	l := row(0, 0, "gw")
	l.MaxTPS = rapid.OneOf(rapid.SampledFrom(oddRates), rapid.Int64Range(0, 100), rapid.Int64Range(1, limits.MaxMaxTPS)).Draw(t, "max_tps")
	l.Burst = rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(1, 20), rapid.Int64Range(1, limits.MaxBurst)).Draw(t, "burst")
	l.PerSeconds = rapid.SampledFrom([]int64{0, 0, 2, 60, 86_400, limits.MaxPerSeconds}).Draw(t, "per_seconds")
	return l.Compile(0)
}

// drawStep is a time step around the time that some tokens take.
func drawStep(t *rapid.T, tps int64) int64 {
	token := sec / max(tps, 1)
	return rapid.OneOf(
		rapid.Int64Range(0, 3), rapid.Int64Range(0, 2*token+1), rapid.Int64Range(0, 20*token+1), rapid.Int64Range(0, 100*sec),
		rapid.Int64Range(0, 100*365*24*3600*sec/60),
	).Draw(t, "step_ns")
}

func drawHits(t *rapid.T, b *bucket) uint64 {
	return rapid.OneOf(rapid.Just(b.tokens), rapid.Just(b.tokens+1), rapid.Uint64Range(0, 5), rapid.Uint64Range(0, MaxHits)).Draw(t, "hits")
}

// flow is what passed at one instant, net of what was given back.
type flow struct {
	atNS int64
	net  *big.Rat
}

// bucketMachine drives a bucket and its exact model side by side.
type bucketMachine struct {
	b     bucket
	model *exactBucket
	nowNS int64
	flows []flow // since the last change of limits
}

func newBucketMachine(t *rapid.T) *bucketMachine {
	m := &bucketMachine{nowNS: 1}
	l := drawLimit(t)
	m.b.adopt(l, 1, 1)
	m.model = newExactBucket(l, 1)
	return m
}

func (m *bucketMachine) step(t *rapid.T) {
	m.nowNS += drawStep(t, m.b.limit.MaxTPS)
	m.b.advance(m.nowNS)
	m.model.advance(m.nowNS)
}

func (m *bucketMachine) Take(t *rapid.T) {
	m.step(t)
	hits := drawHits(t, &m.b)
	wait := m.b.waitNS(hits)
	if wait > 0 {
		if m.model.has(hits) && m.model.lost.Sign() == 0 {
			t.Fatalf("bucket %+v refuses %d hits, the model's level is %s", m.b, hits, m.model.level.FloatString(12))
		}
		return
	}
	if !m.model.has(hits) {
		t.Fatalf("bucket %+v admits %d hits, the model's level is %s", m.b, hits, m.model.level.FloatString(12))
	}
	m.b.take(hits)
	m.model.take(hits)
	m.flows = append(m.flows, flow{m.nowNS, ratOf(hits)})
}

func (m *bucketMachine) Give(t *rapid.T) {
	m.step(t)
	hits := drawHits(t, &m.b)
	before := new(big.Rat).Set(m.model.level)
	m.b.give(hits)
	m.model.give(hits)
	m.flows = append(m.flows, flow{m.nowNS, before.Sub(before, m.model.level)})
}

// Change comes into force between two touches of the bucket.
func (m *bucketMachine) Change(t *rapid.T) {
	atNS := m.nowNS + drawStep(t, m.b.limit.MaxTPS)
	l := drawLimit(t)
	m.model.change(l, atNS)
	m.nowNS = atNS + drawStep(t, l.MaxTPS)
	m.b.adopt(l, atNS, m.nowNS)
	m.model.advance(m.nowNS)
	m.flows = nil
}

// Wait compares the times that the bucket foretells with the model's.
func (m *bucketMachine) Wait(t *rapid.T) {
	hits := drawHits(t, &m.b)
	if m.model.lost.Sign() > 0 || hits > m.b.capacity || m.b.limit.MaxTPS == 0 {
		return
	}
	if got, want := m.b.waitNS(hits), m.model.wait(hits); got != want {
		t.Fatalf("bucket %+v: wait for %d hits = %d ns, want %d ns", m.b, hits, got, want)
	}
	if got, want := m.b.fullInNS(), m.model.wait(m.b.capacity); got != want {
		t.Fatalf("bucket %+v: full in %d ns, want %d ns", m.b, got, want)
	}
}

// Check: never more than the model, and less only by the parts of a token that changes cut.
func (m *bucketMachine) Check(t *rapid.T) {
	level := ratOf(m.b.tokens)
	if m.b.rate.PerNS > 0 {
		level.Add(level, new(big.Rat).SetFrac(new(big.Int).SetUint64(m.b.rem), new(big.Int).SetUint64(m.b.rate.PerNS)))
	}
	less := new(big.Rat).Sub(m.model.level, level)
	if less.Sign() < 0 || less.Cmp(m.model.lost) > 0 {
		t.Fatalf("bucket %+v: level %s, want %s, at most %s less", m.b, level.FloatString(12), m.model.level.FloatString(12), m.model.lost.FloatString(12))
	}
	m.checkIntervals(t)
}

// checkIntervals looks at every interval that ends now: at most burst + rate·t hits passed.
func (m *bucketMachine) checkIntervals(t *rapid.T) {
	sum := new(big.Rat)
	for _, f := range slices.Backward(m.flows) {
		sum.Add(sum, f.net)
		most := new(big.Rat).Mul(m.model.rate, big.NewRat(m.nowNS-f.atNS, 1))
		if most.Add(most, m.model.capacity); sum.Cmp(most) > 0 {
			t.Fatalf("bucket %+v: %s hits in %d ns, want at most %s", m.b, sum.FloatString(3), m.nowNS-f.atNS, most.FloatString(3))
		}
	}
}

func TestBucketEqualsExactModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newBucketMachine(t)
		t.Repeat(map[string]func(*rapid.T){"take": m.Take, "give": m.Give, "change": m.Change, "wait": m.Wait, "": m.Check})
	})
}

// TestBucketSaturatedHour takes all there is at random instants, never so late that the bucket
// is full before.
func TestBucketSaturatedHour(t *testing.T) {
	for _, tps := range append([]int64{2, 10, 11, 99, 1_001, 65_537}, oddRates...) {
		t.Run(strconv.FormatInt(tps, 10), func(t *testing.T) {
			seed := rand.Uint64()
			got := saturate(row(tps, 0, "gw").Compile(0), 3600*sec, rand.New(rand.NewPCG(seed, 0)))
			if want := tps * 3600; got < want-1 || got > want+1 {
				t.Errorf("%d/s, saturated for an hour (seed %d): %d hits, want %d ±1", tps, seed, got, want)
			}
		})
	}
}

func saturate(l *limits.Limit, untilNS int64, random *rand.Rand) (hits int64) {
	var b bucket
	b.adopt(l, 1, 1)
	b.take(b.capacity)
	for b.lastNS < untilNS {
		b.advance(min(b.lastNS+max(1, random.Int64N(b.fullInNS())+1), untilNS+1))
		hits += int64(b.tokens)
		b.take(b.tokens)
	}
	return hits
}

// TestBucketChangeInstant: the bucket was touched neither shortly before nor shortly
// after the change, in whatever order stamp and touches came.
func TestBucketChangeInstant(t *testing.T) {
	fast, slow := row(1000, 100, "gw").Compile(0), row(1, 100, "gw").Compile(0)
	cases := []struct {
		name            string
		changed, now    int64
		want            uint64
		oldUsed, lastNS int64
	}{
		{name: "between two touches", lastNS: 1 * sec, oldUsed: 100, changed: 1*sec + 20*ms, now: 11 * sec, want: 29},
		{name: "at the last touch", lastNS: 1 * sec, oldUsed: 100, changed: 1 * sec, now: 11 * sec, want: 10},
		{name: "stamped before the last touch", lastNS: 1 * sec, oldUsed: 100, changed: ms, now: 11 * sec, want: 10},
		{name: "stamped after now", lastNS: 1 * sec, oldUsed: 100, changed: 2 * sec, now: 1*sec + 50*ms, want: 50},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var b bucket
			b.adopt(fast, c.lastNS, c.lastNS)
			b.take(uint64(c.oldUsed))
			b.adopt(slow, c.changed, c.now)
			if b.tokens != c.want {
				t.Errorf("used %d of 100 at %d, 1000/s to 1/s at %d: %d tokens at %d, want %d", c.oldUsed, c.lastNS, c.changed, b.tokens, c.now, c.want)
			}
		})
	}
}
