package rollup

import (
	"iter"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// load yields the numbers of seconds that follow each other, from noon on.
func loadOf(counts []int64) iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		for i, n := range counts {
			if !yield(noon.Unix()+int64(i), n) {
				return
			}
		}
	}
}

// exact is a token bucket in integers, written down in another way than the one that is tested: its
// level falls below 0 by what those who wait have taken, by up to patience.
type exact struct {
	token, perNS, capacity, patience int64 // of a token there are PerSeconds·1e9 parts
	level, lastNS                    int64
	refused, held                    int64
}

func newExact(l Limit) *exact {
	perSecond := max(l.PerSeconds, 1)
	e := &exact{token: perSecond * 1e9, perNS: l.MaxTPS, patience: l.MaxTPS * l.MaxWaitMS * 1e6}
	e.capacity = l.Capacity * e.token
	e.level = e.capacity
	return e
}

func (e *exact) arrive(nowNS int64) {
	e.level = min(e.level+(nowNS-e.lastNS)*e.perNS, e.capacity)
	e.lastNS = nowNS
	switch {
	case e.level-e.token < -e.patience || e.perNS == 0:
		e.refused++
		return
	case e.level < e.token:
		e.held++
	}
	e.level -= e.token
}

func anyLimit() *rapid.Generator[Limit] {
	return rapid.Custom(func(t *rapid.T) Limit {
		l := Limit{
			MaxTPS:     rapid.Int64Range(0, 30).Draw(t, "max_tps"),
			PerSeconds: rapid.SampledFrom([]int64{0, 1, 1, 2, 7, 60}).Draw(t, "per_seconds"),
			MaxWaitMS:  rapid.SampledFrom([]int64{0, 0, 1, 333, 1000, 2500, 10_000}).Draw(t, "max_wait_ms"),
		}
		if l.MaxTPS > 0 {
			l.Capacity = rapid.OneOf(rapid.Just(l.MaxTPS), rapid.Int64Range(1, 60)).Draw(t, "capacity")
		}
		return l
	})
}

// anyArrivals draws where in a second n requests come: at its begin, at its end, in two heaps, or
// anywhere.
func anyArrivals(t *rapid.T, n int64) []int64 {
	somewhere := rapid.OneOf(rapid.Just[int64](0), rapid.Just[int64](1e9-1), rapid.Int64Range(0, 1e9-1))
	heap := [2]int64{somewhere.Draw(t, "heap"), somewhere.Draw(t, "heap")}
	spread, at := rapid.Bool().Draw(t, "spread"), make([]int64, n)
	for i := range at {
		if spread {
			at[i] = somewhere.Draw(t, "at")
		} else {
			at[i] = heap[rapid.IntRange(0, 1).Draw(t, "which")]
		}
	}
	slices.Sort(at)
	return at
}

func TestWhatIfBoundsHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := anyLimit().Draw(t, "limit")
		counts := rapid.SliceOfN(rapid.OneOf(rapid.Just[int64](0), rapid.Int64Range(0, 40)), 0, 8).Draw(t, "counts")
		e := newExact(l)
		for second, n := range counts {
			for _, at := range anyArrivals(t, n) {
				e.arrive(int64(second)*1e9 + at)
			}
		}
		got, err := WhatIf(l, loadOf(counts))
		if r := got.Refused; err != nil || e.refused < r.Least || e.refused > r.Most || r.Estimate < r.Least || r.Estimate > r.Most {
			t.Fatalf("%+v, %v of %v: %+v, %v; refused in truth: %d", l, counts, got.Offered, r, err, e.refused)
		}
		if got.Held < 0 || got.Held+got.Refused.Estimate > got.Offered || (l.MaxWaitMS == 0 && got.Held > 0) {
			t.Fatalf("%+v, %v: held %d of %d, of which %d are refused", l, counts, got.Held, got.Offered, got.Refused.Estimate)
		}
	})
}

// extremes are the numbers of refused of all ways in which the requests can come at quarters of
// their seconds, or just before the end.
type extremes struct {
	counts      []int64
	least, most int64
}

func (x *extremes) try(e exact, second int) {
	if second == len(x.counts) {
		x.least, x.most = min(x.least, e.refused), max(x.most, e.refused)
		return
	}
	x.place(e, second, x.counts[second], 0)
}

func (x *extremes) place(e exact, second int, left, from int64) {
	if left == 0 {
		x.try(e, second+1)
		return
	}
	for quarter := from; quarter <= 4; quarter++ {
		next := e
		next.arrive(int64(second)*1e9 + min(quarter*250e6, 1e9-1))
		x.place(next, second, left-1, quarter)
	}
}

