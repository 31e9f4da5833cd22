package buckets

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// count is a request of one descriptor of a counter.
func count(hits uint64, key string, l *limits.Limit) *Request {
	return &Request{Domain: "d", ChargeEach: true, Descriptors: []Descriptor{counted(hits, key, l)}}
}

func counted(hits uint64, key string, l *limits.Limit) Descriptor {
	return Descriptor{Hits: hits, MaxWaitMS: -1, Counter: Counter{Key: []byte(key), Limit: l}}
}

// naiveCounter is a fixed window as envoyproxy/ratelimit counts it.
type naiveCounter struct{ window, used int64 }

func (c *naiveCounter) ask(nowNS, seconds, limit, hits int64, negative bool) (over bool, remaining, resetNS int64) {
	length := seconds * sec
	if w := nowNS / length; w != c.window {
		c.window, c.used = w, 0
	}
	if negative {
		c.used = max(c.used-hits, 0)
	} else {
		c.used += hits
	}
	return !negative && c.used > limit, max(limit-c.used, 0), length - nowNS%length
}

// TestCountersLikeNaive asks counters of two windows in random order, while their numbers change.
func TestCountersLikeNaive(tt *testing.T) {
	rapid.Check(tt, func(t *rapid.T) {
		w := newWorld(tt, Config{})
		naive := map[string]*naiveCounter{}
		nowNS := int64(1_700_000_000)*sec + rapid.Int64Range(0, 100*sec).Draw(t, "start")
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			nowNS += rapid.SampledFrom([]int64{0, 1, sec / 3, sec, 40 * sec}).Draw(t, "later")
			r := &Request{Domain: "d", ChargeEach: true}
			var want []string
			wantCode := OK
			for range rapid.IntRange(1, 4).Draw(t, "descriptors") {
				seconds, n := rapid.SampledFrom([]int64{1, 60}).Draw(t, "seconds"), rapid.Int64Range(0, 6).Draw(t, "number")
				key := fmt.Sprintf("k%d-%s", seconds, rapid.SampledFrom([]string{"a", "b"}).Draw(t, "name"))
				desc := counted(rapid.Uint64Range(0, 5).Draw(t, "hits"), key, limits.Window(uint32(n), seconds, limits.FixedWindow, false))
				desc.Negative = rapid.Bool().Draw(t, "negative")
				r.Descriptors = append(r.Descriptors, desc)
				if naive[key] == nil {
					naive[key] = &naiveCounter{}
				}
				over, remaining, resetNS := naive[key].ask(nowNS, seconds, n, int64(desc.Hits), desc.Negative)
				code := OK
				if over {
					code, wantCode = OverLimit, OverLimit
				}
				want = append(want, fmt.Sprint(code, remaining, resetNS, naive[key].used))
			}
			x, err := w.engine.explain(nowNS, r)
			if err != nil {
				t.Fatal(err)
			}
			d := w.decide(nowNS, r)
			var got []string
			for i, s := range d.Statuses {
				got = append(got, fmt.Sprint(s.Code, s.Remaining, s.ResetNS, s.Used))
				if e := x.Descriptors[i]; e.Code != s.Code || e.Limits[0].After != s.Remaining {
					t.Fatalf("explained as %+v, decided as %+v", e, s)
				}
			}
			if !slices.Equal(got, want) || d.Code != wantCode || x.Code != wantCode {
				t.Fatalf("at %d: %+v\ngot  %v %v\nwant %v %v", nowNS, r.Descriptors, d.Code, got, wantCode, want)
			}
		}
	})
}

// The other algorithms are charged only where there is room.
func TestCountersOfOtherAlgorithms(t *testing.T) {
	w := newWorld(t, Config{})
	for _, a := range []limits.Algorithm{limits.TokenBucket, limits.SlidingWindow} {
		l, key := limits.Window(10, 60, a, false), "k"+a.String()
		for i, step := range []struct {
			nowNS     int64
			hits      uint64
			code      Code
			remaining int64
		}{{60 * sec, 8, OK, 2}, {60 * sec, 3, OverLimit, 0}, {60 * sec, 2, OK, 0}, {60 * sec, 0, OverLimit, 0}, {180 * sec, 10, OK, 0}} {
			d := w.decide(step.nowNS, count(step.hits, key, l))
			if s := d.Statuses[0]; d.Code != step.code || s.Code != step.code || s.Remaining != step.remaining || s.ResetNS < 1 {
				t.Errorf("%v, step %d: %v %+v, want %v, %d left", a, i, d.Code, s, step.code, step.remaining)
			}
		}
	}
}

