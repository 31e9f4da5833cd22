package buckets

import (
	"fmt"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// turnWorld is an Engine whose gate `gw` has lanes. Time is an argument; nobody waits on a
// goroutine.
type turnWorld struct {
	*world
	asked []*Decision
}

func (w *turnWorld) gate() *gate { return w.engine.gate(gateName{"d", "gw", ofGateway}) }

// leave is a caller that goes away at nowNS.
func (w *turnWorld) leave(d *Decision, nowNS int64) {
	g := w.gate()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serve(nowNS)
	if d.waiter.state == queued {
		g.dismiss(&d.waiter, nowNS)
		g.serve(nowNS)
	}
}

// checkIdle fails where the head of a lane would fit at nowNS, or something was left in disorder.
func (w *turnWorld) checkIdle(t *rapid.T, nowNS int64) {
	g := w.gate()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serve(nowNS)
	lanes := 0
	for _, b := range g.blocked {
		first := uint64(0)
		for i, l := range b.turns.lanes {
			if lanes++; l.at != b || l.index != i || l.first == nil || g.byKey[l.key] != l {
				t.Fatalf("at %d: lane %q is in disorder: %+v", nowNS, l.key, l)
			}
			if first == 0 || l.turn < first {
				first = l.turn
			}
			if l.first.blocking(l.turn, nowNS) == nil {
				t.Fatalf("at %d: the head of lane %q fits, and waits", nowNS, l.key)
			}
		}
		if b.turns.lanes[0].turn != first || b.turns.dueNS <= nowNS {
			t.Fatalf("at %d: bucket %q is due at %d, its first lane has turn %d of %d", nowNS, b.key, b.turns.dueNS, b.turns.lanes[0].turn, first)
		}
	}
	if lanes != len(g.byKey) || len(g.ready) != 0 {
		t.Fatalf("at %d: %d lanes wait for buckets, %d to be looked at; there are %d", nowNS, lanes, len(g.ready), len(g.byKey))
	}
}

func drawTurnRows(t *rapid.T) []limits.Limit {
	var all []limits.Limit
	for _, key := range [][]string{{"gw"}, {"gw", "A"}, {"gw", "B"}, {"gw", "", "user"}, {"gw", "A", "user"}} {
		if rapid.IntRange(0, 3).Draw(t, fmt.Sprint("row ", key)) == 0 {
			continue
		}
		l := waiting(rapid.SampledFrom([]int64{200, 2000, 60_000, 1_000_000}).Draw(t, "max_wait_ms"), rapid.Int64Range(1, 20).Draw(t, "max_tps"), rapid.Int64Range(1, 6).Draw(t, "burst"), key...)
		if rapid.IntRange(0, 5).Draw(t, "window") == 0 {
			l.Burst, l.PerSeconds = 0, 2
			l.Algorithm = rapid.SampledFrom([]limits.Algorithm{limits.TokenBucket, limits.FixedWindow, limits.SlidingWindow}).Draw(t, "algorithm")
		}
		all = append(all, l)
	}
	return all
}

func drawTurnRequest(t *rapid.T) *Request {
	r := ask(rapid.SampledFrom([]uint64{1, 1, 1, 2, 4}).Draw(t, "hits"), "gw", rapid.SampledFrom([]string{"", "A", "B", "C"}).Draw(t, "endpoint"))
	if user := rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "user"); user != "" {
		r.Descriptors[0].Entries = append(r.Descriptors[0].Entries, Entry{"user", user})
	}
	if rapid.IntRange(0, 4).Draw(t, "bounded") == 0 {
		r.Descriptors[0].MaxWaitMS = rapid.Int64Range(0, 3000).Draw(t, "max_wait")
	}
	r.Descriptors[0].Negative = rapid.IntRange(0, 9).Draw(t, "refund") == 0
	return r
}

