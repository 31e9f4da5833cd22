//go:build !race

package rollup

import (
	"testing"
	"time"
)

// The race detector allocates itself, so that the file is built without it only.

func TestAllocHistogram(t *testing.T) {
	durations := lognormal(1, 1000)
	h, i := histogramOf(durations), 0
	if got := testing.AllocsPerRun(1000, func() {
		h.Add(durations[i%len(durations)], 1)
		i++
	}); got != 0 {
		t.Errorf("Add: %v allocations, want 0", got)
	}
	sum := h.Clone()
	sum.Merge(h)
	if got := testing.AllocsPerRun(1000, func() {
		sum.Merge(h)
		sum.Quantile(0.99)
		sum.Total()
	}); got != 0 {
		t.Errorf("Merge, Quantile and Total: %v allocations, want 0", got)
	}
}

func TestAllocNames(t *testing.T) {
	for bound, want := range map[int]bool{1000: false, 4: true} {
		n, keys, i := NewNames(bound), someKeys(1000), 0
		for _, k := range keys {
			n.Bounded(k.Domain, k.Gateway, k.Endpoint)
		}
		got := testing.AllocsPerRun(1000, func() {
			k := &keys[i%len(keys)]
			n.Bounded(k.Domain, k.Gateway, k.Endpoint)
			i++
		})
		if got != 0 || (n.Full() > 0) != want {
			t.Errorf("bound %d: %v allocations, %d lookups went to other; want 0 allocations", bound, got, n.Full())
		}
	}
}

// TestAllocWindows: an Add of what goes on as it went the last hour allocates nothing, from one
// second to the next.
func TestAllocWindows(t *testing.T) {
	w, keys, now := busy(100, 1)
	durations, tr, i := lognormal(1, 1000), one(), 0
	if got := testing.AllocsPerRun(200*len(keys), func() {
		tr.Duration = durations[i%len(durations)]
		w.Add(now.Add(time.Duration(i/len(keys))*time.Second), tr, keys[i%len(keys)])
		i++
	}); got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}
