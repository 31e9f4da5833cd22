package rollup

import (
	"math"
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// exactBounds are the ends of all buckets but the last: 1000·(21/19)^i nanoseconds, rounded down
// exactly. (1+0.05)/(1-0.05) is 21/19.
func exactBounds() []time.Duration {
	bounds := make([]time.Duration, last)
	up, down := big.NewInt(int64(time.Microsecond)), big.NewInt(1)
	for i := range bounds {
		bounds[i] = time.Duration(new(big.Int).Quo(up, down).Int64())
		up.Mul(up, big.NewInt(21))
		down.Mul(down, big.NewInt(19))
	}
	return bounds
}

func exactBucket(bounds []time.Duration, d time.Duration) uint8 {
	i, _ := slices.BinarySearch(bounds, d)
	return uint8(i)
}

func TestBoundsAreExact(t *testing.T) {
	bounds := exactBounds()
	for i, want := range bounds {
		if got := bound(uint8(i)); got != want {
			t.Errorf("bucket %d ends with %d ns, want %d ns", i, got, want)
		}
	}
	if got := bound(last); got != math.MaxInt64 {
		t.Errorf("bucket %d ends with %d, want the longest duration", last, got)
	}
	if got := bound(last - 1).Round(time.Hour); got != 30*time.Hour {
		t.Errorf("the last bucket begins at %v, want 30h", got)
	}
}

func TestBucketOfAtTheEdges(t *testing.T) {
	bounds := exactBounds()
	for i, bound := range bounds {
		if got := [2]uint8{BucketOf(bound), BucketOf(bound + 1)}; got != [2]uint8{uint8(i), uint8(i + 1)} {
			t.Errorf("buckets of %d ns and 1 ns more = %v, want %d and %d", bound, got, i, i+1)
		}
	}
	for exponent := range 63 { // the edges of cells
		for low := range int64(1 << cellBits) {
			for _, d := range []time.Duration{-1, 0, 1} {
				d += time.Duration(1<<exponent + low<<exponent>>cellBits)
				if got, want := BucketOf(d), exactBucket(bounds, d); got != want {
					t.Errorf("BucketOf(%d ns) = %d, want %d", d, got, want)
				}
			}
		}
	}
	for d, want := range map[time.Duration]uint8{math.MinInt64: 0, -1: 0, 0: 0, 1: 0, math.MaxInt64: last} {
		if got := BucketOf(d); got != want {
			t.Errorf("BucketOf(%d ns) = %d, want %d", d, got, want)
		}
	}
}

// someDuration draws durations of all sizes alike, not mostly long ones.
func someDuration() *rapid.Generator[time.Duration] {
	return rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.Int64().Draw(t, "ns") >> rapid.IntRange(0, 62).Draw(t, "shift"))
	})
}

func TestBucketOfIsExact(t *testing.T) {
	bounds := exactBounds()
	rapid.Check(t, func(t *rapid.T) {
		d := someDuration().Draw(t, "d")
		if got, want := BucketOf(d), exactBucket(bounds, d); got != want {
			t.Fatalf("BucketOf(%d ns) = %d, want %d", d, got, want)
		}
	})
}

func TestValueIsNearAllOfItsBucket(t *testing.T) {
	for i := 1; i < last; i++ {
		shortest, longest := bound(uint8(i-1))+1, bound(uint8(i))
		for _, d := range []time.Duration{shortest, (shortest + longest) / 2, longest} {
			off := math.Abs(float64(Value(uint8(i)) - d))
			if off > RelativeError*float64(d)+1 {
				t.Errorf("Value(%d) = %v is %v off %v, want at most %v of it", i, Value(uint8(i)), time.Duration(off), d, RelativeError)
			}
		}
	}
	if got := Value(0); got < 0 || got > time.Microsecond {
		t.Errorf("Value(0) = %v, want something within the bucket of up to 1 µs", got)
	}
	if got := Value(last); got <= bound(last-1) {
		t.Errorf("Value(%d) = %v, want something within the bucket beyond %v", last, got, bound(last-1))
	}
}

func BenchmarkBucketOf(b *testing.B) {
	b.ReportAllocs()
	durations := lognormal(1, 1<<12)
	i, sum := 0, 0
	for b.Loop() {
		sum += int(BucketOf(durations[i%len(durations)]))
		i++
	}
	if sum == 0 {
		b.Fatal("all in bucket 0")
	}
}

// bound returns the longest duration of a bucket; for the last one the longest there is.
func bound(i uint8) time.Duration { return time.Duration(table.bounds[i]) }