// TestWhatIfBoundsAreReached: they are not only bounds, but the smallest and the largest number that
// there can be.
func TestWhatIfBoundsAreReached(t *testing.T) {
	for _, c := range []struct {
		l      Limit
		counts []int64
	}{
		{Limit{MaxTPS: 4, Capacity: 1}, []int64{2, 3, 4}},
		{Limit{MaxTPS: 4, Capacity: 2}, []int64{3, 3, 3}},
		{Limit{MaxTPS: 4, Capacity: 3}, []int64{5, 2, 4}},
		{Limit{MaxTPS: 4, Capacity: 4}, []int64{5, 4, 1}},
		{Limit{MaxTPS: 4, Capacity: 6}, []int64{6, 6, 2}},
		{Limit{MaxTPS: 4, Capacity: 2, MaxWaitMS: 250}, []int64{4, 4, 4}},
		{Limit{MaxTPS: 4, Capacity: 1, MaxWaitMS: 1000}, []int64{6, 5, 3}},
		{Limit{MaxTPS: 8, PerSeconds: 2, Capacity: 8}, []int64{9, 3, 5}},
		{Limit{MaxTPS: 4, Capacity: 4}, []int64{2, 2, 2}},
		{Limit{MaxTPS: 4, Capacity: 2}, []int64{1, 3, 3}}, // worst: at the end, at the end, at the begin
	} {
		got, err := WhatIf(c.l, loadOf(c.counts))
		x := extremes{counts: c.counts, least: math.MaxInt64}
		x.try(*newExact(c.l), 0)
		if err != nil || got.Refused.Least != x.least || got.Refused.Most != x.most {
			t.Errorf("%+v of %v: refused %+v, %v; want %d to %d", c.l, c.counts, got.Refused, err, x.least, x.most)
		}
	}
}

// TestWhatIfMergesPaths: more paths than are kept make a looser bound, never a wrong one.
func TestWhatIfMergesPaths(t *testing.T) {
	b := newBucket(&Limit{MaxTPS: 1000, Capacity: 1000})
	few, all := most{bucket: b}, most{bucket: b}
	for i := range int64(3 * maxPaths) {
		p := path{level: (i*i + i) * 30_000 / 2, passed: 1000 - 10*i}
		few.paths, all.paths = append(few.paths, p), append(all.paths, p)
	}
	for len(few.paths) > maxPaths {
		few.join()
	}
	for _, p := range all.paths {
		if !slices.ContainsFunc(few.paths, func(q path) bool { return few.dominates(q, p) }) {
			t.Errorf("path %v is not covered by %v", p, few.paths)
		}
	}
}

func TestWhatIfOfGaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := anyLimit().Draw(t, "limit")
		counts := rapid.SliceOfN(rapid.OneOf(rapid.Just[int64](0), rapid.Just[int64](0), rapid.Int64Range(0, 40)), 0, 30).Draw(t, "counts")
		sparse := func(yield func(int64, int64) bool) {
			for second, n := range loadOf(counts) {
				if n > 0 && !yield(second, n) {
					return
				}
			}
		}
		want, err := WhatIf(l, loadOf(counts))
		if err != nil {
			t.Fatal(err)
		}
		got, err := WhatIf(l, sparse)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Fatalf("error %v, -with zeros +without:\n%s", err, diff)
		}
	})
}

func TestWhatIfOfMinutes(t *testing.T) {
	counts := make([]int64, 200)
	for i := range counts {
		counts[i] = 10
		if 65 <= i && i < 125 { // from 12:01:05 to 12:02:05
			counts[i] = 300
		}
	}
	got, err := WhatIf(Limit{MaxTPS: 100, Capacity: 100}, loadOf(counts))
	if err != nil {
		t.Fatal(err)
	}
	// 200 of each of these seconds, but that the bucket was full before the first.
	want := Outcome{Offered: 140*10 + 60*300, Refused: Range{11_900, 11_900, 11_900}, Minutes: []Minute{
		{noon.Unix(), 600, 0}, {noon.Unix() + 60, 5*10 + 55*300, 10_900}, {noon.Unix() + 120, 5*300 + 55*10, 1_000}, {noon.Unix() + 180, 200, 0},
	}}
	near := cmp.Comparer(func(a, b int64) bool { return a-b <= 20 && b-a <= 20 })
	most := got.Refused.Most
	got.Refused.Most = want.Refused.Most // of that there are other tests
	if diff := cmp.Diff(want, got, near); diff != "" || most < got.Refused.Estimate {
		t.Errorf("at most %d, -want +got:\n%s", most, diff)
	}
	sum := int64(0)
	for _, m := range got.Minutes {
		sum += m.Refused
	}
	worst := got.Minutes[1]
	if sum != got.Refused.Estimate || !worst.Begin().Equal(noon.Add(time.Minute)) || math.Abs(worst.Share()-0.66) > 0.01 {
		t.Errorf("all minutes %d of %d; the worst %+v", sum, got.Refused.Estimate, worst)
	}
}

func TestWhatIfNothingIsRefused(t *testing.T) {
	got, err := WhatIf(Limit{MaxTPS: 100, Capacity: 100}, loadOf([]int64{50, 50, 50}))
	if err != nil || got.Refused != (Range{}) || len(got.Minutes) != 1 || got.Minutes[0].Refused != 0 || got.Minutes[0].Share() != 0 {
		t.Errorf("%+v, %v; want nothing refused", got, err)
	}
}

