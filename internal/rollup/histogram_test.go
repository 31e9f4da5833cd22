package rollup

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// lognormal returns n durations around 30 ms, of which nine of ten lie within a factor of ten.
func lognormal(seed uint64, n int) []time.Duration {
	r := rand.New(rand.NewPCG(seed, seed))
	durations := make([]time.Duration, n)
	for i := range durations {
		durations[i] = time.Duration(float64(30*time.Millisecond) * math.Exp(0.7*r.NormFloat64()))
	}
	return durations
}

func histogramOf(durations []time.Duration) *Histogram {
	h := &Histogram{}
	for _, d := range durations {
		h.Add(d, 1)
	}
	return h
}

func TestEmptyHistogram(t *testing.T) {
	h := &Histogram{}
	h.Add(time.Second, 0)
	h.Add(time.Second, -1)
	h.Merge(&Histogram{})
	index, count := h.Pairs()
	if h.Total() != 0 || h.Quantile(0.5) != 0 || index == nil || count == nil || len(index)+len(count) != 0 {
		t.Errorf("empty: total %d, median %v, pairs %#v %#v; want 0, 0, empty lists", h.Total(), h.Quantile(0.5), index, count)
	}
}

// exactQuantile is the q-quantile by nearest rank of sorted durations.
func exactQuantile(sorted []time.Duration, q float64) time.Duration {
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

func TestQuantileIsWithinRelativeError(t *testing.T) {
	believed := rapid.Map(someDuration(), func(d time.Duration) time.Duration { return min(max(d, 0), bound(last-1)) })
	rapid.Check(t, func(t *rapid.T) {
		durations := rapid.SliceOfN(believed, 1, 200).Draw(t, "durations")
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		h := histogramOf(durations)
		slices.Sort(durations)
		want := exactQuantile(durations, q)
		got := h.Quantile(q)
		if off := math.Abs(float64(got - want)); off > RelativeError*float64(want)+1 && want > time.Microsecond {
			t.Fatalf("Quantile(%v) of %v = %v, want %v up to %v", q, durations, got, want, RelativeError)
		}
		if want <= time.Microsecond && got != Value(0) {
			t.Fatalf("Quantile(%v) of %v = %v, want %v", q, durations, got, Value(0))
		}
	})
}

func TestQuantileOutOfBounds(t *testing.T) {
	h := histogramOf([]time.Duration{time.Millisecond, time.Second})
	for q, want := range map[float64]time.Duration{
		-1: time.Millisecond, 0: time.Millisecond, 0.5: time.Millisecond, 0.51: time.Second, 1: time.Second, 2: time.Second, math.Inf(1): time.Second,
	} {
		if got := h.Quantile(q); got != Value(BucketOf(want)) {
			t.Errorf("Quantile(%v) = %v, want about %v", q, got, want)
		}
	}
}

// counted is a plain model of a histogram.
type counted [NumBuckets]int64

func (c *counted) add(d time.Duration, n int64) {
	if n > 0 {
		c[BucketOf(d)] = addUp(c[BucketOf(d)], n)
	}
}

func (c *counted) of(h *Histogram) *counted {
	for bucket, n := range h.All() {
		c[bucket] = n
	}
	return c
}

func anyCount() *rapid.Generator[int64] {
	return rapid.OneOf(rapid.Int64Range(-1, 3), rapid.SampledFrom([]int64{
		math.MaxUint8, math.MaxUint8 + 1, math.MaxUint16, math.MaxUint16 + 1, math.MaxUint32, math.MaxUint32 + 1, math.MaxInt64,
	}))
}

func TestHistogramCountsAsAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, want := &Histogram{}, &counted{}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				if diff := cmp.Diff(want, (&counted{}).of(h)); diff != "" {
					t.Fatalf("-want +got:\n%s", diff)
				}
			},
			"add": func(t *rapid.T) {
				d, n := someDuration().Draw(t, "d"), anyCount().Draw(t, "n")
				h.Add(d, n)
				want.add(d, n)
			},
			"again": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "seldom") == 0 {
					h.reset()
					*want = counted{}
				}
			},
		})
	})
}

