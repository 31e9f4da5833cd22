package buckets

import (
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
	for g.waiting > 0 {
		l, atNS := g.nextTurn()
		if atNS > nowNS {
			break
		}
		g.servedNS = max(g.servedNS, atNS)
		g.unblock(l)
		g.look(l, g.servedNS)
	}
	g.servedNS = max(g.servedNS, nowNS)
	g.arm(nowNS)
}

// nextTurn is the lane to be looked at next, and when. Of those at one instant it is the one with the
// lowest turn.
func (g *gate) nextTurn() (l *lane, atNS int64) {
	atNS = limits.Never
	if len(g.blocked) > 0 {
		t := g.blocked[0].turns
		l, atNS = t.lanes[0], t.dueNS
	}
	if len(g.ready) > 0 && (atNS > g.servedNS || g.ready[0].turn < l.turn) {
		return g.ready[0], g.servedNS
	}
	return l, atNS
}

// look grants the head of a lane if it fits at atNS, and puts the lane to the back then; else the
// lane waits for the bucket that has no room. Heads whose deadline has come are refused, however
// late that is noticed, so that the next takes its turn.
func (g *gate) look(l *lane, atNS int64) {
	for w := l.first; w != nil; w = l.first {
		b := w.blocking(l.turn, atNS)
		switch {
		case b == nil && atNS <= w.deadlineNS:
			g.grant(w, atNS)
			if l.first != nil {
				g.toTheBack(l)
			}
			return
		case w.deadlineNS <= atNS:
			g.dismiss(w, w.deadlineNS)
		default:
			g.block(l, b)
			return
		}
	}
}

// toTheBack gives the lane the last turn of all.
func (g *gate) toTheBack(l *lane) {
	g.turnSeq++
	l.turn = g.turnSeq
	g.ready.push(l, nil)
}

// blocking is the narrowest bucket that has no room for w at atNS, or whose tokens belong to a
// lane with an earlier turn; nil if there is none. So a head keeps the tokens of the narrowest
// bucket that it lacks, else one with many hits would starve, and a wider bucket does not idle
// meanwhile.
func (w *waiter) blocking(turn uint64, atNS int64) *bucket {
	var narrowest *take
	for i := range w.decision.takes {
		t := &w.decision.takes[i]
		if t.need == 0 || t.bucket.shadow || (narrowest != nil && !t.rank.narrower(narrowest.rank)) {
			continue
		}
		if t.bucket.dueNS(t.need) > atNS || t.bucket.keptFrom(turn) {
			narrowest = t
		}
	}
	if narrowest == nil {
		return nil
	}
	return narrowest.bucket
}

// dueNS is the instant at which every bucket has room for w.
func (w *waiter) dueNS() int64 {
	dueNS := w.arrivedNS
	for i := range w.decision.takes {
		if t := &w.decision.takes[i]; t.need > 0 && !t.bucket.shadow {
			dueNS = max(dueNS, t.bucket.dueNS(t.need))
		}
	}
	return dueNS
}

// narrower orders levels by how many lanes share their buckets.
func (r rank) narrower(o rank) bool {
	width := [...]int{rankPerEndpoint: 0, rankEndpoint: 1, rankPerGateway: 2, rankGateway: 3}
	return width[r] < width[o]
}

// arm sets the gate's one timer to the next turn.
func (g *gate) arm(nowNS int64) {
	dueNS := limits.Never
	if g.waiting > 0 {
		_, dueNS = g.nextTurn()
	}
	if dueNS == limits.Never {
		if g.timerNS != 0 {
			g.timer.Stop()
			g.timerNS = 0
		}
		return
	}
	if g.timerNS == dueNS {
		return
	}
	g.timerNS = dueNS
	in := time.Duration(max(dueNS-nowNS, 0))
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