func TestWhatIfOfOneSecond(t *testing.T) {
	for _, c := range []struct {
		l    Limit
		want int64 // of 1000 requests in the one second there is, refused if all come at its begin
	}{
		{Limit{}, 1000},
		{Limit{MaxWaitMS: 1000}, 1000},
		{Limit{MaxTPS: 3, Capacity: 3}, 997},
		{Limit{MaxTPS: 95, Capacity: 10}, 990},
		{Limit{MaxTPS: 101, Capacity: 11}, 989},
		{Limit{MaxTPS: 500, PerSeconds: 60, Capacity: 500}, 500},
		{Limit{MaxTPS: 500, Capacity: 70}, 930},
		{Limit{MaxTPS: 100, Capacity: 10, MaxWaitMS: 2000}, 790},
		{Limit{MaxTPS: 1e9, PerSeconds: 366 * 24 * 3600, Capacity: 1e9, MaxWaitMS: 1_800_000}, 0},
		{Limit{MaxTPS: 1e9, PerSeconds: 366 * 24 * 3600, Capacity: 1, MaxWaitMS: 1000}, 968}, // 31.6 of 1e9 a second
	} {
		got, err := WhatIf(c.l, loadOf([]int64{1000}))
		if err != nil || got.Refused.Most != c.want {
			t.Errorf("%+v: refused %+v, %v; want at most %d", c.l, got.Refused, err, c.want)
		}
	}
}

func TestWhatIfRefuses(t *testing.T) {
	pairs := func(p ...[2]int64) iter.Seq2[int64, int64] {
		return func(yield func(int64, int64) bool) {
			for _, p := range p {
				if !yield(p[0], p[1]) {
					return
				}
			}
		}
	}
	const asking = "asking what a limit would have done: "
	for _, c := range []struct {
		l       Limit
		seconds iter.Seq2[int64, int64]
		want    string
	}{
		{Limit{MaxTPS: -1, Capacity: 1e9 + 1}, pairs(), "max_tps -1: is not within 0 to 1000000000\ncapacity 1000000001: is not within 0 to 1000000000"},
		{Limit{MaxTPS: 5}, pairs(), "capacity 0: does not go with max_tps 5, only 0 goes with 0"},
		{Limit{Capacity: 5}, pairs(), "capacity 5: does not go with max_tps 0, only 0 goes with 0"},
		{Limit{PerSeconds: 366*24*3600 + 1}, pairs(), "per_seconds 31622401: is not within 0 to 31622400"},
		{Limit{MaxWaitMS: 1_800_001}, pairs(), "max_wait_ms 1800001: is not within 0 to 1800000"},
		{Limit{}, pairs([2]int64{7, -1}), "second 7 has -1 requests: is not within 0 to 100000000000"},
		{Limit{}, pairs([2]int64{7, 1e11 + 1}), "second 7 has 100000000001 requests: is not within 0 to 100000000000"},
		{Limit{}, pairs([2]int64{7, 1}, [2]int64{7, 1}), "second 7 comes after 7, must ascend"},
		{Limit{}, pairs([2]int64{7, 1}, [2]int64{6, 1}), "second 6 comes after 7, must ascend"},
	} {
		if got, err := WhatIf(c.l, c.seconds); err == nil || err.Error() != asking+c.want || got.Offered != 0 {
			t.Errorf("%+v: %+v, %v; want %s", c.l, got, err, c.want)
		}
	}
}

// TestWhatIfOfAbsurdNumbers: they are answered, and no bound is below 0.
func TestWhatIfOfAbsurdNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limit{
			MaxTPS: rapid.Int64Range(0, 1e9).Draw(t, "max_tps"), PerSeconds: rapid.Int64Range(0, 366*24*3600).Draw(t, "per_seconds"),
			MaxWaitMS: rapid.Int64Range(0, 1_800_000).Draw(t, "max_wait_ms"),
		}
		if l.MaxTPS > 0 {
			l.Capacity = rapid.Int64Range(1, 1e9).Draw(t, "capacity")
		}
		second := rapid.Int64Range(-1e12, 1e12).Draw(t, "begin")
		got, err := WhatIf(l, func(yield func(int64, int64) bool) {
			for range rapid.IntRange(0, 20).Draw(t, "seconds") {
				second += rapid.OneOf(rapid.Int64Range(1, 3), rapid.Int64Range(1, 1e12)).Draw(t, "pause")
				n := rapid.OneOf(rapid.Int64Range(0, 10), rapid.Int64Range(0, 1e9), rapid.Int64Range(0, maxRequests)).Draw(t, "n")
				if !yield(second, n) {
					return
				}
			}
		})
		r := got.Refused
		if err != nil || r.Least < 0 || r.Least > r.Most || r.Estimate < r.Least || r.Estimate > r.Most || r.Most > got.Offered || got.Held < 0 || got.Held > got.Offered {
			t.Fatalf("%+v: %+v, %v", l, got, err)
		}
	})
}
