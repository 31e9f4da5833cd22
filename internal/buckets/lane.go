package buckets

import (
	"cmp"
	"slices"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// lane is the queue of those who need the very same buckets: one endpoint, one value of each
// key that a row counts by. First come, first served. It waits in one heap: for one bucket, or to
// be looked at.
type lane struct {
	key         string
	first, last *waiter
	hits        uint64 // of all in it

	turn  uint64    // the lane with the lowest goes first
	in    *laneHeap // nil while it is looked at, and for gate.stuck
	index int       // in that heap
	at    *bucket   // whose heap it is; nil = gate.ready
}

// laneKey writes the key of the request's lane into d.key: the endpoint and the buckets of
// per rows, in the order in which the request names them.
func (d *Decision) laneKey() {
	d.key = append(d.key[:0], 'g')
	for i := range d.request.Descriptors {
		if desc := &d.request.Descriptors[i]; desc.HasGateway && desc.HasEndpoint {
			d.key = append(d.key[:0], 'e').name(desc.Endpoint)
			break
		}
	}
	for i := range d.takes {
		if b := d.takes[i].bucket; b.other {
			d.key = d.key.name(b.key)
		}
	}
}

// push puts w at the end of its lane.
func (g *gate) push(w *waiter) {
	l := &g.stuck
	if w.dueNS() != limits.Never {
		l = g.laneOf(w.decision.key)
	}
	w.hits = w.leastNeed()
	l.append(w)
	for i := range w.decision.takes {
		g.count(&w.decision.takes[i], l, 1)
	}
	if g.waiting == 0 {
		g.servedNS = max(g.servedNS, w.arrivedNS)
		g.engine.setQueue(g, true)
	}
	g.waiting++
}

// laneOf returns the lane of a key, made if it is not there.
func (g *gate) laneOf(key levelKey) *lane {
	if l := g.byKey[string(key)]; l != nil {
		return l
	}
	l := &lane{key: string(key)}
	if g.byKey == nil {
		g.byKey = make(map[string]*lane)
	}
	g.byKey[l.key] = l
	g.toTheBack(l)
	return l
}

// count notes that one waiter more or less wants room in a bucket. What the stuck ask for is
// in nobody's way.
func (g *gate) count(t *take, l *lane, waiters int) {
	t.bucket.pins += waiters
	switch {
	case l == &g.stuck:
	case waiters > 0:
		t.bucket.queued += t.need
	default:
		t.bucket.queued -= t.need
	}
}

// leastNeed is what each of the buckets has to give at the least before those behind w get
// anything.
func (w *waiter) leastNeed() uint64 {
	least := uint64(MaxHits)
	for i := range w.decision.takes {
		if t := &w.decision.takes[i]; !t.bucket.shadow {
			least = min(least, t.need)
		}
	}
	return least
}

func (l *lane) append(w *waiter) {
	w.lane, w.prev, w.next = l, l.last, nil
	if l.last != nil {
		l.last.next = w
	} else {
		l.first = w
	}
	l.last = w
	l.hits += w.hits
}

func (l *lane) remove(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.last = w.prev
	}
	l.hits -= w.hits
	w.lane, w.prev, w.next = nil, nil, nil
}

// unlink takes w out of its lane. The lane itself goes with its last waiter; where w was its head,
// the next one is to be looked at.
func (g *gate) unlink(w *waiter) {
	l, head := w.lane, w.prev == nil
	l.remove(w)
	for i := range w.decision.takes {
		g.count(&w.decision.takes[i], l, -1)
	}
	if head && l.in != nil {
		g.unblock(l)
		if l.first != nil {
			g.ready.push(l, nil)
		}
	}
	if l.first == nil && l != &g.stuck {
		delete(g.byKey, l.key)
	}
	g.waiting--
	if g.waiting == 0 {
		g.engine.setQueue(g, false)
	}
}

// requeue looks every waiter's limits up again after the rules have changed at atNS. Deadlines
// and the order of arrival stay.
func (g *gate) requeue(atNS int64) {
	waiters := g.waiters()
	for _, w := range waiters {
		for i := range w.decision.takes {
			b := w.decision.takes[i].bucket
			b.queued, b.pins = 0, 0
		}
	}
	for _, b := range g.blocked {
		b.turns = nil
	}
	g.ready, g.blocked, g.stuck, g.waiting = nil, nil, lane{}, 0
	g.servedNS = max(g.servedNS, atNS)
	clear(g.byKey)
	for _, w := range waiters {
		d := w.decision
		d.resolveAll(atNS)
		d.laneKey()
		g.push(w)
	}
}

// waiters returns all in order of arrival.
func (g *gate) waiters() []*waiter {
	all := make([]*waiter, 0, g.waiting)
	collect := func(l *lane) {
		for w := l.first; w != nil; w = w.next {
			all = append(all, w)
		}
	}
	for _, l := range g.byKey {
		collect(l)
	}
	collect(&g.stuck)
	slices.SortFunc(all, func(a, b *waiter) int { return cmp.Compare(a.seq, b.seq) })
	return all
}
