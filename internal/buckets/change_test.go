package buckets

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// change puts rows in force now.
func (q *queueTest) change(rows ...limits.Limit) {
	q.tb.Helper()
	q.put(q.clock.NowNS(), rows...)
	synctest.Wait()
}

// TestHoldWhileLimitsChange: two wait behind a bucket of 10/s, and after 50 ms its row changes.
func TestHoldWhileLimitsChange(t *testing.T) {
	disabled := waiting(1000, 10, 5, "gw", "ep")
	disabled.Enabled = false
	shadow := waiting(1000, 10, 5, "gw", "ep")
	shadow.Shadow = true
	cases := []struct {
		name string
		rows []limits.Limit
		want []string
	}{
		{"unchanged", rows(waiting(1000, 10, 5, "gw", "ep")), []string{"a OK after 300ms", "b OK after 400ms"}},
		{"note", rows(waiting(2000, 10, 5, "gw", "ep")), []string{"a OK after 300ms", "b OK after 400ms"}},
		{"faster", rows(waiting(1000, 50, 5, "gw", "ep")), []string{"a OK after 100ms", "b OK after 120ms"}},
		{"slower", rows(waiting(1000, 5, 5, "gw", "ep")), []string{"a OK after 550ms", "b OK after 750ms"}},
		{"higher burst", rows(waiting(1000, 10, 8, "gw", "ep")), []string{"a OK after 50ms", "b OK after 100ms"}},
		{"no waiting for newcomers", rows(row(10, 5, "gw", "ep")), []string{"a OK after 300ms", "b OK after 400ms"}},
		{"disabled", rows(disabled), []string{"a OK after 50ms", "b OK after 50ms"}},
		{"shadow", rows(shadow), []string{"a OK after 50ms", "b OK after 50ms"}},
		{"deleted", nil, []string{"a OK after 50ms", "b OK after 50ms"}},
		{"only the first can never pass", rows(waiting(1000, 10, 2, "gw", "ep")), []string{"a OVER_LIMIT after 1s", "b OK after 150ms"}},
		{"nobody can pass", rows(waiting(1000, 0, 0, "gw", "ep")), []string{"a OVER_LIMIT after 1s", "b OVER_LIMIT after 1s"}},
		{"a second limit", rows(waiting(1000, 10, 5, "gw", "ep"), row(10, 3, "gw")), []string{"a OK after 300ms", "b OK after 400ms"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, Config{}, rows(waiting(1000, 10, 5, "gw", "ep")), func(q *queueTest) {
				q.drain(ask(5, "gw", "ep"))
				q.call("a", ask(3, "gw", "ep"))
				q.call("b", ask(1, "gw", "ep"))
				q.elapse(50 * time.Millisecond)
				q.change(c.rows...)
				q.elapse(10 * time.Second)
				q.want(c.want...)
			})
		})
	}
}

// TestHoldStuckAreInNobodysWay: one that can never pass is not part of the queue that a
// newcomer has before it, and of what remains.
func TestHoldStuckAreInNobodysWay(t *testing.T) {
	inBubble(t, Config{}, rows(waiting(10_000, 10, 50, "gw", "ep")), func(q *queueTest) {
		q.drain(ask(50, "gw", "ep"))
		q.call("stuck", ask(50, "gw", "ep"))
		q.change(waiting(300, 10, 5, "gw", "ep"))
		q.call("behind", ask(1, "gw", "ep"))
		q.elapse(400 * time.Millisecond)
		q.want("stuck waits", "behind OK after 100ms")
		d := q.decide(q.clock.NowNS(), ask(1, "gw", "ep"))
		if d.Code != OK || d.Statuses[0].Remaining != 2 {
			t.Errorf("beside a stuck one: %v, remaining %d, want OK, 2", d.Code, d.Statuses[0].Remaining)
		}
		q.change(waiting(300, 100, 50, "gw", "ep"))
		q.elapse(time.Second)
		q.want("stuck OK after 430ms", "behind OK after 100ms")
	})
}

// TestHoldChangeLearnedLate: turns before and after a change count at their instants, however
// late the gate gets to see it.
func TestHoldChangeLearnedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, waiting(10_000, 10, 2, "gw", "ep"))
		w.decide(1, ask(2, "gw", "ep"))
		var held [4]*Decision
		for i := range held {
			held[i] = w.decide(1, ask(1, "gw", "ep"))
		}
		w.engine.queues = map[*gate]struct{}{} // nobody plans anew when the table is swapped
		w.put(1+250*ms, waiting(10_000, 1, 2, "gw", "ep"))
		w.decide(1+20*sec, ask(1, "gw", "ep"))
		var got [4]int64
		for i, d := range held {
			got[i] = d.WaitedNS
		}
		if diff := cmp.Diff([4]int64{100 * ms, 200 * ms, 750 * ms, 1750 * ms}, got); diff != "" {
			t.Errorf("waited (-want +got):\n%s", diff)
		}
	})
}

