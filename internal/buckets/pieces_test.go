package buckets

import (
	"strconv"
	"testing"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// TestUsageInPieces: a gate of many buckets is looked at in pieces, and no bucket is missed or told
// twice while none comes or goes.
func TestUsageInPieces(t *testing.T) {
	perUser := row(5, 0, "gw", "", "user")
	perUser.PerSeconds = 3600
	w := newWorld(t, Config{}, perUser)
	const users = 3*sweepChunk + 7
	for i := range users {
		w.decide(1, ask(1, "gw", "", Entry{"user", strconv.Itoa(i)}))
	}
	for i := range 100 { // full again, and dropped
		back := ask(1, "gw", "", Entry{"user", strconv.Itoa(i * 7)})
		back.Descriptors[0].Negative = true
		w.decide(1, back)
	}
	w.engine.sweep(1)
	seen := map[string]int{}
	for u := range w.engine.usage(1) {
		seen[string(u.Key)]++
	}
	if len(seen) != users-100 {
		t.Errorf("%d buckets are told of, want %d", len(seen), users-100)
	}
	for key, n := range seen {
		if n != 1 {
			t.Errorf("bucket %q is told of %d times", key, n)
		}
	}
	if got := len(w.engine.fullest(1, 2*users)); got != users-100 {
		t.Errorf("%d buckets are shown, want %d", got, users-100)
	}
	checkKeyed(t, w.gateNamed("gw"))
}

func (w *world) gateNamed(name string) *gate { return w.engine.gate(gateName{"d", name, ofGateway}) }

// checkKeyed compares the list of a gate's buckets with its maps.
func checkKeyed(tb testing.TB, g *gate) {
	tb.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.keyed) != len(g.endpoints)+len(g.others) {
		tb.Errorf("%d buckets are listed, %d are in maps", len(g.keyed), len(g.endpoints)+len(g.others))
	}
	for i, b := range g.keyed {
		in := g.endpoints
		if b.other {
			in = g.others
		}
		if b.place != i || in[b.key] != b {
			tb.Errorf("bucket %q is listed at %d, and says %d", b.key, i, b.place)
		}
	}
}

// TestKeptUsageOfAnotherRow: what an earlier process has used of a row that was deleted since then is
// not used of the one that was made after it; and it can be reset before anybody asks.
func TestKeptUsageOfAnotherRow(t *testing.T) {
	day := row(3, 0, "gw")
	day.PerSeconds, day.Algorithm = 86_400, limits.FixedWindow
	first := newWorld(t, Config{}, day)
	first.decide(1, ask(3, "gw", ""))
	var saved []Usage
	for u := range first.engine.usage(1) {
		saved = append(saved, u)
	}
	made := day
	made.CreatedAt = made.CreatedAt.AddDate(2025, 0, 0)
	for name, c := range map[string]struct {
		row   limits.Limit
		reset bool
		want  Code
	}{"the same": {day, false, OverLimit}, "another": {made, false, OK}, "reset": {day, true, OK}} {
		w := newWorld(t, Config{}, c.row)
		w.engine.Restore(saved)
		if c.reset && !w.engine.reset(1, BucketKey{Domain: "d", Gateway: "gw", Dim: limits.Dim{PerSeconds: 86_400}}) {
			t.Errorf("%s: there is nothing to be reset", name)
		}
		if got := w.decide(1, ask(1, "gw", "")).Code; got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
