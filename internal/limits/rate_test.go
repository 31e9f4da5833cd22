package limits

import (
	"math"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const maxUint = math.MaxUint64

// numbers draws from all 64 bits, and often from where products overflow or a rate is real.
func numbers() *rapid.Generator[uint64] {
	return rapid.OneOf(
		rapid.Uint64(),
		rapid.Uint64Range(0, MaxMaxTPS),
		rapid.SampledFrom([]uint64{0, 1, 3, 7, 999_999, MaxMaxTPS, 1 << 32, math.MaxInt64, maxUint - 1, maxUint}),
	)
}

func windows() *rapid.Generator[int64] {
	return rapid.OneOf(
		rapid.Just(int64(time.Second)),
		rapid.Int64Range(1, math.MaxInt64),
		rapid.SampledFrom([]int64{1, int64(time.Minute), int64(365 * 24 * time.Hour), math.MaxInt64}),
	)
}

// rates draws a Rate that refills, and parts of its next token.
func rates(t *rapid.T) (r Rate, rem uint64) {
	r = NewRate(max(numbers().Draw(t, "tokens"), 1), windows().Draw(t, "window"))
	return r, rapid.OneOf(rapid.Uint64Range(0, r.PerNS-1), rapid.Just(r.PerNS-1)).Draw(t, "rem")
}

func bigOf(n uint64) *big.Int { return new(big.Int).SetUint64(n) }

func mul(a, b uint64) *big.Int { return new(big.Int).Mul(bigOf(a), bigOf(b)) }

func TestNewRateIsExactAndReduced(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tokens, window := max(numbers().Draw(t, "tokens"), 1), windows().Draw(t, "window")
		got := NewRate(tokens, window)
		if mul(got.Tokens, uint64(window)).Cmp(mul(tokens, got.PerNS)) != 0 {
			t.Errorf("NewRate(%d, %d) = %+v: not the same speed", tokens, window, got)
		}
		if d := new(big.Int).GCD(nil, nil, bigOf(got.Tokens), bigOf(got.PerNS)); d.Cmp(big.NewInt(1)) != 0 {
			t.Errorf("NewRate(%d, %d) = %+v: both can be divided by %v", tokens, window, got, d)
		}
	})
}

func TestNewRateOfNothing(t *testing.T) {
	for _, c := range []struct {
		tokens uint64
		window int64
	}{{0, int64(time.Second)}, {0, 0}, {5, 0}, {5, -1}, {maxUint, math.MinInt64}} {
		if got := NewRate(c.tokens, c.window); got != (Rate{}) {
			t.Errorf("NewRate(%d, %d) = %+v, want the zero Rate", c.tokens, c.window, got)
		}
	}
}

func TestRefillAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, rem := rates(t)
		elapsed := rapid.OneOf(windows(), rapid.Just(int64(0))).Draw(t, "elapsed")
		parts := new(big.Int).Add(mul(uint64(elapsed), r.Tokens), bigOf(rem))
		wantTokens, wantLeft := new(big.Int).QuoRem(parts, bigOf(r.PerNS), new(big.Int))
		most := rapid.OneOf(numbers(), rapid.Just(wantTokens.Uint64())).Draw(t, "most") // just full, too
		if elapsed > 0 && wantTokens.Cmp(bigOf(most)) >= 0 {
			wantTokens, wantLeft = bigOf(most), new(big.Int)
		}
		tokens, left := r.Refill(elapsed, rem, most)
		if bigOf(tokens).Cmp(wantTokens) != 0 || bigOf(left).Cmp(wantLeft) != 0 {
			t.Errorf("%+v.Refill(%d, %d, %d) = %d, %d, want %v, %v", r, elapsed, rem, most, tokens, left, wantTokens, wantLeft)
		}
	})
}

