package buckets

import (
	"container/list"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

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
// with many hits would starve. nextNS is the next instant at which that can change.
func (g *gate) pass(atNS int64) (granted bool, nextNS int64) {
	g.passID++
	nextNS = limits.Never
	var served []*list.Element
	for turn := g.lanes.Front(); turn != nil && !g.ownKept(); {
		next := turn.Next() // a lane goes with its last waiter
		fits, laneNS := g.passLane(turn.Value.(*lane), atNS)
		if fits {
			served = append(served, turn)
		}
		nextNS = min(nextNS, laneNS)
		turn = next
	}
	for _, turn := range served {
		g.lanes.MoveToBack(turn) // does nothing where the lane has gone
	}
	return len(served) > 0, nextNS
}

// ownKept tells whether a head of this pass keeps what every other one needs too: the rest of the
// lanes need not be looked at, of which clients may make as many as they can invent names.
func (g *gate) ownKept() bool {
	return g.own.mark == g.passID && g.gatewayRow != nil && g.gatewayRow.Enabled
}

// passLane grants the head of the lane if it fits at atNS. Heads whose deadline has come are
// refused, however late that is noticed, so that the next takes its turn.
func (g *gate) passLane(l *lane, atNS int64) (granted bool, nextNS int64) {
	for w := l.first; w != nil; w = l.first {
		due, kept := w.due(g.passID)
		switch {
		case !kept && due <= atNS && atNS <= w.deadlineNS:
			g.grant(w, atNS)
			return true, limits.Never
		case w.deadlineNS <= atNS:
			g.dismiss(w, w.deadlineNS)
		case kept:
			return false, limits.Never
		default:
			return false, min(due, w.keep(g.passID, atNS), w.deadlineNS)
		}
	}
	return false, limits.Never
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
// a waiter that has room in all narrower ones, so that they do not idle meanwhile. untilNS is
// when that bucket has room, and a wider one is to be marked.
func (w *waiter) keep(passID uint64, atNS int64) (untilNS int64) {
	var narrowest *take
	for i := range w.decision.takes {
		t := &w.decision.takes[i]
		lacks := t.need > 0 && !t.bucket.limit.Shadow && t.bucket.dueNS(t.need) > atNS
		if lacks && (narrowest == nil || t.rank.narrower(narrowest.rank)) {
			narrowest = t
		}
	}
	if narrowest == nil {
		return limits.Never
	}
	narrowest.bucket.mark = passID
	return narrowest.bucket.dueNS(narrowest.need)
}

// narrower orders levels by how many lanes share their buckets.
func (r rank) narrower(o rank) bool {
	width := [...]int{rankPerEndpoint: 0, rankEndpoint: 1, rankPerGateway: 2, rankGateway: 3}
	return width[r] < width[o]
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
