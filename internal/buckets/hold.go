package buckets

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// maxWaiterBytes bounds the names that one held request keeps in memory; one with more is
// refused instead of held.
const maxWaiterBytes = 16 << 10

// waiter is a held request: a queued take. It is part of the Decision of the caller that
// waits, and belongs to the gate until that caller reads ready.
type waiter struct {
	decision *Decision
	lane     *lane
	next     *waiter
	prev     *waiter
	seq      uint64 // order of arrival in the gate
	state    waiterState
	hits     uint64 // what the request takes from the bucket it takes most from

	arrivedNS  int64
	deadlineNS int64
	ready      chan struct{} // one token when state leaves queued; never closed
}

type waiterState uint8

const (
	idle waiterState = iota
	queued
	settled // granted or refused: the Decision is filled
)

// lane is the queue of those who need the very same buckets: one endpoint, one value of each
// key that a row counts by. First come, first served.
type lane struct {
	key         string
	first, last *waiter
	hits        uint64 // of all in it
}

// enqueue makes the request wait, if every limit that lacks room lets it and its turn can
// come in time. It returns false where the request is to be refused.
func (d *Decision) enqueue(maxWaitNS, nowNS int64) bool {
	boundNS := min(maxWaitNS, d.holdBoundNS())
	if boundNS <= 0 {
		return false
	}
	g := d.gates[0]
	d.laneKey()
	ahead := uint64(0)
	if l := g.byKey[string(d.key)]; l != nil {
		ahead = l.hits
	}
	deadlineNS := addNS(nowNS, boundNS)
	if drain := g.engine.drainNS.Load(); drain > 0 {
		deadlineNS = min(deadlineNS, drain)
	}
	if addNS(nowNS, d.soonestNS(ahead)) > deadlineNS {
		return false
	}
	if !g.engine.admitWaiter(d) {
		return false
	}
	w := &d.waiter
	if w.ready == nil {
		w.ready = make(chan struct{}, 1)
	}
	g.seq++
	w.decision, w.state, w.seq = d, queued, g.seq
	w.arrivedNS, w.deadlineNS = nowNS, deadlineNS
	g.push(w)
	return true
}

// holdBoundNS is how long the limits and the descriptors let the request wait; 0 = not at
// all. Only requests of one gateway and at most one endpoint wait, without an override or a
// check.
func (d *Decision) holdBoundNS() int64 {
	if len(d.gates) != 1 || d.gates[0].name.none || !d.oneEndpoint() {
		return 0
	}
	bound := int64(MaxWait)
	for i := range d.takes {
		t := &d.takes[i]
		if t.bucket.limit.Gateway == "" {
			return 0 // an override never holds
		}
		if t.lacks(t.need) {
			bound = min(bound, t.bucket.limit.MaxWaitMS*int64(time.Millisecond))
		}
	}
	for i := range d.refs {
		if d.refs[i].check {
			return 0
		}
	}
	for i := range d.request.Descriptors {
		if ms := d.request.Descriptors[i].MaxWaitMS; ms >= 0 && ms < int64(MaxWait/time.Millisecond) {
			bound = min(bound, ms*int64(time.Millisecond))
		}
	}
	return bound
}

// oneEndpoint tells whether all descriptors that name an endpoint name the same.
func (d *Decision) oneEndpoint() bool {
	first := -1
	for i := range d.request.Descriptors {
		desc := &d.request.Descriptors[i]
		if !desc.HasGateway || !desc.HasEndpoint {
			continue
		}
		if first >= 0 && d.request.Descriptors[first].Endpoint != desc.Endpoint {
			return false
		}
		first = i
	}
	return true
}

// laneKey writes the key of the request's lane into d.key: the endpoint and the buckets of
// per rows, in the order in which the request names them.
func (d *Decision) laneKey() {
	d.key = d.key[:0]
	for i := range d.request.Descriptors {
		if desc := &d.request.Descriptors[i]; desc.HasGateway && desc.HasEndpoint {
			d.key = append(d.key, 'e').name(desc.Endpoint)
			break
		}
	}
	for i := range d.takes {
		if b := d.takes[i].bucket; b.other {
			d.key = d.key.name(b.key)
		}
	}
}

// soonestNS is the wait of the whole request if those of ahead hits in its own lane go first
// and nobody else takes anything.
func (d *Decision) soonestNS(ahead uint64) int64 {
	longest := int64(0)
	for i := range d.takes {
		if t := &d.takes[i]; !t.bucket.limit.Shadow && t.need > 0 {
			longest = max(longest, t.bucket.queueWaitNS(ahead, t.need))
		}
	}
	return longest
}

