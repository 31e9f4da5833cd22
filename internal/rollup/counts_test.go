package rollup

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

func countsOf(ts ...traffic.Transaction) *Counts {
	c := &Counts{}
	for i := range ts {
		c.Add(&ts[i])
	}
	return c
}

func TestCountsOfEachKind(t *testing.T) {
	ms := time.Millisecond
	for name, c := range map[string]struct {
		t         traffic.Transaction
		want      Counts
		durations int64
	}{
		"success":        {traffic.Transaction{Success: true, Duration: 3 * ms}, Counts{Requests: 1, Successes: 1, Duration: Total{US: 3000}}, 1},
		"failure":        {traffic.Transaction{Duration: 3 * ms}, Counts{Requests: 1, Duration: Total{US: 3000}}, 1},
		"held":           {traffic.Transaction{Success: true, Waited: ms}, Counts{Requests: 1, Successes: 1, Held: 1, Waited: Total{US: 1000}}, 1},
		"throttled":      {traffic.Transaction{Throttled: true, Duration: 3 * ms}, Counts{Requests: 1, Throttled: 1}, 0},
		"held in vain":   {traffic.Transaction{Throttled: true, Waited: ms}, Counts{Requests: 1, Throttled: 1, Held: 1, Waited: Total{US: 1000}}, 0},
		"absurd":         {traffic.Transaction{Duration: -ms, Waited: -ms}, Counts{Requests: 1}, 1},
		"held 1 ns":      {traffic.Transaction{Waited: 1}, Counts{Requests: 1, Held: 1, Waited: Total{NS: 1}}, 1},
		"nothing is set": {traffic.Transaction{}, Counts{Requests: 1}, 1},
	} {
		c.want.Histogram.Add(c.t.Duration, c.durations)
		if diff := cmp.Diff(&c.want, countsOf(c.t)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", name, diff)
		}
	}
}

func TestMergedCountsAreAllAtOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ts := rapid.SliceOfN(anyTransaction(), 0, 30).Draw(t, "transactions")
		at := rapid.IntRange(0, len(ts)).Draw(t, "at")
		merged := countsOf(ts[:at]...)
		merged.Merge(countsOf(ts[at:]...))
		if diff := cmp.Diff(countsOf(ts...), merged); diff != "" {
			t.Fatalf("-all at once +merged:\n%s", diff)
		}
	})
}

func TestCountsStayAtTheLargest(t *testing.T) {
	most := int64(math.MaxInt64)
	full := Counts{Requests: most, Successes: most, Throttled: most, Held: most, Waited: Total{US: most}, Duration: Total{US: most}}
	full.Histogram.Add(time.Second, most)
	want := full.Clone()
	full.Merge(countsOf(traffic.Transaction{Success: true, Duration: time.Second, Waited: time.Second}))
	full.Add(&traffic.Transaction{Throttled: true, Waited: time.Second})
	if diff := cmp.Diff(want, full); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestMeanIsOfThoseNotThrottled(t *testing.T) {
	c := countsOf(traffic.Transaction{Duration: time.Second}, traffic.Transaction{Duration: 2 * time.Second}, traffic.Transaction{Throttled: true})
	if got := c.Mean(); got != 1500*time.Millisecond {
		t.Errorf("Mean() = %v, want 1.5s", got)
	}
	if got := countsOf(traffic.Transaction{Throttled: true}).Mean(); got != 0 {
		t.Errorf("Mean() of one throttled = %v, want 0", got)
	}
}

func TestCloneOfCounts(t *testing.T) {
	c := countsOf(traffic.Transaction{})
	clone := c.Clone()
	c.Add(&traffic.Transaction{})
	if clone.Requests != 1 || clone.Histogram.Total() != 1 {
		t.Errorf("the clone has %+v after an Add to the original, want 1", clone)
	}
}

func TestKeysAreOrdered(t *testing.T) {
	sorted := []Key{{"", "", ""}, {"", "", "b"}, {"", "b", "a"}, {"a", "", "z"}, {"a", "a", ""}, {"b", "", ""}}
	for i, a := range sorted {
		for j, b := range sorted {
			if got, want := a.Compare(b), min(max(i-j, -1), 1); got != want {
				t.Errorf("%v compared to %v is %d, want %d", a, b, got, want)
			}
		}
	}
}

// Sums are those of what was added, to the nanosecond, wherever they are cut.
func TestTotals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all, merged Total
		var want time.Duration
		for _, part := range rapid.SliceOfN(rapid.SliceOfN(rapid.Int64Range(0, 1e12), 0, 5), 1, 5).Draw(t, "nanoseconds") {
			var sum Total
			for _, ns := range part {
				d := time.Duration(ns)
				want += d
				all.Add(d)
				sum.Add(d)
			}
			merged.Merge(sum)
		}
		if got := time.Duration(all.US)*time.Microsecond + time.Duration(all.NS); got != want || all != merged || all.NS >= 1000 {
			t.Fatalf("the sum is %+v, in parts %+v, want %v", all, merged, want)
		}
		if got := all.Milliseconds(); math.Abs(got-float64(want)/1e6) > 1e-3 || TotalOf(got).US-all.US > 1 {
			t.Fatalf("%v are %v ms, and these %+v", want, got, TotalOf(got))
		}
	})
}
