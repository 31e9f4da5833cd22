package rollup

import (
	"math"
	"math/big"
	"math/bits"
	"time"
)

// RelativeError bounds how far a percentile is from the exact one, as a share of the exact one:
// see [Value].
const RelativeError = 0.05

// NumBuckets is the number of buckets of a histogram.
const NumBuckets = 256

const (
	last = NumBuckets - 1
	unit = time.Microsecond // the first bucket
)

// BucketOf returns the bucket of a duration: 0 up to 1 µs (also for less than 0), i for what is
// above gamma^(i-1) µs and up to gamma^i µs, 255 for whatever is longer than gamma^254 µs, which is
// 30 hours. gamma is (1+RelativeError)/(1-RelativeError).
//
// The mapping is that of DDSketch: Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable
// quantile sketch with relative-error guarantees", PVLDB 12(12), 2019, section 2.
func BucketOf(d time.Duration) uint8 {
	if d <= unit {
		return 0
	}
	ns := uint64(d)
	cell := cellOf(ns)
	if cell >= numCells {
		return last
	}
	i := table.first[cell]
	if ns > table.bounds[i] {
		i++ // a cell is narrower than a bucket, so that it reaches into one more at most
	}
	return i
}

// Value returns the duration that stands for all of a bucket, 2·gamma^i/(gamma+1) µs: within
// RelativeError (and a nanosecond) of each of them, but for bucket 0, where it is at most 1 µs off,
// and for bucket 255, which has no end.
func Value(i uint8) time.Duration { return table.values[i] }

// A cell is the numbers of nanoseconds that agree in their highest bit and in the cellBits bits
// below it. The widest one reaches to 17/16 of its begin, a bucket to 21/19.
const (
	cellBits = 4
	numCells = 48 << cellBits // up to 2^48 ns, which is beyond the begin of the last bucket
)

func cellOf(ns uint64) int {
	exponent := bits.Len64(ns) - 1
	if exponent < cellBits {
		return 0
	}
	return exponent<<cellBits | int(ns>>(exponent-cellBits))&(1<<cellBits-1) //nolint:gosec // at most 5 bits
}

type tables struct {
	bounds [NumBuckets]uint64        // the longest duration of a bucket, in nanoseconds
	values [NumBuckets]time.Duration // what stands for all of a bucket
	first  [numCells]uint8           // the bucket of the first number of a cell
}

//nolint:gochecknoglobals // computed once, never written: logarithms are too slow to be taken for each duration
var table = makeTables()

func makeTables() *tables {
	t := &tables{}
	t.fillBounds()
	i := 0
	for cell := cellOf(uint64(unit)); cell < numCells; cell++ {
		exponent, low := cell>>cellBits, uint64(cell&(1<<cellBits-1))
		for (1<<cellBits|low)<<(exponent-cellBits) > t.bounds[i] {
			i++
		}
		t.first[cell] = uint8(i)
	}
	return t
}

// fillBounds computes in integers: in floating point, gamma^254 is some nanoseconds off.
func (t *tables) fillBounds() {
	const up, down = 100 * (1 + RelativeError), 100 * (1 - RelativeError) // gamma is up/down
	dividend, divisor := big.NewInt(int64(unit)), big.NewInt(1)
	for i := range t.bounds {
		bound := new(big.Int).Quo(dividend, divisor)
		t.bounds[i] = bound.Uint64()
		t.values[i] = time.Duration(bound.Uint64() * down / 100) //nolint:gosec // 2/(gamma+1) is 1-RelativeError
		dividend.Mul(dividend, big.NewInt(up))
		divisor.Mul(divisor, big.NewInt(down))
	}
	t.bounds[last] = math.MaxInt64
}
