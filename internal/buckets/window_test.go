package buckets

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// meter is what the plain models of the algorithms have in common.
type meter interface {
	advance(nowNS int64)
	has(hits uint64) bool
	take(hits uint64)
	give(hits uint64)
	wait(hits uint64) int64 // for hits that can pass
	full() int64
	whole() uint64 // hits that there is room for
	used() uint64
}

func newMeter(l *limits.Limit, nowNS int64) meter {
	if l.Algorithm == limits.TokenBucket {
		return newExactBucket(l, nowNS)
	}
	return &windowMeter{limit: l, lastNS: nowNS}
}

// changed is m under another limit: usage stays.
func changed(m meter, l *limits.Limit, atNS int64) meter {
	exact, isExact := m.(*exactBucket)
	windows, isWindows := m.(*windowMeter)
	switch {
	case isExact && l.Algorithm == limits.TokenBucket:
		exact.change(l, atNS)
		exact.cut(l.Rate().PerNS)
		return exact
	case isWindows && l.Algorithm == windows.limit.Algorithm && l.WindowNS() == windows.limit.WindowNS():
		windows.advance(atNS)
		windows.limit = l
		return windows
	}
	m.advance(atNS)
	used := m.used()
	next := newMeter(l, atNS)
	if l.Algorithm == limits.TokenBucket {
		used = min(used, l.Capacity())
	}
	if next.take(used); used == 0 {
		return newMeter(l, atNS)
	}
	return next
}

// windowMeter keeps every hit, and asks each of them whether it still counts.
type windowMeter struct {
	limit  *limits.Limit
	hits   []int64 // when they came
	lastNS int64
}

// endNS is when a hit no longer counts.
func (m *windowMeter) endNS(atNS int64) int64 {
	length := m.limit.WindowNS()
	if m.limit.Algorithm == limits.FixedWindow {
		return (atNS/length + 1) * length
	}
	part := length / 64
	return (atNS/part + 65) * part
}

func (m *windowMeter) advance(nowNS int64) {
	m.lastNS = nowNS
	m.hits = slices.DeleteFunc(m.hits, func(at int64) bool { return m.endNS(at) <= nowNS })
}

func (m *windowMeter) used() uint64 { return uint64(len(m.hits)) }

func (m *windowMeter) whole() uint64 { return m.limit.Capacity() - min(m.used(), m.limit.Capacity()) }

func (m *windowMeter) has(hits uint64) bool { return m.whole() >= hits }

func (m *windowMeter) take(hits uint64) {
	for range hits {
		m.hits = append(m.hits, m.lastNS)
	}
}

func (m *windowMeter) give(hits uint64) {
	m.hits = m.hits[:len(m.hits)-int(min(hits, m.used()))]
}

func (m *windowMeter) wait(hits uint64) int64 {
	if m.has(hits) {
		return 0
	}
	return m.endNS(m.hits[m.used()+hits-m.limit.Capacity()-1]) - m.lastNS
}

func (m *windowMeter) full() int64 {
	if len(m.hits) == 0 {
		return 0
	}
	return m.endNS(m.hits[len(m.hits)-1]) - m.lastNS
}

func windowed(a limits.Algorithm, n, seconds int64) *limits.Limit {
	l := row(n, 0, "gw")
	l.Algorithm, l.PerSeconds = a, seconds
	return l.Compile(0)
}

// TestWindowsEqualModel drives a bucket with windows and the plain model side by side, through
// changes of number and algorithm.
func TestWindowsEqualModel(t *testing.T) {
	draw := func(t *rapid.T) *limits.Limit {
		algorithm := rapid.SampledFrom([]limits.Algorithm{limits.TokenBucket, limits.FixedWindow, limits.FixedWindow, limits.SlidingWindow, limits.SlidingWindow}).Draw(t, "algorithm")
		return windowed(algorithm, rapid.Int64Range(0, 20).Draw(t, "max_tps"), 2)
	}
	step := rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(0, 100*ms), rapid.Int64Range(0, 5*sec), rapid.Just(2*sec), rapid.Just(2*sec/64))
	rapid.Check(t, func(t *rapid.T) {
		l, nowNS := draw(t), int64(1)
		var b bucket
		b.adopt(l, nowNS, nowNS)
		model := newMeter(l, nowNS)
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				hits := rapid.Uint64Range(0, 5).Draw(t, "hits")
				if can := b.waitNS(hits) == 0; can != model.has(hits) {
					t.Fatalf("%+v: %d hits pass: %t, want %t", b, hits, can, !can)
				} else if can {
					b.take(hits)
					model.take(hits)
				}
			},
			"give": func(t *rapid.T) {
				hits := rapid.Uint64Range(0, 5).Draw(t, "hits")
				b.give(hits)
				model.give(hits)
			},
			"change": func(t *rapid.T) {
				l = draw(t)
				b.adopt(l, nowNS, nowNS)
				model = changed(model, l, nowNS)
			},
			"": func(t *rapid.T) {
				nowNS += step.Draw(t, "step_ns")
				b.advance(nowNS)
				model.advance(nowNS)
				if b.tokens != model.whole() {
					t.Fatalf("%+v: %d left, want %d", b, b.tokens, model.whole())
				}
				if got, want := b.fullInNS(), model.full(); l.MaxTPS > 0 && got != want {
					t.Fatalf("%+v: full in %d ns, want %d", b, got, want)
				}
				for hits := uint64(1); hits <= b.capacity; hits++ {
					if got, want := b.waitNS(hits), model.wait(hits); got != want {
						t.Fatalf("%+v: wait for %d hits %d ns, want %d", b, hits, got, want)
					}
				}
			},
		})
	})
}