// TestOlderTableChangesNothing: a gate that has met a table never goes back to an older one.
func TestOlderTableChangesNothing(t *testing.T) {
	w := newWorld(t, Config{})
	old := w.current.Load()
	w.put(3, row(10, 10, "gw"))
	w.decide(4, ask(10, "gw", ""))
	g := w.engine.gate(gateName{domain: "d", gateway: "gw"})
	g.sync(old, "gw", 5)
	if d := w.decide(6, ask(1, "gw", "")); d.Code != OverLimit {
		t.Errorf("after an older table was offered: %v, want OVER_LIMIT", d.Code)
	}
}

// TestChangeKeepsUsage is a change of rows between two requests, at the instant of its table.
func TestChangeKeepsUsage(t *testing.T) {
	off := row(10, 20, "gw")
	off.Enabled = false
	common := row(10, 20, "gw")
	common.Domain = ""
	cases := []struct {
		name    string
		changes [][]limits.Limit // one a second, from second 2 on
		want    int              // admitted at second 10
	}{
		{"unchanged", nil, 20},
		{"raised", [][]limits.Limit{rows(row(1, 40, "gw"))}, 38}, // 10 came back, 30 free, 8 more
		{"cut", [][]limits.Limit{rows(row(1, 5, "gw"))}, 5},
		{"cut hard", [][]limits.Limit{rows(row(1, 100, "gw")), rows(row(1, 15, "gw"))}, 13}, // 10 used, 1 came back, 9 used of 15, 7 more
		{"disabled and enabled", [][]limits.Limit{rows(off), rows(row(10, 20, "gw"))}, 20},
		{"deleted and made again", [][]limits.Limit{nil, rows(row(1, 15, "gw"))}, 15},
		{"pattern takes over", [][]limits.Limit{rows(row(1, 20, "g*"))}, 18},
		{"common row takes over", [][]limits.Limit{rows(common)}, 20},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, Config{}, row(10, 20, "gw"))
			if got := w.admitted(1*sec, ask(1, "gw", ""), 100); got != 20 {
				t.Fatalf("admitted at second 1: %d, want 20", got)
			}
			for i, rows := range c.changes {
				w.engine.sweep(int64(i+2) * sec)
				w.put(int64(i+2)*sec, rows...)
			}
			if got := w.admitted(10*sec, ask(1, "gw", ""), 100); got != c.want {
				t.Errorf("admitted at second 10: %d, want %d", got, c.want)
			}
		})
	}
}

// TestChangeMissedBehindAnother: the row changed, and then others of its gateway did, before the
// bucket was touched again.
func TestChangeMissedBehindAnother(t *testing.T) {
	w := newWorld(t, Config{}, row(10, 20, "gw", "ep"))
	w.admitted(1*sec, ask(1, "gw", "ep"), 20)
	w.put(2*sec, row(1, 20, "gw", "ep"))
	w.decide(3*sec, ask(1, "gw", "other"))
	w.put(4*sec, row(1, 20, "gw", "ep"), row(7, 7, "gw", "more"))
	if got, want := w.admitted(5*sec, ask(1, "gw", "ep"), 100), 13; got != want {
		t.Errorf("10 came back until the change, 3 after it: admitted %d, want %d", got, want)
	}
}

// TestDeletedRowsForgetUsage also where nobody looked between two changes.
func TestDeletedRowsForgetUsage(t *testing.T) {
	for name, r := range map[string]*Request{"gateway": ask(1, "gw", ""), "endpoint": ask(1, "gw", "ep")} {
		t.Run(name, func(t *testing.T) {
			both := rows(row(1, 10, "gw"), row(1, 10, "gw", "ep"))
			w := newWorld(t, Config{DefaultMaxTPS: 100}, both...)
			first := w.admitted(1, r, 50)
			w.put(2)
			w.put(3, both...)
			again := w.admitted(4, r, 50)
			w.put(5)
			byDefault := w.admitted(6, r, 50)
			if got, want := [3]int{first, again, byDefault}, [3]int{10, 10, 10}; got != want {
				t.Errorf("admitted by the rows, by those made again, by the default limit: %v, want %v", got, want)
			}
		})
	}
}
