package buckets

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// invented returns a request that names the i-th of names that no row writes out.
type invented func(i int) *Request

// inventions are all ways in which a client makes buckets.
func inventions() map[string]invented {
	return map[string]invented{
		"gateways":          func(i int) *Request { return ask(1, fmt.Sprint("new-", i), "") },
		"endpoints":         func(i int) *Request { return ask(1, "gw", fmt.Sprint("new-", i)) },
		"gateway endpoints": func(i int) *Request { return ask(1, fmt.Sprint("new-", i), "ep") },
		"long endpoints":    func(i int) *Request { return ask(1, "gw", strings.Repeat("x", 300)+strconv.Itoa(i)) },
		"values":            func(i int) *Request { return ask(1, "gw", "", Entry{"user", strconv.Itoa(i)}) },
		"values of an endpoint": func(i int) *Request {
			return ask(1, "gw", "ep", Entry{"user", strconv.Itoa(i)})
		},
		"domains": func(i int) *Request {
			r := ask(1, "common", "ep")
			r.Domain = strconv.Itoa(i)
			return r
		},
		"overrides": func(i int) *Request {
			r := ask(1, "gw", "ep")
			r.Descriptors[0].Override, r.Descriptors[0].OverrideWindowNS = uint32(i+1), sec
			return r
		},
		"many in one request": func(i int) *Request {
			r := ask(1, "gw", "")
			for j := range 100 {
				r.Descriptors = append(r.Descriptors, descriptor(1, fmt.Sprint("new-", i, "-", j), "ep"))
			}
			return r
		},
	}
}

func evictionWorld(tb testing.TB, most int) *world {
	tb.Helper()
	common := row(1000, 1000, "common", "ep")
	common.Domain = ""
	return newWorld(tb, Config{DefaultMaxTPS: 1000, MaxBuckets: most},
		row(1000, 1000, "gw"), row(1, 3, "gw", "*"), row(1000, 1000, "gw", "ep"), row(1, 3, "gw", "", "user"), row(1, 3, "gw", "ep", "user"),
		row(1, 3, "new-*"), row(1, 3, "new-*", "ep"), row(1, 2, "mine", "ep"), common)
}

// TestEvictBoundsInventedNames: whatever a client invents, no more buckets live than allowed,
// and each request is decided as if its own were new.
func TestEvictBoundsInventedNames(t *testing.T) {
	const most = 100
	for name, request := range inventions() {
		t.Run(name, func(t *testing.T) {
			w := evictionWorld(t, most)
			for i := range maxDomains + 300 {
				nowNS := int64(i+1) * ms
				if d := w.decide(nowNS, request(i)); d.Code != OK {
					t.Fatalf("request %d of a new name: %v, want OK", i, d.Code)
				}
				if s := w.engine.Stats(); s.Bounded > most {
					t.Fatalf("after request %d: %+v, want at most %d bounded", i, s, most)
				}
			}
			w.checkCounts(most)
		})
	}
}

// TestEvictSparesWhatCommonRowsWriteOut: operators write most rows for all domains; their buckets
// are no invention of a client.
func TestEvictSparesWhatCommonRowsWriteOut(t *testing.T) {
	w := evictionWorld(t, 100)
	kept := ask(600, "common", "ep")
	w.decide(1, kept)
	for i := range 300 {
		w.decide(int64(i+2), ask(1, "new-"+strconv.Itoa(i), "ep"))
	}
	if d := w.decide(400, kept); d.Code != OverLimit {
		t.Errorf("600 of 1000 were used, and 600 more are %v: the bucket was forgotten", d.Code)
	}
}

// checkCounts counts what lives and compares it with Stats.
func (w *world) checkCounts(most int64) {
	w.tb.Helper()
	var gates, buckets, bounded int64
	for i := range w.engine.shards {
		for _, g := range w.engine.shards[i].appendTo(nil) {
			gates++
			buckets += 1 + int64(len(g.endpoints)+len(g.others))
			bounded += int64(len(g.dynamic))
			if !g.exact {
				bounded++
			}
		}
	}
	s := w.engine.Stats()
	if s.Gates != gates || s.Buckets != buckets || s.Bounded != bounded || bounded > most {
		w.tb.Errorf("stats %+v, counted %d gates, %d buckets, %d bounded (at most %d)", s, gates, buckets, bounded, most)
	}
	if s.EvictedFull+s.EvictedUsed == 0 {
		w.tb.Errorf("stats %+v: nothing was evicted", s)
	}
}