// TestWindowsOverEveryStart takes what there is at random instants and looks at every window that
// begins at a hit: never more than the number; and what a sliding window refuses was used up by
// hits no older than the window and a 64th of it.
func TestWindowsOverEveryStart(t *testing.T) {
	for _, algorithm := range []limits.Algorithm{limits.FixedWindow, limits.SlidingWindow} {
		for _, n := range []int64{1, 3, 7, 333} {
			t.Run(fmt.Sprintf("%s/%d", algorithm, n), func(t *testing.T) {
				rapid.Check(t, func(t *rapid.T) { everyStart(t, windowed(algorithm, n, 60)) })
			})
		}
	}
}

func everyStart(t *rapid.T, l *limits.Limit) {
	const late = 60 * sec / 64
	var b bucket
	b.adopt(l, 1, 1)
	var hits []int64
	nowNS := rapid.Int64Range(1, 60*sec).Draw(t, "begin")
	for range rapid.IntRange(1, 100).Draw(t, "requests") {
		nowNS += rapid.OneOf(rapid.Int64Range(0, 10), rapid.Int64Range(0, 2*60*sec/l.MaxTPS), rapid.Int64Range(0, 70*sec)).Draw(t, "step_ns")
		b.advance(nowNS)
		for range rapid.Int64Range(1, l.MaxTPS).Draw(t, "at once") {
			if b.waitNS(1) == 0 {
				b.take(1)
				hits = append(hits, nowNS)
				continue
			}
			recent := slices.DeleteFunc(slices.Clone(hits), func(at int64) bool { return at <= nowNS-60*sec-late })
			if l.Algorithm == limits.SlidingWindow && int64(len(recent)) < l.MaxTPS {
				t.Fatalf("refused at %d, though only %d of %d came in the last window and a 64th: %v", nowNS, len(recent), l.MaxTPS, hits)
			}
			break
		}
	}
	for i, first := range hits {
		endNS := first + 60*sec
		if l.Algorithm == limits.FixedWindow {
			endNS = (first/(60*sec) + 1) * 60 * sec
		}
		if n := slices.IndexFunc(hits[i:], func(at int64) bool { return at >= endNS }); int64(n) > l.MaxTPS || (n < 0 && int64(len(hits)-i) > l.MaxTPS) {
			t.Fatalf("more than %d hits from %d to %d: %v", l.MaxTPS, first, endNS, hits[i:])
		}
	}
}

// TestQueueOfWindows tells how long hits take that pass one by one, as they are let.
func TestQueueOfWindows(t *testing.T) {
	for _, algorithm := range []limits.Algorithm{limits.FixedWindow, limits.SlidingWindow} {
		rapid.Check(t, func(t *rapid.T) {
			l := windowed(algorithm, rapid.Int64Range(1, 5).Draw(t, "max_tps"), 2)
			var b bucket
			nowNS := rapid.Int64Range(1, 4*sec).Draw(t, "now")
			b.adopt(l, nowNS, nowNS)
			b.take(rapid.Uint64Range(0, b.capacity).Draw(t, "used"))
			nowNS += rapid.Int64Range(0, 3*sec).Draw(t, "step_ns")
			b.advance(nowNS)
			total := rapid.Uint64Range(1, 30).Draw(t, "hits")
			told := b.queueWaitNS(total-1, 1)
			for range total {
				b.advance(b.lastNS + b.waitNS(1))
				b.take(1)
			}
			// Each window of a sliding one may be a 64th longer than what is told.
			took, late := b.lastNS-nowNS, int64(0)
			if algorithm == limits.SlidingWindow {
				late = int64(total/b.capacity+1) * 2 * sec / 64
			}
			if told > took || told < took-late {
				t.Fatalf("%s of %d: %d hits take %d ns, told %d", algorithm, l.MaxTPS, total, took, told)
			}
		})
	}
}