func TestRefillOfNothing(t *testing.T) {
	second := NewRate(5, int64(time.Second))
	for _, c := range []struct {
		rate    Rate
		elapsed int64
	}{{second, 0}, {second, -1}, {second, math.MinInt64}, {Rate{}, math.MaxInt64}, {Rate{}, -1}} {
		if tokens, left := c.rate.Refill(c.elapsed, 3, 10); tokens != 0 || left != 3 {
			t.Errorf("%+v.Refill(%d, 3, 10) = %d, %d, want 0, 3", c.rate, c.elapsed, tokens, left)
		}
	}
}

func TestWaitAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, rem := rates(t)
		tokens := max(numbers().Draw(t, "wanted"), 1)
		parts := new(big.Int).Sub(mul(tokens, r.PerNS), bigOf(rem))
		parts.Add(parts, bigOf(r.Tokens-1))
		want := parts.Quo(parts, bigOf(r.Tokens)) // rounded up
		if never := big.NewInt(Never); want.Cmp(never) > 0 {
			want = never
		}
		if got := r.WaitNS(tokens, rem); big.NewInt(got).Cmp(want) != 0 {
			t.Errorf("%+v.WaitNS(%d, %d) = %d, want %v", r, tokens, rem, got, want)
		}
	})
}

// TestWaitIsTheFirstInstant ties the two together: the tokens are there after the wait, and not
// one nanosecond before.
func TestWaitIsTheFirstInstant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, rem := rates(t)
		tokens := rapid.Uint64Range(1, MaxBurst).Draw(t, "wanted")
		wait := r.WaitNS(tokens, rem)
		if wait == Never {
			t.Skip("longer than 292 years")
		}
		if got, _ := r.Refill(wait, rem, maxUint); got < tokens {
			t.Errorf("%+v: after the wait of %d ns for %d tokens there are %d", r, wait, tokens, got)
		}
		if got, _ := r.Refill(wait-1, rem, maxUint); got >= tokens {
			t.Errorf("%+v: 1 ns before the wait of %d ns for %d tokens there are %d", r, wait, tokens, got)
		}
	})
}

func TestWaitForNothingAndForever(t *testing.T) {
	second := NewRate(5, int64(time.Second))
	for _, c := range []struct {
		rate        Rate
		tokens, rem uint64
		want        int64
	}{
		{second, 0, 0, 0},
		{Rate{}, 0, 0, 0},
		{Rate{}, 1, 0, Never},
		{second, 1, 0, int64(200 * time.Millisecond)},
		{second, maxUint, 0, Never},
		{Rate{1, maxUint}, maxUint, 0, Never},
		{Rate{1, 1}, uint64(Never) - 1, 0, Never - 1},
		{Rate{1, 1}, uint64(Never), 0, Never},
		{Rate{1, 1}, uint64(Never) + 1, 0, Never},
		{Rate{1, 1}, maxUint, 0, Never},
		{Rate{3, 1 << 62}, 4, 1, 6148914691236517205}, // the low half of the product is less than rem
	} {
		if got := c.rate.WaitNS(c.tokens, c.rem); got != c.want {
			t.Errorf("%+v.WaitNS(%d, %d) = %d, want %d", c.rate, c.tokens, c.rem, got, c.want)
		}
	}
}

func TestRescaleAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, rem := rates(t)
		to, _ := rates(t)
		want := mul(rem, to.PerNS)
		want.Quo(want, bigOf(from.PerNS))
		if got := from.Rescale(rem, to); bigOf(got).Cmp(want) != 0 || got >= to.PerNS {
			t.Errorf("%+v.Rescale(%d, %+v) = %d, want %v", from, rem, to, got, want)
		}
	})
}

func TestRescaleOfNothing(t *testing.T) {
	second := NewRate(5, int64(time.Second))
	for _, c := range []struct {
		from, to Rate
		rem      uint64
	}{{Rate{}, second, 3}, {second, Rate{}, 3}, {Rate{}, Rate{}, 3}, {second, second, second.PerNS}, {second, second, maxUint}} {
		if got := c.from.Rescale(c.rem, c.to); got != 0 {
			t.Errorf("%+v.Rescale(%d, %+v) = %d, want 0", c.from, c.rem, c.to, got)
		}
	}
}
