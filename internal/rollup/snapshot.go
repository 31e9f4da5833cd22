package rollup

import (
	"fmt"
	"slices"
	"time"
)

// Stats are the figures of a key, or of a gateway, in a window.
type Stats struct {
	Key           // without Endpoint where it is a gateway
	Counts        // of the window
	TPS           int64
	PeakTPS       int64
	AverageTPS    float64
	P50, P95, P99 time.Duration // within RelativeError; 0 where all were throttled
}

// Snapshot is what was received in a window, by key and by gateway, both sorted by key. Who had
// nothing in the window is not in it.
//
// TPS is the number of the last second that is over, whatever the window; PeakTPS that of the
// largest second of the window, all endpoints of a gateway together; AverageTPS the mean from From
// to To.
type Snapshot struct {
	From, To time.Time // UTC
	Keys     []Stats
	Gateways []Stats
}

// Snapshot returns the figures of a window that ends now. One of up to 2 minutes is rounded up to
// whole seconds, and ends with the last second that is over. A longer one is rounded up to whole
// minutes, of which the last is the one that is not over yet. It returns an error for a window that
// is not within MinWindow to MaxWindow.
//
// It locks one key at a time, so that the figures of two keys may be some transactions apart.
func (w *Windows) Snapshot(now time.Time, window time.Duration) (Snapshot, error) {
	if window < MinWindow || window > MaxWindow {
		return Snapshot{}, fmt.Errorf("showing the figures of %v: a window must be within %v to %v", window, MinWindow, MaxWindow)
	}
	sp := spanOf(now, window)
	snap := Snapshot{From: sp.begin(), To: sp.end(now)}
	w.series.Range(func(key, s any) bool {
		if st := s.(*series).stats(&sp); st.Requests > 0 {
			st.Key = key.(Key)
			snap.Keys = append(snap.Keys, st)
		}
		return true
	})
	slices.SortFunc(snap.Keys, func(a, b Stats) int { return a.Compare(b.Key) })
	snap.Gateways = w.gateways(snap.Keys, &sp)
	snap.finish()
	return snap, nil
}

// gateways merges the figures of keys, which are sorted.
func (w *Windows) gateways(keys []Stats, sp *span) (all []Stats) {
	for i := range keys {
		key := keys[i].gateway()
		if len(all) == 0 || all[len(all)-1].Key != key {
			all = append(all, Stats{Key: key})
			if l, ok := w.loads.Load(key); ok {
				all[len(all)-1].PeakTPS = l.(*load).peak(sp)
			}
		}
		g := &all[len(all)-1]
		g.Merge(&keys[i].Counts)
		g.TPS += keys[i].TPS
		g.PeakTPS = max(g.PeakTPS, keys[i].PeakTPS) // the load was read later, but the process may be slow to add
	}
	return all
}

func (s *Snapshot) finish() {
	seconds := s.To.Sub(s.From).Seconds()
	for _, all := range [][]Stats{s.Keys, s.Gateways} {
		for i := range all {
			st := &all[i]
			st.AverageTPS = float64(st.Requests) / seconds
			st.P50, st.P95, st.P99 = st.Histogram.Quantile(0.50), st.Histogram.Quantile(0.95), st.Histogram.Quantile(0.99)
		}
	}
}

// span is a window: slots from first to last, of minutes or of seconds.
type span struct {
	first, last uint32
	minutes     bool
	over        uint32 // the last second that is over
	sums        sums   // of the series that is looked at: too large to be made for each
}

func spanOf(now time.Time, window time.Duration) span {
	second := secondOf(now)
	sp := span{over: second - 1, last: second - 1, first: second - slotsOf(window, time.Second)}
	if window > keepSeconds*time.Second {
		sp.minutes, sp.last, sp.first = true, second/60, second/60-slotsOf(window, time.Minute)+1
	}
	return sp
}

// slotsOf rounds up.
func slotsOf(window, slot time.Duration) uint32 {
	return uint32((window + slot - 1) / slot) //nolint:gosec // at most 3600
}

func (sp *span) begin() time.Time {
	first := int64(sp.first)
	if sp.minutes {
		first *= 60
	}
	return time.Unix(first, 0).UTC()
}

func (sp *span) end(now time.Time) time.Time {
	if sp.minutes {
		return now.UTC()
	}
	return time.Unix(int64(sp.over)+1, 0).UTC()
}

func (sp *span) holds(at uint32) bool { return sp.first <= at && at <= sp.last }

// stats are those of the series in the span, but for what [Snapshot.finish] works out.
func (s *series) stats(sp *span) (st Stats) {
	sp.sums = sums{}
	s.collect(sp, &st)
	st.Histogram = sp.sums.histogram()
	return st
}

func (s *series) collect(sp *span, st *Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seconds != nil {
		if c := s.seconds[sp.over%ringSeconds/chunkSlots]; c != nil && c[sp.over%chunkSlots].at == sp.over {
			st.TPS = int64(c[sp.over%chunkSlots].requests)
		}
	}
	for _, c := range s.ring(sp) {
		for i := 0; c != nil && i < len(c); i++ {
			if sp.holds(c[i].at) {
				c[i].collect(sp, st)
			}
		}
	}
}

func (s *series) ring(sp *span) []*chunk {
	switch {
	case sp.minutes && s.minutes != nil:
		return s.minutes[:]
	case !sp.minutes && s.seconds != nil:
		return s.seconds[:]
	}
	return nil
}

func (c *slot) collect(sp *span, st *Stats) {
	peak := c.peak
	if !sp.minutes {
		peak = c.requests
	}
	st.PeakTPS = max(st.PeakTPS, int64(peak))
	st.Requests += int64(c.requests)
	st.Successes += int64(c.successes)
	st.Throttled += int64(c.throttled)
	st.Held += int64(c.held)
	st.Waited.Merge(Total{US: c.waitedUS})
	st.Duration.Merge(Total{US: c.durationUS})
	sp.sums.add(&c.histogram)
}

// peak is the largest second of the span.
func (l *load) peak(sp *span) (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.ring(sp) {
		if sp.holds(t.at) {
			n = max(n, int64(t.n))
		}
	}
	return n
}

func (l *load) ring(sp *span) []tally {
	switch {
	case sp.minutes && l.minutes != nil:
		return l.minutes[:]
	case !sp.minutes && l.seconds != nil:
		return l.seconds[:]
	}
	return nil
}