// TestTurns drives two Engines alike, of which one is looked at all the time and the other only when
// a request comes: whatever waits is granted at the same instants. In both no head of a lane waits
// that would fit, and within a lane nobody overtakes.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // where the timers of gates do not fire meanwhile
		rapid.Check(noDeadline{t}, func(rt *rapid.T) { compareWorlds(t, rt) })
	})
}

// noDeadline is a test that rapid does not ask for its deadline, which a bubble does not tell.
type noDeadline struct{ testing.TB }

func compareWorlds(tb testing.TB, t *rapid.T) {
	tb.Helper()
	rows := drawTurnRows(t)
	often, seldom := &turnWorld{world: newWorld(tb, Config{}, rows...)}, &turnWorld{world: newWorld(tb, Config{}, rows...)}
	both := []*turnWorld{often, seldom}
	nowNS := int64(1)
	elapse := func(ns int64) {
		for range 8 {
			often.checkIdle(t, nowNS)
			nowNS += ns / 8
		}
	}
	for range rapid.IntRange(1, 40).Draw(t, "steps") {
		elapse(8 * rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 50*ms), rapid.Int64Range(0, sec)).Draw(t, "step_ns"))
		switch kind := rapid.IntRange(0, 11).Draw(t, "kind"); {
		case kind == 0:
			rows = drawTurnRows(t)
			for _, w := range both {
				w.checkIdle(t, nowNS) // its timer would have been on time
				w.put(nowNS, rows...)
				w.checkIdle(t, nowNS) // a gate that has waiters is re-planned at once
			}
		case kind <= 2 && len(often.asked) > 0:
			i := rapid.IntRange(0, len(often.asked)-1).Draw(t, "leaves")
			for _, w := range both {
				w.leave(w.asked[i], nowNS)
			}
		default:
			r := drawTurnRequest(t)
			for _, w := range both {
				d := &Decision{}
				if _, err := w.engine.decide(nowNS, r, int64(MaxWait), d); err != nil {
					t.Fatal(err)
				}
				w.asked = append(w.asked, d)
			}
		}
	}
	elapse(8 * 2000 * sec)
	seldom.checkIdle(t, nowNS)
	for i := range often.asked { // who can never pass is left to the caller's own timer
		often.leave(often.asked[i], nowNS)
		seldom.leave(seldom.asked[i], nowNS)
	}
	compareTurns(t, often, seldom)
}

func compareTurns(t *rapid.T, often, seldom *turnWorld) {
	for i, a := range often.asked {
		b := seldom.asked[i]
		if a.Code == 0 || a.Code != b.Code || a.Held != b.Held || a.WaitedNS != b.WaitedNS {
			t.Fatalf("request %d: %v held %t after %d; where nobody looked %v held %t after %d", i, a.Code, a.Held, a.WaitedNS, b.Code, b.Held, b.WaitedNS)
		}
	}
	for _, w := range []*turnWorld{often, seldom} {
		w.checkNothingQueued()
	}
}

// TestTurnsAtOneInstant: of lanes whose own buckets get room at the same instant the one that has
// waited for its turn longest takes what the gateway has.
func TestTurnsAtOneInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		endpoints := []string{"F", "C", "A", "E", "B", "D"}
		rows := []limits.Limit{waiting(60_000, 1, int64(len(endpoints)), "gw")}
		for _, e := range endpoints {
			rows = append(rows, waiting(60_000, 1, 1, "gw", e))
		}
		w := newWorld(t, Config{}, rows...)
		var held []*Decision
		for _, e := range endpoints {
			w.decide(1, ask(1, "gw", e)) // takes what its endpoint has, and in the end all of the gateway
		}
		for _, e := range endpoints {
			held = append(held, w.decide(1, ask(1, "gw", e)))
		}
		w.engine.sweep(100 * sec)
		for i, d := range held {
			if want := int64(i+1) * sec; d.Code != OK || d.WaitedNS != want {
				t.Errorf("%s: %v after %d ns, want OK after %d", endpoints[i], d.Code, d.WaitedNS, want)
			}
		}
	})
}
