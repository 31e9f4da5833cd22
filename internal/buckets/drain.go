package buckets

import (
	"maps"
	"slices"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// setQueue notes whether a gate has waiters.
func (e *Engine) setQueue(g *gate, waiting bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if waiting {
		e.queues[g] = struct{}{}
	} else {
		delete(e.queues, g)
	}
}

func (e *Engine) withQueue() []*gate {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Keys(e.queues))
}

// Replan makes the gates with waiters look at the table in force at once; all others do so
// when a request touches them.
func (e *Engine) Replan() {
	table := e.current.Load()
	if table == nil {
		return
	}
	for _, g := range e.withQueue() {
		g.mu.Lock()
		nowNS := e.clock.NowNS()
		g.syncWaiting(table, nowNS)
		g.serve(nowNS)
		g.mu.Unlock()
	}
}

// Drain lets nobody wait beyond deadlineNS of the Engine's clock: who cannot be served by
// then is refused at once, with the wait that it would have needed; the rest at the deadline.
func (e *Engine) Drain(deadlineNS int64) {
	e.drainNS.Store(deadlineNS)
	nowNS := e.clock.NowNS()
	for _, g := range e.withQueue() {
		g.mu.Lock()
		g.serve(nowNS)
		g.dismissAfter(deadlineNS, nowNS)
		g.serve(nowNS)
		g.mu.Unlock()
	}
	time.AfterFunc(time.Duration(max(deadlineNS-nowNS, 0)), e.endDrain)
}

func (e *Engine) endDrain() {
	for _, g := range e.withQueue() {
		g.mu.Lock()
		nowNS := e.clock.NowNS()
		g.serve(nowNS)
		for _, w := range g.waiters() {
			if w.state == queued { // else the one before it had kept its tokens
				g.dismiss(w, nowNS)
				g.serve(nowNS)
			}
		}
		g.mu.Unlock()
	}
}

// dismissAfter refuses every waiter whose turn cannot come by deadlineNS, in order of
// arrival, so that those who stay move up no further than they should.
func (g *gate) dismissAfter(deadlineNS, nowNS int64) {
	ahead := make(map[*lane]uint64, len(g.byKey))
	for _, w := range g.waiters() {
		l := w.lane
		for i := range w.decision.takes {
			w.decision.takes[i].bucket.advance(nowNS)
		}
		if addNS(nowNS, w.decision.soonestNS(ahead[l])) > deadlineNS {
			g.dismiss(w, nowNS)
			continue
		}
		ahead[l] += w.hits
	}
}

// syncWaiting is sync with the gateway's name as a waiter's request wrote it.
func (g *gate) syncWaiting(t *limits.Table, nowNS int64) {
	w := g.stuck.first
	for _, l := range g.byKey {
		w = l.first
		break
	}
	if w == nil {
		return
	}
	for i := range w.decision.request.Descriptors {
		if desc := &w.decision.request.Descriptors[i]; desc.HasGateway {
			g.sync(t, desc.Gateway, nowNS)
			return
		}
	}
}