// Without ChargeEach the counters of one request are charged all together or not at all.
func TestCountersAllOrNothing(t *testing.T) {
	w := newWorld(t, Config{})
	wide, narrow, shadow := limits.Window(10, 60, limits.FixedWindow, false), limits.Window(1, 60, limits.FixedWindow, false), limits.Window(1, 60, limits.FixedWindow, true)
	both := func() *Request {
		return &Request{Domain: "d", Descriptors: []Descriptor{counted(1, "wide", wide), counted(1, "narrow", narrow), counted(1, "shadow", shadow)}}
	}
	if d := w.decide(sec, both()); d.Code != OK || d.Statuses[0].Remaining != 9 || d.Statuses[1].Remaining != 0 {
		t.Errorf("the first: %v %+v", d.Code, d.Statuses)
	}
	for range 3 {
		d := w.decide(sec, both())
		if d.Code != OverLimit || d.Statuses[0].Code != OK || d.Statuses[0].Remaining != 9 || d.Statuses[1].Code != OverLimit || !d.Statuses[2].ShadowRefused {
			t.Errorf("refused: %v %+v", d.Code, d.Statuses)
		}
	}
}

// Rows of the same domain have nothing to do with counters, and a descriptor without one no limit.
func TestCountersAndRows(t *testing.T) {
	w := newWorld(t, Config{DefaultMaxTPS: 1}, row(0, 0, "gw"))
	r := count(1, "k", limits.Window(1, 60, limits.FixedWindow, false))
	r.Descriptors = append(r.Descriptors, descriptor(1, "gw", ""), descriptor(1, "other", ""))
	if d := w.decide(sec, r); d.Code != OK || d.Statuses[1].Limit != nil || d.Statuses[2].Limit != nil {
		t.Errorf("%v %+v", d.Code, d.Statuses)
	}
	if d := w.decide(sec, ask(1, "gw", "")); d.Code != OverLimit {
		t.Errorf("the row answers %v", d.Code)
	}
}

// Usage survives the process, whose parts are others.
func TestCountersSurvive(t *testing.T) {
	first, l := newWorld(t, Config{}), limits.Window(100, 3600, limits.FixedWindow, false)
	for i := range 50 {
		first.decide(sec, count(uint64(i), fmt.Sprintf("k%d", i), l))
	}
	first.decide(sec, count(150, "exceeded", l))
	saved := slices.Collect(first.engine.usage(2 * sec))
	second := newWorld(t, Config{})
	second.engine.Restore(saved)
	for i := range 50 {
		if d := second.decide(2*sec, count(0, fmt.Sprintf("k%d", i), l)); d.Statuses[0].Used != uint64(i) {
			t.Errorf("counter %d: %+v", i, d.Statuses[0])
		}
	}
	if d := second.decide(2*sec, count(0, "exceeded", l)); d.Statuses[0].Used != 150 || d.Code != OverLimit {
		t.Errorf("the exceeded one: %v %+v", d.Code, d.Statuses[0])
	}
}

// Hits without end do not start again at 0.
func TestCountersSaturate(t *testing.T) {
	w, l := newWorld(t, Config{}), limits.Window(math.MaxUint32, 365*24*3600, limits.FixedWindow, false)
	g := w.engine.lockPart(w.engine.partOf("d", []byte("k")))
	desc := counted(0, "k", l)
	b := g.counterBucket(&desc, sec)
	b.window.used = maxUsed - 1
	g.mu.Unlock()
	for range 3 {
		if d := w.decide(sec, count(MaxHits, "k", l)); d.Code != OverLimit || d.Statuses[0].Used != maxUsed {
			t.Fatalf("%v %+v", d.Code, d.Statuses[0])
		}
	}
	sliding := limits.Window(math.MaxUint32, 365*24*3600, limits.SlidingWindow, false)
	d := w.decide(sec, count(0, "k", sliding)) // takes over more than it can count
	if far := int64(800*24*3600) * sec; d.Code != OverLimit || w.decide(far, count(0, "k", sliding)).Statuses[0].Used != 0 {
		t.Errorf("a sliding window that took over: %v %+v", d.Code, d.Statuses)
	}
}

