package rollup

import (
	"iter"
	"time"
)

// Seconds returns how many requests a key had in each of the last 120 seconds that are over, in
// ascending order; seconds without any are left out. Without an endpoint it is all endpoints of the
// gateway together. from is when the first of those seconds began, to when the last one ended.
func (w *Windows) Seconds(now time.Time, key Key) (counts iter.Seq2[int64, int64], from, to time.Time) {
	end := secondOf(now)
	begin := end - min(end, keepSeconds)
	var requests [keepSeconds]int64
	w.series.Range(func(k, s any) bool {
		if has := k.(Key); has == key || key.Endpoint == "" && has.gateway() == key {
			s.(*series).addSeconds(begin, requests[:])
		}
		return true
	})
	return func(yield func(int64, int64) bool) {
		for i, n := range requests {
			if n > 0 && !yield(int64(begin)+int64(i), n) {
				return
			}
		}
	}, time.Unix(int64(begin), 0).UTC(), time.Unix(int64(end), 0).UTC()
}

// addSeconds adds what there was in the seconds from begin on.
func (s *series) addSeconds(begin uint32, requests []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seconds == nil {
		return
	}
	for _, c := range s.seconds {
		for i := 0; c != nil && i < len(c); i++ {
			if at := c[i].at; at >= begin && at-begin < uint32(len(requests)) { //nolint:gosec // 120
				requests[at-begin] += int64(c[i].requests)
			}
		}
	}
}
