package buckets

import (
	"math/bits"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// window is what a bucket keeps for an algorithm that counts hits in windows of time: how many
// count at the bucket's lastNS, and when they stop to count.
type window struct {
	lengthNS int64
	used     uint64
	slots    *slots // of a sliding window; nil = a fixed one
}

// slotsInWindow is into how many parts a sliding window is cut. A hit counts until its part has
// left the window wholly, which is at most one part too long.
const slotsInWindow = 64

// slots are the hits of a sliding window by the part of time in which they came: that of lastNS
// and the slotsInWindow before it, each at its number modulo their count.
type slots struct {
	hits [slotsInWindow + 1]uint32 // MaxBurst and MaxMaxTPS fit
}

// newWindow returns the window of l, in which used hits came at atNS; nil for a token bucket.
func newWindow(l *limits.Limit, used uint64, atNS int64) *window {
	if l.Algorithm == limits.TokenBucket {
		return nil
	}
	w := &window{lengthNS: l.WindowNS()}
	if l.Algorithm == limits.SlidingWindow {
		w.slots = &slots{}
	}
	w.add(atNS, w.most(used))
	return w
}

// maxSlot is what fits a part of a sliding window; maxUsed is far above any limit, so that a few hits
// more fit 64 bits.
const (
	maxSlot = 1<<32 - 1
	maxUsed = 1 << 62
)

// most cuts hits to what the window can count.
func (w *window) most(hits uint64) uint64 {
	if w.slots != nil {
		return min(hits, maxSlot)
	}
	return min(hits, maxUsed)
}

// fixed tells whether the window is there and a fixed one.
func (w *window) fixed() bool { return w != nil && w.slots == nil }

// is tells whether w counts as l does.
func (w *window) is(l *limits.Limit) bool {
	return w != nil && w.lengthNS == l.WindowNS() && (w.slots != nil) == (l.Algorithm == limits.SlidingWindow) && l.Algorithm != limits.TokenBucket
}

func (w *window) slotNS() int64 { return w.lengthNS / slotsInWindow } // exact: a second has 64 whole parts

// advance forgets what no longer counts at nowNS.
func (w *window) advance(lastNS, nowNS int64) {
	if w.slots == nil {
		if nowNS/w.lengthNS > lastNS/w.lengthNS {
			w.used = 0
		}
		return
	}
	last, now := lastNS/w.slotNS(), nowNS/w.slotNS()
	for s := last + 1; s <= min(now, last+slotsInWindow+1) && w.used > 0; s++ {
		hits := w.slots.at(s)
		w.used -= uint64(*hits)
		*hits = 0
	}
}

// at is the place of a part of time.
func (s *slots) at(slot int64) *uint32 { return &s.hits[slot%int64(len(s.hits))] }

func (w *window) add(atNS int64, hits uint64) {
	w.used += hits
	if w.slots != nil {
		*w.slots.at(atNS / w.slotNS()) += uint32(hits) //nolint:gosec // at most a capacity
	}
}

// remove takes back hits that count, the newest first: what is given back was mostly taken lately.
func (w *window) remove(lastNS int64, hits uint64) {
	w.used -= hits
	if w.slots == nil {
		return
	}
	for s := lastNS / w.slotNS(); hits > 0; s-- {
		n := min(hits, uint64(*w.slots.at(s)))
		*w.slots.at(s) -= uint32(n) //nolint:gosec // at most what is there
		hits -= n
	}
}

// releaseNS is the time from lastNS until hits of those that count do so no longer; there are that
// many.
func (w *window) releaseNS(lastNS int64, hits uint64) int64 {
	if w.slots == nil {
		return w.lengthNS - lastNS%w.lengthNS
	}
	slot := max(lastNS/w.slotNS()-slotsInWindow, 0)
	for left := uint64(0); ; slot++ {
		if left += uint64(*w.slots.at(slot)); left >= hits {
			return (slot+slotsInWindow+1)*w.slotNS() - lastNS
		}
	}
}

// queueNS is the least time from lastNS until hits have passed one after the other, more than there
// is room for now.
func (w *window) queueNS(lastNS int64, capacity, hits uint64) int64 {
	if capacity == 0 {
		return limits.Never
	}
	free := capacity - min(w.used, capacity)
	if w.slots == nil {
		windows := (hits - free - 1) / capacity // whole ones after the next has begun
		return addNS(w.releaseNS(lastNS, w.used), w.times(windows))
	}
	windows := (hits - 1) / capacity // in any time of their length no more than the capacity passes
	first := hits - windows*capacity
	if first <= free {
		return w.times(windows)
	}
	return addNS(w.releaseNS(lastNS, w.used+first-capacity), w.times(windows))
}

func (w *window) times(n uint64) int64 {
	hi, lo := bits.Mul64(n, uint64(w.lengthNS)) //nolint:gosec // above 0
	if hi > 0 || lo >= uint64(limits.Never) {
		return limits.Never
	}
	return int64(lo)
}