// TestEvictLeavesWrittenOutNames: a flood of invented names takes nothing from those in rows.
func TestEvictLeavesWrittenOutNames(t *testing.T) {
	for name, request := range inventions() {
		t.Run(name, func(t *testing.T) {
			w := evictionWorld(t, 20)
			w.admitted(1, ask(1, "mine", "ep"), 2)
			for i := range 100 {
				w.decide(2, request(i))
			}
			if got := w.admitted(3, ask(1, "mine", "ep"), 1); got != 0 {
				t.Errorf("admitted beyond the burst of mine/ep after a flood: %d, want 0", got)
			}
		})
	}
}

// TestEvictFullOnesFirst: of names that are all full but for a few, the full ones go, though
// they were touched last, and those few keep what they used. A sample without a full one is
// not to be expected within the age of the universe.
func TestEvictFullOnesFirst(t *testing.T) {
	const most, used = 1000, 5
	w := evictionWorld(t, most)
	for i := range used {
		w.admitted(10*sec, ask(1, "gw", fmt.Sprint("used-", i)), 3)
	}
	for i := range most - used + most/2 {
		w.decide(10*sec+1, ask(0, "gw", fmt.Sprint("full-", i)))
	}
	s := w.engine.Stats()
	if s.EvictedFull != most/2 || s.EvictedUsed != 0 {
		t.Errorf("evicted %d full and %d used, want %d and 0", s.EvictedFull, s.EvictedUsed, most/2)
	}
	for i := range used {
		if got := w.admitted(10*sec, ask(1, "gw", fmt.Sprint("used-", i)), 1); got != 0 {
			t.Errorf("used-%d: admitted %d beyond its burst, want 0", i, got)
		}
	}
}

func TestEvictCountsUsedOnes(t *testing.T) {
	const most = 100
	w := evictionWorld(t, most)
	for i := range 2 * most {
		w.decide(1, ask(1, "gw", fmt.Sprint("new-", i)))
	}
	if s := w.engine.Stats(); s.EvictedUsed != most || s.EvictedFull != 0 {
		t.Errorf("evicted %d used and %d full, want %d and 0", s.EvictedUsed, s.EvictedFull, most)
	}
}

// TestEvictNotFullSinceSlower: a bucket that would be full at the old rate is not at the new.
func TestEvictNotFullSinceSlower(t *testing.T) {
	w := newWorld(t, Config{MaxBuckets: 1}, row(1000, 100, "gw", "*"))
	w.admitted(1*sec, ask(1, "gw", "a"), 100)
	w.put(1*sec, row(1, 100, "gw", "*"))
	w.decide(20*sec, ask(1, "gw", "b")) // makes room
	if s := w.engine.Stats(); s.EvictedUsed != 1 || s.EvictedFull != 0 {
		t.Errorf("evicted %d used and %d full, want 1 and 0: a has 19 of 100 tokens, b 99", s.EvictedUsed, s.EvictedFull)
	}
}

// TestEvictNeverTakesAWaitersBucket: what a held request needs stays.
func TestEvictNeverTakesAWaitersBucket(t *testing.T) {
	inBubble(t, Config{MaxBuckets: 4}, rows(waiting(10_000, 1, 1, "gw", "*"), waiting(10_000, 100, 100, "gw", "", "user")), func(q *queueTest) {
		q.drain(ask(1, "gw", "ep"))
		q.call("a", ask(1, "gw", "ep", Entry{"user", "alice"}))
		for i := range 100 {
			q.decide(q.clock.NowNS(), ask(1, "gw", fmt.Sprint("new-", i)))
		}
		q.elapse(2 * 1e9)
		q.want("a OK after 1s")
		if s := q.engine.Stats(); s.EvictedFull+s.EvictedUsed < 90 {
			t.Errorf("stats %+v: want the others evicted", s)
		}
	})
}