// admitWaiter counts one more waiter, if the bounds allow.
func (e *Engine) admitWaiter(d *Decision) bool {
	bytes := 0
	for i := range d.request.Descriptors {
		for _, entry := range d.request.Descriptors[i].Entries {
			bytes += len(entry.Key) + len(entry.Value)
		}
	}
	if bytes <= maxWaiterBytes {
		if e.waiters.Add(1) <= int64(e.cfg.MaxWaiters) {
			return true
		}
		e.waiters.Add(-1)
	}
	e.turnedAway.Add(1)
	d.BoundHit = "waiters"
	return false
}

// push puts w at the end of its lane, whose key is in its Decision.
func (g *gate) push(w *waiter) {
	d := w.decision
	l := g.byKey[string(d.key)]
	if l == nil {
		l = &lane{key: strings.Clone(string(d.key))}
		if g.byKey == nil {
			g.byKey = make(map[string]*lane)
		}
		g.byKey[l.key] = l
		g.lanes = append(g.lanes, l)
	}
	w.lane, w.prev, w.next, w.hits = l, l.last, nil, 0
	if l.last != nil {
		l.last.next = w
	} else {
		l.first = w
	}
	l.last = w
	for i := range d.takes {
		t := &d.takes[i]
		t.bucket.queued += t.need
		w.hits = max(w.hits, t.need)
	}
	l.hits += w.hits
	if g.waiting == 0 {
		g.servedNS = max(g.servedNS, w.arrivedNS)
		g.engine.setQueue(g, true)
	}
	g.waiting++
	g.stale = true
}

// unlink takes w out of its lane. The lane itself goes with its last waiter.
func (g *gate) unlink(w *waiter) {
	l := w.lane
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
	for i := range w.decision.takes {
		t := &w.decision.takes[i]
		t.bucket.queued -= t.need
	}
	w.lane, w.prev, w.next = nil, nil, nil
	if l.first == nil {
		delete(g.byKey, l.key)
		g.lanes = slices.DeleteFunc(g.lanes, func(o *lane) bool { return o == l })
	}
	g.waiting--
	g.stale = true
	if g.waiting == 0 {
		g.engine.setQueue(g, false)
	}
}

// settle takes w out of the queue, fills its Decision by answer, and wakes its caller.
func (g *gate) settle(w *waiter, atNS int64, answer func(*Decision)) {
	g.unlink(w)
	d := w.decision
	answer(d)
	d.Held, d.WaitedNS = true, max(atNS-w.arrivedNS, 0)
	w.state = settled
	g.engine.waiters.Add(-1)
	w.ready <- struct{}{}
}

// grant admits w at the instant its turn was due.
func (g *gate) grant(w *waiter, atNS int64) {
	w.decision.charge(atNS)
	g.settle(w, atNS, (*Decision).admit)
}

// dismiss refuses w now.
func (g *gate) dismiss(w *waiter, nowNS int64) {
	for i := range w.decision.takes {
		w.decision.takes[i].bucket.advance(nowNS)
	}
	g.settle(w, nowNS, (*Decision).refuse)
}

// serve grants every turn that has come by nowNS, in virtual time: each grant counts at the
// instant its tokens were due, so that a late timer loses nothing.
func (g *gate) serve(nowNS int64) {
	if g.waiting == 0 || (!g.stale && nowNS < g.dueNS) {
		g.arm(nowNS)
		return
	}
	for g.waiting > 0 {
		granted, nextNS := g.pass(g.servedNS)
		if granted {
			continue
		}
		if g.dueNS = nextNS; nextNS > nowNS {
			break
		}
		g.servedNS = nextNS
	}
	g.servedNS = max(g.servedNS, nowNS)
	g.stale = false
	g.arm(nowNS)
}

// pass goes once through the lanes, in the order of their turns, and grants the heads that
// fit at atNS. A head that lacks room only in wide buckets keeps those for itself, else one
// with many hits would starve. nextNS is the next instant at which a head can fit.
func (g *gate) pass(atNS int64) (granted bool, nextNS int64) {
	g.passID++
	nextNS = limits.Never
	var served []*lane
	for _, l := range slices.Clone(g.lanes) {
		w := l.head()
		if w == nil {
			continue
		}
		due, kept := w.due(g.passID)
		switch {
		case kept:
		case due <= atNS:
			g.grant(w, atNS)
			granted = true
			served = append(served, l)
		default:
			w.keep(g.passID, atNS)
			nextNS = min(nextNS, due)
		}
	}
	for _, l := range served {
		g.toBack(l)
	}
	return granted, nextNS
}