func TestSumsAreMerged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total, merged := &sums{}, &Histogram{}
		for range rapid.IntRange(0, 4).Draw(t, "parts") {
			part := &Histogram{}
			for range rapid.IntRange(0, 5).Draw(t, "adds") {
				part.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "d")), anyCount().Draw(t, "n"))
			}
			total.add(part)
			merged.Merge(part)
		}
		if got := total.histogram(); !got.Equal(*merged) {
			t.Fatalf("sums %v, merged %v", (&counted{}).of(&got), (&counted{}).of(merged))
		}
	})
}

func TestMergeIsAllAtOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		whole, merged := &Histogram{}, &Histogram{}
		for range rapid.IntRange(0, 4).Draw(t, "parts") {
			part := &Histogram{}
			for range rapid.IntRange(0, 20).Draw(t, "adds") {
				d, n := someDuration().Draw(t, "d"), rapid.Int64Range(1, 1000).Draw(t, "n")
				part.Add(d, n)
				whole.Add(d, n)
			}
			merged.Merge(part)
		}
		if !merged.Equal(*whole) {
			t.Fatalf("merged %v, all at once %v", (&counted{}).of(merged), (&counted{}).of(whole))
		}
	})
}

func TestPairsAndBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := &Histogram{}
		for range rapid.IntRange(0, 20).Draw(t, "adds") {
			h.Add(someDuration().Draw(t, "d"), anyCount().Draw(t, "n"))
		}
		index, count := h.Pairs()
		back, err := FromPairs(index, count)
		if err != nil || !back.Equal(*h) {
			t.Fatalf("FromPairs(%v, %v) = %v, %v", index, count, (&counted{}).of(&back), err)
		}
	})
}

func TestFromPairsRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		index []int16
		count []int64
		want  string
	}{
		"lengths":  {[]int16{1}, nil, "making a histogram of 1 buckets and 0 counts: not as many"},
		"negative": {[]int16{-1}, []int64{1}, "making a histogram: bucket -1 comes after -1, must ascend within 0 to 255"},
		"beyond":   {[]int16{256}, []int64{1}, "making a histogram: bucket 256 comes after -1, must ascend within 0 to 255"},
		"twice":    {[]int16{3, 3}, []int64{1, 1}, "making a histogram: bucket 3 comes after 3, must ascend within 0 to 255"},
		"count":    {[]int16{3}, []int64{-1}, "making a histogram: bucket 3 has the count -1, must not be below 0"},
	} {
		if h, err := FromPairs(c.index, c.count); err == nil || err.Error() != c.want || h.Total() != 0 {
			t.Errorf("%s: FromPairs(%v, %v) = total %d, %v; want %s", name, c.index, c.count, h.Total(), err, c.want)
		}
	}
}

func TestTotalStaysAtTheLargest(t *testing.T) {
	h := &Histogram{}
	h.Add(time.Millisecond, math.MaxInt64)
	h.Add(time.Second, math.MaxInt64)
	if h.Total() != math.MaxInt64 || h.Quantile(0.5) != Value(BucketOf(time.Millisecond)) {
		t.Errorf("total %d, median %v", h.Total(), h.Quantile(0.5))
	}
}

func TestCloneSharesNothing(t *testing.T) {
	h := histogramOf([]time.Duration{time.Millisecond})
	c := h.Clone()
	h.Add(time.Millisecond, 1)
	if c.Total() != 1 || h.Total() != 2 {
		t.Errorf("totals of the clone %d, of the original %d; want 1, 2", c.Total(), h.Total())
	}
}

func BenchmarkHistogramAdd(b *testing.B) {
	b.ReportAllocs()
	durations := lognormal(1, 1<<12)
	h := histogramOf(durations)
	i := 0
	for b.Loop() {
		h.Add(durations[i%len(durations)], 1)
		i++
	}
}

func BenchmarkHistogramMerge(b *testing.B) {
	b.ReportAllocs()
	part, sum := histogramOf(lognormal(1, 1<<12)), &Histogram{}
	for b.Loop() {
		sum.Merge(part)
	}
}

func BenchmarkHistogramQuantile(b *testing.B) {
	b.ReportAllocs()
	h := histogramOf(lognormal(1, 1<<12))
	for b.Loop() {
		if h.Quantile(0.99) == 0 {
			b.Fatal("0")
		}
	}
}
