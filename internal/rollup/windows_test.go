package rollup

import (
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

func TestSnapshotRefusesWindows(t *testing.T) {
	w := NewWindows(NewNames(1))
	for window, want := range map[time.Duration]string{
		0:                "showing the figures of 0s: a window must be within 1s to 1h0m0s",
		-time.Minute:     "showing the figures of -1m0s: a window must be within 1s to 1h0m0s",
		time.Second - 1:  "showing the figures of 999.999999ms: a window must be within 1s to 1h0m0s",
		MaxWindow + 1:    "showing the figures of 1h0m0.000000001s: a window must be within 1s to 1h0m0s",
		time.Second:      "",
		MaxWindow:        "",
		90 * time.Second: "",
	} {
		got := ""
		if _, err := w.Snapshot(noon, window); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("window %v: error %q, want %q", window, got, want)
		}
	}
}

func TestSnapshotBounds(t *testing.T) {
	at := func(s string) time.Time {
		parsed, err := time.Parse(time.RFC3339Nano, "2025-11-26T"+s+"Z")
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	for _, c := range []struct {
		window         time.Duration
		now, from, end string
	}{
		{time.Second, "12:07:30", "12:07:29", "12:07:30"},
		{1500 * time.Millisecond, "12:07:30.9", "12:07:28", "12:07:30"},
		{2 * time.Minute, "12:07:30.9", "12:05:30", "12:07:30"},
		{2*time.Minute + 1, "12:07:30.9", "12:05:00", "12:07:30.9"},
		{5 * time.Minute, "12:07:00", "12:03:00", "12:07:00"},
		{time.Hour, "12:07:59.9", "11:08:00", "12:07:59.9"},
	} {
		got, err := NewWindows(NewNames(1)).Snapshot(at(c.now), c.window)
		if err != nil || !got.From.Equal(at(c.from)) || !got.To.Equal(at(c.end)) {
			t.Errorf("window of %v at %s: %v to %v, %v; want %s to %s", c.window, c.now, got.From, got.To, err, c.from, c.end)
		}
	}
}

// one is a transaction of 30 ms.
func one() *traffic.Transaction {
	return &traffic.Transaction{Domain: "d", Gateway: "g", Endpoint: "e", Duration: 30 * time.Millisecond, Success: true}
}

// rings returns how many chunks and rings the windows hold.
func rings(w *Windows) (chunks, rings int) {
	w.series.Range(func(_, v any) bool {
		s := v.(*series)
		for _, ring := range [][]*chunk{s.ring(&span{}), s.ring(&span{minutes: true})} {
			if ring != nil {
				rings++
			}
			for _, c := range ring {
				if c != nil {
					chunks++
				}
			}
		}
		return true
	})
	w.loads.Range(func(_, v any) bool {
		l := v.(*load)
		if l.seconds != nil {
			rings++
		}
		if l.minutes != nil {
			rings++
		}
		return true
	})
	return chunks, rings
}

func TestWindowsGiveBackWhatIsIdle(t *testing.T) {
	w := NewWindows(NewNames(10))
	idle, busy := Key{"d", "idle", ""}, Key{"d", "busy", ""}
	for i := range 120 {
		w.Add(noon.Add(time.Duration(i)*time.Second), one(), idle)
	}
	for _, c := range []struct {
		after         time.Duration
		chunks, rings int
	}{
		{3 * time.Minute, 30 + 1 + 1 + 1, 8}, // idle: 120 seconds, one of minutes; busy: one of each
		{5 * time.Minute, 1 + 2 + 2, 6},      // idle has no seconds any more; busy has more of each
		{30 * time.Minute, 1 + 1 + 3, 6},     // busy: this second alone
		{61 * time.Minute, 1 + 1 + 4, 6},     // not yet an hour
		{63 * time.Minute, 2 + 4, 4},         // idle has nothing any more
		{130 * time.Minute, 1 + 1, 4},        // busy: what was before has left the ring
	} {
		w.Add(noon.Add(c.after), one(), busy)
		if chunks, rings := rings(w); chunks != c.chunks || rings != c.rings {
			t.Errorf("after %v: %d chunks in %d rings, want %d in %d", c.after, chunks, rings, c.chunks, c.rings)
		}
	}
}

// TestWindowsAreBounded: also where the caller has not asked Names.
func TestWindowsAreBounded(t *testing.T) {
	w := NewWindows(NewNames(2))
	for i := range 100 {
		w.Add(noon, one(), Key{"d", strings.Repeat("g", i), "e"})
	}
	snap, err := w.Snapshot(noon.Add(time.Second), time.Minute)
	if err != nil || len(snap.Keys) != 3 || snap.Keys[2].Key != (Key{Other, Other, Other}) || snap.Keys[2].Requests != 98 {
		t.Errorf("%d keys: %+v, %v; want 3, of which 98 requests of other", len(snap.Keys), snap.Keys, err)
	}
}

// TestLongestWindowsOfAClockThatGoesBack: nothing has been overwritten that the windows of 3 s ago show.
func TestLongestWindowsOfAClockThatGoesBack(t *testing.T) {
	w := NewWindows(NewNames(10))
	for second := range 7201 {
		w.Add(noon.Add(time.Duration(second)*time.Second), one(), Key{"d", "g", "e"})
	}
	for window, want := range map[time.Duration]int64{2 * time.Minute: 120, time.Hour: 3600} {
		snap, err := w.Snapshot(noon.Add(7197*time.Second), window)
		if err != nil || len(snap.Keys) != 1 || snap.Keys[0].Requests != want || snap.Keys[0].Histogram.Total() != want {
			t.Errorf("%v: %+v, %v; want %d requests", window, snap.Keys, err, want)
		}
	}
}

// TestGatewayPeakIsNoneBelowItsKeys: also where an Add has counted for the key and not yet for the
// gateway.
func TestGatewayPeakIsNoneBelowItsKeys(t *testing.T) {
	w := NewWindows(NewNames(10))
	w.Add(noon, one(), Key{"d", "g", "e"})
	w.loads.Clear()
	for _, window := range []time.Duration{time.Minute, time.Hour} {
		snap, err := w.Snapshot(noon.Add(time.Second), window)
		if err != nil || len(snap.Gateways) != 1 || snap.Gateways[0].PeakTPS != 1 {
			t.Errorf("%v: gateways %+v, %v; want one with a peak of 1", window, snap.Gateways, err)
		}
	}
}

// TestWindowsHammer: what is added meanwhile is in one snapshot or the other, whole.
func TestWindowsHammer(t *testing.T) {
	const workers, rounds = 4, 2000
	w, keys := NewWindows(NewNames(1000)), someKeys(60)
	var adders, watcher sync.WaitGroup
	done := make(chan struct{})
	for n := range workers {
		adders.Go(func() {
			for i := range rounds {
				w.Add(noon.Add(time.Duration(i)*10*time.Millisecond), one(), keys[(i+n)%len(keys)])
			}
		})
	}
	watcher.Go(func() {
		for seen, over := int64(0), false; !over; {
			select {
			case <-done:
				over = true
			default:
			}
			n := countAll(t, w)
			if n < seen || (over && n != workers*rounds) {
				t.Errorf("%d transactions after %d were seen, want %d at the end", n, seen, workers*rounds)
			}
			seen = n
		}
	})
	adders.Wait()
	close(done)
	watcher.Wait()
}

// countAll fails where a key was seen in the middle of an Add.
func countAll(t *testing.T, w *Windows) (n int64) {
	t.Helper()
	snap, err := w.Snapshot(noon.Add(time.Minute), time.Hour)
	if err != nil {
		t.Error(err)
	}
	for i := range snap.Keys {
		st := &snap.Keys[i]
		n += st.Requests
		if st.Histogram.Total() != st.Requests || st.Successes != st.Requests {
			t.Errorf("%v: %d durations and %d successes of %d requests", st.Key, st.Histogram.Total(), st.Successes, st.Requests)
		}
	}
	return n
}

// busy makes windows of n keys that have had tps requests in each second of the last hour.
func busy(n, tps int) (w *Windows, keys []Key, now time.Time) {
	w, keys, now = NewWindows(NewNames(2*n)), someKeys(n), noon
	durations, tr := lognormal(2, 1<<16), one()
	at := rand.New(rand.NewPCG(3, 3))
	for second := range 3600 {
		now = noon.Add(time.Duration(second) * time.Second)
		for _, key := range keys {
			for range tps {
				tr.Duration = durations[at.IntN(len(durations))]
				w.Add(now, tr, key)
			}
		}
	}
	return w, keys, now
}

// BenchmarkWindowsMemory is what a key takes that has had that many requests in each second of the
// last hour, with durations of which nine of ten lie within a factor of ten.
func BenchmarkWindowsMemory(b *testing.B) {
	for _, tps := range []struct {
		name string
		n    int
	}{{"tps=1", 1}, {"tps=10", 10}, {"tps=100", 100}} {
		b.Run(tps.name, func(b *testing.B) {
			const keys = 100
			var before, after runtime.MemStats
			for b.Loop() {
				runtime.GC()
				runtime.ReadMemStats(&before)
				w, _, _ := busy(keys, tps.n)
				runtime.GC()
				runtime.ReadMemStats(&after)
				runtime.KeepAlive(w)
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/keys, "B/key")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func BenchmarkWindowsAdd(b *testing.B) {
	b.ReportAllocs()
	w, keys, now := busy(1000, 1)
	durations := lognormal(1, 1<<12)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		tr := one()
		for i := 0; pb.Next(); i++ {
			tr.Duration = durations[i%len(durations)]
			w.Add(now, tr, keys[i%len(keys)])
		}
	})
}

func BenchmarkWindowsSnapshot(b *testing.B) {
	w, _, now := busy(1000, 10)
	for _, window := range []time.Duration{time.Second, time.Minute, 2 * time.Minute, time.Hour} {
		b.Run(window.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.Snapshot(now, window); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What is read from a file counts in the minute in which it was, with the peak of its seconds; what is
// older than the longest window, in none.
func TestWindowsOfAFile(t *testing.T) {
	w, key := NewWindows(NewNames(10)), Key{"d", "g", "e"}
	var times []time.Time
	for at := noon.Add(-2 * time.Hour); at.Before(noon.Add(-LateAfter)); at = at.Add(time.Second) { // a second of three, one of one, and so on
		for range 1 + 2*(at.Second()%2) {
			times = append(times, at)
			tr := one()
			tr.At = at
			w.AddTold(noon, tr, key)
		}
	}
	for _, window := range []time.Duration{time.Minute, 30 * time.Minute, time.Hour} {
		snap, err := w.Snapshot(noon, window)
		if err != nil || len(snap.Keys) != 1 || len(snap.Gateways) != 1 {
			t.Fatalf("%v: %+v, %v", window, snap, err)
		}
		var want int64
		for _, at := range times {
			if !at.Before(snap.From) {
				want++
			}
		}
		for _, st := range []Stats{snap.Keys[0], snap.Gateways[0]} {
			if st.Requests != want || want == 0 || st.PeakTPS != 3 || st.TPS != 0 {
				t.Errorf("%v: %d requests, at most %d a second, now %d, want %d, 3 and 0", window, st.Requests, st.PeakTPS, st.TPS, want)
			}
		}
	}
}