// head is the first of the lane that can ever pass.
func (l *lane) head() *waiter {
	for w := l.first; w != nil; w = w.next {
		if due, _ := w.due(0); due != limits.Never {
			return w
		}
	}
	return nil
}

// due is the instant at which every bucket has room for w. kept tells that one of them is
// kept for another lane in this pass.
func (w *waiter) due(passID uint64) (dueNS int64, kept bool) {
	dueNS = w.arrivedNS
	for i := range w.decision.takes {
		t := &w.decision.takes[i]
		if t.need == 0 || t.bucket.limit.Shadow {
			continue
		}
		dueNS = max(dueNS, t.bucket.dueNS(t.need))
		kept = kept || t.bucket.mark == passID
	}
	return dueNS, kept
}

// keep marks the narrowest bucket in which w lacks room at atNS: wider ones are kept only by
// a waiter that has room in all narrower ones, so that they do not idle meanwhile.
func (w *waiter) keep(passID uint64, atNS int64) {
	var narrowest *take
	for i := range w.decision.takes {
		t := &w.decision.takes[i]
		lacks := t.need > 0 && !t.bucket.limit.Shadow && t.bucket.dueNS(t.need) > atNS
		if lacks && (narrowest == nil || t.rank.narrower(narrowest.rank)) {
			narrowest = t
		}
	}
	if narrowest != nil {
		narrowest.bucket.mark = passID
	}
}

// narrower orders levels by how many lanes share their buckets.
func (r rank) narrower(o rank) bool {
	width := [...]int{rankPerEndpoint: 0, rankEndpoint: 1, rankPerGateway: 2, rankGateway: 3}
	return width[r] < width[o]
}

func (g *gate) toBack(l *lane) {
	i := slices.Index(g.lanes, l)
	if i < 0 || i == len(g.lanes)-1 {
		return
	}
	g.lanes = append(slices.Delete(g.lanes, i, i+1), l)
}

// requeue looks every waiter's limits up again after the rules have changed. Deadlines and
// the order of arrival stay.
func (g *gate) requeue(nowNS int64) {
	waiters := g.waiters()
	for _, w := range waiters {
		for i := range w.decision.takes {
			w.decision.takes[i].bucket.queued = 0
		}
	}
	g.lanes, g.waiting = g.lanes[:0], 0
	clear(g.byKey)
	for _, w := range waiters {
		d := w.decision
		d.resolveAll(nowNS)
		d.laneKey()
		g.push(w)
	}
}

// waiters returns all in order of arrival.
func (g *gate) waiters() []*waiter {
	all := make([]*waiter, 0, g.waiting)
	for _, l := range g.lanes {
		for w := l.first; w != nil; w = w.next {
			all = append(all, w)
		}
	}
	slices.SortFunc(all, func(a, b *waiter) int { return cmp.Compare(a.seq, b.seq) })
	return all
}

// arm sets the gate's one timer to the next turn.
func (g *gate) arm(nowNS int64) {
	if g.waiting == 0 || g.dueNS == limits.Never {
		if g.timerNS != 0 {
			g.timer.Stop()
			g.timerNS = 0
		}
		return
	}
	if g.timerNS == g.dueNS {
		return
	}
	g.timerNS = g.dueNS
	in := time.Duration(max(g.dueNS-nowNS, 0))
	if g.timer == nil {
		g.timer = time.AfterFunc(in, g.turn)
		return
	}
	g.timer.Reset(in)
}

// turn is called by the timer.
func (g *gate) turn() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.timerNS = 0
	g.serve(g.engine.clock.NowNS())
}

// wait blocks until the held request of d is granted or refused.
func (e *Engine) wait(ctx context.Context, d *Decision) error {
	w := &d.waiter
	timer := time.NewTimer(time.Duration(w.deadlineNS - e.clock.NowNS()))
	defer timer.Stop()
	select {
	case <-w.ready:
		return nil
	case <-timer.C:
		e.leave(d, true)
	case <-ctx.Done():
		if e.leave(d, false) {
			return ctx.Err()
		}
	}
	<-w.ready
	return nil
}

// leave takes a waiter out of the queue: refused at its deadline, or simply gone. It returns
// false if the waiter was settled before.
func (e *Engine) leave(d *Decision, refuse bool) bool {
	g, w := d.gates[0], &d.waiter
	g.mu.Lock()
	defer g.mu.Unlock()
	nowNS := e.clock.NowNS()
	g.serve(nowNS)
	if w.state != queued {
		return false
	}
	g.dismiss(w, nowNS)
	if !refuse {
		<-w.ready
	}
	g.serve(nowNS)
	return true
}
