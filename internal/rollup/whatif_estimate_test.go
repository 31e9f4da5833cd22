package rollup

import (
	"math"
	"math/rand/v2"
	"testing"
)

// atRandom is a Poisson process: how many come in each second, and what a bucket of that limit makes
// of it.
func atRandom(l Limit, perSecond float64, seconds int) (counts []int64, refused, held float64) {
	r, e, n := rand.New(rand.NewPCG(4, 4)), newExact(l), 0
	counts = make([]int64, seconds)
	for at := r.ExpFloat64() / perSecond; at < float64(seconds); at += r.ExpFloat64() / perSecond {
		counts[int(at)]++
		e.arrive(int64(at * 1e9))
		n++
	}
	return counts, float64(e.refused) / float64(n), float64(e.held) / float64(n)
}

func TestWhatIfEstimatesRandomRequests(t *testing.T) {
	for _, c := range []struct {
		l            Limit
		within, held float64 // shares
	}{
		{Limit{MaxTPS: 1, Capacity: 1}, 0.025, 0},
		{Limit{MaxTPS: 3, Capacity: 3}, 0.025, 0},
		{Limit{MaxTPS: 10, Capacity: 10}, 0.005, 0},
		{Limit{MaxTPS: 100, Capacity: 10}, 0.005, 0},
		{Limit{MaxTPS: 100, Capacity: 1}, 0.025, 0},
		{Limit{MaxTPS: 100, Capacity: 100}, 0.005, 0},
		{Limit{MaxTPS: 1000, Capacity: 100}, 0.005, 0},
		{Limit{MaxTPS: 1000, Capacity: 3}, 0.025, 0},
		{Limit{MaxTPS: 6, PerSeconds: 60, Capacity: 6}, 0.005, 0},
		{Limit{MaxTPS: 10, Capacity: 10, MaxWaitMS: 1000}, 0.005, 0.1},
		{Limit{MaxTPS: 100, Capacity: 10, MaxWaitMS: 1000}, 0.005, 0.1},
		{Limit{MaxTPS: 1000, Capacity: 10, MaxWaitMS: 20}, 0.005, 0.1},
		{Limit{MaxTPS: 1000, Capacity: 100, MaxWaitMS: 100}, 0.005, 0.1},
	} {
		for _, load := range []float64{0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1, 1.05, 1.2, 2} {
			perSecond := load * float64(c.l.MaxTPS) / float64(max(c.l.PerSeconds, 1))
			counts, refused, held := atRandom(c.l, perSecond, int(max(60_000/perSecond, 200)))
			got, err := WhatIf(c.l, loadOf(counts))
			if err != nil {
				t.Fatal(err)
			}
			gotRefused := float64(got.Refused.Estimate) / float64(got.Offered)
			gotHeld := float64(got.Held) / float64(got.Offered)
			if math.Abs(gotRefused-refused) > c.within || math.Abs(gotHeld-held) > c.held {
				t.Errorf("%+v at a load of %v: refused %.2f %%, held %.1f %%; want %.2f %% and %.1f %%",
					c.l, load, 100*gotRefused, 100*gotHeld, 100*refused, 100*held)
			}
		}
	}
}

// week is seven days of seconds: nights and days, noise, and a peak now and then.
func week() []int64 {
	r, counts := rand.New(rand.NewPCG(5, 5)), make([]int64, 7*24*3600)
	for i := range counts {
		mean := 500 + 450*math.Sin(float64(i)/13_751)
		counts[i] = int64(max(mean+math.Sqrt(mean)*r.NormFloat64(), 0))
		if i%1000 < 3 {
			counts[i] *= 3
		}
	}
	return counts
}

// BenchmarkWhatIf is the replay of a week.
func BenchmarkWhatIf(b *testing.B) {
	counts := week()
	for _, c := range []struct {
		name string
		l    Limit
	}{
		{"enough", Limit{MaxTPS: 5000, Capacity: 500}},
		{"peaks", Limit{MaxTPS: 900, Capacity: 90}},
		{"tight", Limit{MaxTPS: 500, Capacity: 50}},
		{"holds", Limit{MaxTPS: 500, Capacity: 50, MaxWaitMS: 2000}},
		{"burst=1", Limit{MaxTPS: 500, Capacity: 1}},
		{"burst=1200", Limit{MaxTPS: 500, Capacity: 1200}},
		{"minute", Limit{MaxTPS: 30_000, PerSeconds: 60, Capacity: 30_000}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := WhatIf(c.l, loadOf(counts)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
