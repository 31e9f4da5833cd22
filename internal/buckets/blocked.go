package buckets

import (
	"container/heap"
)

// turns are the lanes whose heads wait for room in one bucket. The first keeps what tokens there
// are: those behind it, and whoever has just come, must leave them alone.
type turns struct {
	lanes laneHeap
	dueNS int64 // when the first is to be looked at: there may be room, or its deadline has come
	index int   // in gate.blocked
}

// reserved tells whether the bucket's tokens belong to those who wait.
func (b *bucket) reserved() bool { return b.turns != nil && len(b.turns.lanes) > 0 }

// keptFrom tells whether they belong to a lane with an earlier turn.
func (b *bucket) keptFrom(turn uint64) bool { return b.reserved() && b.turns.lanes[0].turn < turn }

// block lets the lane wait for room in b.
func (g *gate) block(l *lane, b *bucket) {
	if b.turns == nil {
		b.turns = &turns{}
	}
	if !b.reserved() {
		heap.Push(&g.blocked, b)
	}
	b.turns.lanes.push(l, b)
	g.refresh(b)
}

// unblock takes the lane out of the heap that it waits in.
func (g *gate) unblock(l *lane) {
	b := l.at
	heap.Remove(l.in, l.index)
	l.in, l.at = nil, nil
	if b == nil {
		return
	}
	if b.reserved() {
		g.refresh(b)
	} else {
		heap.Remove(&g.blocked, b.turns.index)
	}
}

// refresh works out anew when the first lane that waits for b is to be looked at. It is to be
// called when that is another one, or b has got tokens otherwise than by time; what has been taken
// makes it late, which is noticed then.
func (g *gate) refresh(b *bucket) {
	if !b.reserved() {
		return
	}
	w := b.turns.lanes[0].first
	b.turns.dueNS = w.deadlineNS
	for i := range w.decision.takes {
		if t := &w.decision.takes[i]; t.bucket == b {
			b.turns.dueNS = min(b.turns.dueNS, b.dueNS(t.need))
		}
	}
	b.turns.dueNS = max(b.turns.dueNS, g.servedNS) // what is late is in the order of turns
	heap.Fix(&g.blocked, b.turns.index)
}

// laneHeap has the lane with the lowest turn first.
type laneHeap []*lane

func (h *laneHeap) push(l *lane, at *bucket) {
	l.in, l.at = h, at
	heap.Push(h, l)
}

// Len implements [heap.Interface].
func (h laneHeap) Len() int { return len(h) }

// Less implements [heap.Interface].
func (h laneHeap) Less(i, j int) bool { return h[i].turn < h[j].turn }

// Swap implements [heap.Interface].
func (h laneHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements [heap.Interface].
func (h *laneHeap) Push(x any) {
	l := x.(*lane)
	l.index = len(*h)
	*h = append(*h, l)
}

// Pop implements [heap.Interface].
func (h *laneHeap) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return l
}

// dueHeap has the bucket first whose first lane is to be looked at next; of those at one instant
// the one whose first lane has the lowest turn.
type dueHeap []*bucket

// Len implements [heap.Interface].
func (h dueHeap) Len() int { return len(h) }

// Less implements [heap.Interface].
func (h dueHeap) Less(i, j int) bool {
	a, b := h[i].turns, h[j].turns
	if a.dueNS != b.dueNS || len(a.lanes) == 0 || len(b.lanes) == 0 {
		return a.dueNS < b.dueNS
	}
	return a.lanes[0].turn < b.lanes[0].turn
}

// Swap implements [heap.Interface].
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].turns.index, h[j].turns.index = i, j
}

// Push implements [heap.Interface].
func (h *dueHeap) Push(x any) {
	b := x.(*bucket)
	b.turns.index = len(*h)
	*h = append(*h, b)
}

// Pop implements [heap.Interface].
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	b := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return b
}
