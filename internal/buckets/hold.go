package buckets

import (
	"context"
	"time"
)

// maxWaiterBytes bounds what one held request keeps in memory: its names, its entries and its
// descriptors. One with more is refused instead of held.
const (
	maxWaiterBytes  = 16 << 10
	entryBytes      = 32  // size of an Entry
	descriptorBytes = 256 // size of a Descriptor and what a Decision holds for it
)

// waiter is a held request: a queued take. It is part of the Decision of the caller that
// waits, and belongs to the gate until that caller reads ready.
type waiter struct {
	decision *Decision
	lane     *lane
	next     *waiter
	prev     *waiter
	seq      uint64 // order of arrival in the gate
	state    waiterState
	hits     uint64 // what the request needs of the bucket it needs least of

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

// enqueue makes the request wait, if every limit that lacks room lets it and its turn can
// come in time. It returns false where the request is to be refused.
func (d *Decision) enqueue(maxWaitNS, nowNS int64) bool {
	_, deadlineNS, ok := d.plan(maxWaitNS, nowNS)
	if !ok {
		return false
	}
	g := d.gates[0]
	if !g.admitWaiter(d) {
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

// plan tells when the turn of a request without room can come at the soonest, until when it may
// wait, and whether that is long enough. It leaves the key of its lane in d.key.
func (d *Decision) plan(maxWaitNS, nowNS int64) (soonestNS, deadlineNS int64, ok bool) {
	boundNS := min(maxWaitNS, d.holdBoundNS())
	if boundNS <= 0 {
		return 0, 0, false
	}
	g := d.gates[0]
	d.laneKey()
	ahead := uint64(0)
	if l := g.byKey[string(d.key)]; l != nil {
		ahead = l.hits
	}
	deadlineNS = addNS(nowNS, boundNS)
	if drain := g.engine.drainNS.Load(); drain > 0 {
		deadlineNS = min(deadlineNS, drain)
	}
	soonestNS = addNS(nowNS, d.soonestNS(ahead))
	return soonestNS, deadlineNS, soonestNS <= deadlineNS
}

// holdBoundNS is how long the limits and the descriptors let the request wait; 0 = not at
// all. Only requests of one gateway and at most one endpoint wait, without an override or a
// check.
func (d *Decision) holdBoundNS() int64 {
	if len(d.gates) != 1 || d.gates[0].name.kind != ofGateway || !d.oneEndpoint() {
		return 0
	}
	bound := int64(MaxWait)
	for i := range d.takes {
		t := &d.takes[i]
		if t.bucket.brought {
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

// soonestNS is the wait of the whole request if those of ahead hits in its own lane go first
// and nobody else takes anything.
func (d *Decision) soonestNS(ahead uint64) int64 {
	longest := int64(0)
	for i := range d.takes {
		if t := &d.takes[i]; !t.bucket.shadow && t.need > 0 {
			longest = max(longest, t.bucket.queueWaitNS(ahead, t.need))
		}
	}
	return longest
}

// perGate is how many may wait at one gate: of a large bound a part is kept for the others, lest a
// flood on one gateway leave them no room.
func (e *Engine) perGate() int { return e.cfg.MaxWaiters - e.cfg.MaxWaiters/1000*50 }

// admitWaiter counts one more waiter, if the bounds allow.
func (g *gate) admitWaiter(d *Decision) bool {
	e, bytes := g.engine, 0
	for i := range d.request.Descriptors {
		bytes += descriptorBytes
		for _, entry := range d.request.Descriptors[i].Entries {
			bytes += entryBytes + len(entry.Key) + len(entry.Value)
		}
	}
	if bytes <= maxWaiterBytes && g.waiting < e.perGate() {
		if e.waiters.Add(1) <= int64(e.cfg.MaxWaiters) {
			return true
		}
		e.waiters.Add(-1)
	}
	e.turnedAway.Add(1)
	d.BoundHit = "waiters"
	return false
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
