package buckets

import (
	"math/rand/v2"
)

// Buckets of names that no row writes out are bounded by an LRU by sampling: of a few drawn
// at random a full one goes first (it equals an absent one), else the one that was touched
// longest ago. Nothing has to be moved when a bucket is used.
const evictionSample = 8

// setDynamic notes whether the bucket counts against MaxBuckets.
func (g *gate) setDynamic(b *bucket, dynamic bool) {
	if dynamic == (b.dynamic > 0) {
		return
	}
	if dynamic {
		g.dynamic = append(g.dynamic, b)
		b.dynamic = len(g.dynamic)
		g.engine.dynamic.Add(1)
		g.updateHolder()
		return
	}
	last := len(g.dynamic) - 1
	g.dynamic[b.dynamic-1] = g.dynamic[last]
	g.dynamic[b.dynamic-1].dynamic = b.dynamic
	g.dynamic[last] = nil
	g.dynamic = g.dynamic[:last]
	b.dynamic = 0
	g.engine.dynamic.Add(-1)
	g.updateHolder()
}

// setExact notes whether the gate itself counts against MaxBuckets.
func (g *gate) setExact(exact bool) {
	if exact == g.exact {
		return
	}
	g.exact = exact
	if exact {
		g.engine.dynamic.Add(-1)
	} else {
		g.engine.dynamic.Add(1)
	}
	g.updateHolder()
}

// updateHolder lists the gate among those with something to evict, or takes it off.
func (g *gate) updateHolder() {
	holds := !g.dead && (!g.exact || len(g.dynamic) > 0)
	if holds == g.holder {
		return
	}
	g.holder = holds
	e := g.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	if holds {
		g.slot = len(e.holders)
		e.holders = append(e.holders, g)
		return
	}
	last := len(e.holders) - 1
	e.holders[g.slot] = e.holders[last]
	e.holders[g.slot].slot = g.slot
	e.holders[last] = nil
	e.holders = e.holders[:last]
}

// evictOwn makes room where it was used up, after a request that may have made grown new buckets: a
// gate with many bounded ones pays for them itself, so that names invented for one gateway cost the
// others nothing.
func (g *gate) evictOwn(grown int, nowNS int64) {
	for range grown {
		if len(g.dynamic) <= 2*evictionSample || g.engine.dynamic.Load() <= int64(g.engine.cfg.MaxBuckets) {
			return
		}
		g.evictOne(nowNS)
	}
}

// evictable returns the bucket that the gate would part with, nil if all are needed. It is
// the gate's own when the whole gate may go.
func (g *gate) evictable(nowNS int64) *bucket {
	if len(g.dynamic) == 0 {
		if g.exact || g.waiting > 0 || g.dead {
			return nil
		}
		return &g.own
	}
	var best *bucket
	for range evictionSample {
		b := g.dynamic[rand.IntN(len(g.dynamic))] //nolint:gosec // a sample, not a secret
		switch {
		case b.pins > 0:
		case g.fullAt(b, nowNS):
			return b
		case best == nil || b.lastNS < best.lastNS:
			best = b
		}
	}
	return best
}

// evictOne parts with one bucket, or with the gate itself.
func (g *gate) evictOne(nowNS int64) {
	b := g.evictable(nowNS)
	if b == nil {
		return
	}
	if g.fullAt(b, nowNS) {
		g.engine.evictedFull.Add(1)
	} else {
		g.engine.evictedUsed.Add(1)
	}
	if b == &g.own {
		g.remove()
		return
	}
	g.drop(b)
}

// remove takes a gate without waiters out of the engine.
func (g *gate) remove() {
	e := g.engine
	for len(g.dynamic) > 0 {
		g.setDynamic(g.dynamic[len(g.dynamic)-1], false)
	}
	e.buckets.Add(-int64(len(g.endpoints) + len(g.others)))
	g.setExact(true)
	g.dead = true
	g.updateHolder()
	if g.timer != nil {
		g.timer.Stop()
	}
	s := &e.shards[g.hash%gateShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeLocked(g)
	if g.name.kind != ofCounters {
		e.gates.Add(-1)
	}
}

// fullAt tells whether nothing is lost with the bucket. One that has not met the newest rules
// yet is full for sure only if it was before they came: they may refill it slower.
func (g *gate) fullAt(b *bucket, nowNS int64) bool {
	if g.behind(b) {
		nowNS = min(nowNS, g.changedNS)
	}
	return b.fullAt(nowNS)
}

// behind tells whether the bucket has not met the newest rules. The limit of an override is
// part of its key and never changes.
func (g *gate) behind(b *bucket) bool {
	return b.gen != g.gen && b.limit != nil && b.limit.Gateway != ""
}

// evict brings the number of bounded buckets back to MaxBuckets after a request that may have
// made grown new ones. The gates that are busy are passed over, so that a bucket or two per
// request in flight may be too many for a moment.
func (e *Engine) evict(grown int, nowNS int64) {
	for tries := 0; tries < 4*evictionSample+grown && e.dynamic.Load() > int64(e.cfg.MaxBuckets); tries++ {
		if g := e.victim(nowNS); g != nil {
			g.evictOne(nowNS)
			g.mu.Unlock()
		}
	}
}

// victim returns a gate to evict from, locked: of a few drawn at random the one whose sampled
// bucket is full, else the one that was touched longest ago.
func (e *Engine) victim(nowNS int64) *gate {
	var best *gate
	oldest := int64(0)
	for range evictionSample {
		g := e.randomHolder()
		if g == nil || g == best || !g.mu.TryLock() {
			continue
		}
		b := g.evictable(nowNS)
		if g.dead || b == nil {
			g.mu.Unlock()
			continue
		}
		age := b.lastNS
		if g.fullAt(b, nowNS) {
			age = -1
		}
		if best != nil && age >= oldest {
			g.mu.Unlock()
			continue
		}
		if best != nil {
			best.mu.Unlock()
		}
		best, oldest = g, age
	}
	return best
}

func (e *Engine) randomHolder() *gate {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.holders) == 0 {
		return nil
	}
	return e.holders[rand.IntN(len(e.holders))] //nolint:gosec // a sample, not a secret
}