// Counters are bounded like all else that clients can multiply, and the sweep frees what is over.
func TestCountersAreBounded(t *testing.T) {
	w, l := newWorld(t, Config{MaxBuckets: 1000}), limits.Window(10, 60, limits.FixedWindow, false)
	for i := range 5000 {
		w.decide(sec, count(1, fmt.Sprintf("k%d", i), l))
	}
	if s := w.engine.Stats(); s.Bounded > 1001 || s.Bounded < 900 || s.EvictedUsed < 3900 {
		t.Errorf("%+v", s)
	}
	for _, b := range w.engine.fullest(sec, 3) {
		if b.Counter == "" || b.Gateway != "" || b.Domain != "d" {
			t.Errorf("shown as %+v", b)
		}
	}
	w.engine.sweep(61 * sec)
	parts := 0
	for i := range w.engine.shards {
		parts += len(w.engine.shards[i].appendTo(nil))
	}
	if s := w.engine.Stats(); s.Bounded != 0 || s.Buckets != 0 || parts != 0 {
		t.Errorf("after the window: %+v and %d parts", s, parts)
	}
}

// What a file writes out is not forgotten for names that a client invents, and these cost other domains
// nothing.
func TestCountersThatAreWrittenOut(t *testing.T) {
	w, l := newWorld(t, Config{MaxBuckets: 2000}), limits.Window(1000, 60, limits.FixedWindow, false)
	exact := count(7, "written out", l)
	exact.Descriptors[0].Counter.Exact = true
	w.decide(sec, exact)
	for i := range 50 {
		r := count(1, fmt.Sprintf("k%d", i), l)
		r.Domain = "other"
		w.decide(sec, r)
	}
	for i := range 10_000 {
		w.decide(2*sec, count(1, fmt.Sprintf("invented %d", i), l))
	}
	exact.Descriptors[0].Hits = 0
	if d := w.decide(2*sec, exact); d.Statuses[0].Used != 7 {
		t.Errorf("what is written out has used %d, want 7", d.Statuses[0].Used)
	}
	kept := 0
	for i := range 50 {
		r := count(0, fmt.Sprintf("k%d", i), l)
		r.Domain = "other"
		kept += int(w.decide(2*sec, r).Statuses[0].Used)
	}
	if kept < 40 {
		t.Errorf("%d of 50 counters of another domain are left", kept)
	}
}

// A descriptor without a counter has no limit, whatever else it says, also where it is explained.
func TestCounterThatIsNone(t *testing.T) {
	w := newWorld(t, Config{DefaultMaxTPS: 1}, row(0, 0, "gw"))
	r := ask(1, "gw", "ep")
	r.ChargeEach = true
	r.Descriptors[0].Override, r.Descriptors[0].OverrideWindowNS = 0, sec
	r.Descriptors = append(r.Descriptors, Descriptor{Hits: 1, OverrideWindowNS: sec})
	x, err := w.engine.explain(sec, r)
	if err != nil || x.Code != OK || len(x.Descriptors[0].Limits)+len(x.Descriptors[1].Limits) != 0 {
		t.Errorf("%+v, %v", x, err)
	}
	if d := w.decide(sec, r); d.Code != OK || w.engine.Stats().Buckets != 0 {
		t.Errorf("%v %+v", d.Code, w.engine.Stats())
	}
	w.engine.sweep(sec)
}

// A limit that the request brings along is a fixed window, on the same counter as one of the file.
func TestCountersOfOverrides(t *testing.T) {
	w := newWorld(t, Config{})
	w.decide(sec, count(3, "k", limits.Window(10, 60, limits.FixedWindow, false)))
	r := &Request{Domain: "d", ChargeEach: true, Descriptors: []Descriptor{{
		Hits: 1, Override: 5, OverrideWindowNS: 60 * sec, Counter: Counter{Key: []byte("k")},
	}}}
	for _, want := range []Code{OK, OK, OverLimit} {
		if d := w.decide(sec, r); d.Code != want || d.Statuses[0].ResetNS != 59*sec {
			t.Errorf("%v %+v, want %v", d.Code, d.Statuses[0], want)
		}
	}
}

// Each limit-th hit of many at once passes, and no more.
func TestCountersHammer(t *testing.T) {
	w, l := newWorld(t, Config{}), limits.Window(1000, 3600, limits.FixedWindow, false)
	var group sync.WaitGroup
	var mu sync.Mutex
	passed := 0
	for range 8 {
		group.Go(func() {
			mine := 0
			for range 500 {
				if w.decide(sec, count(1, "k", l)).Code == OK {
					mine++
				}
			}
			mu.Lock()
			defer mu.Unlock()
			passed += mine
		})
	}
	group.Wait()
	if passed != 1000 {
		t.Errorf("%d passed, want 1000", passed)
	}
}
