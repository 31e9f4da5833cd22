package buckets

import (
	"hash/maphash"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// Counter is what a descriptor is counted by where a file, and not a row, names its limit. The zero
// Counter is none.
type Counter struct {
	Key []byte // its name within the domain: what has equal ones is counted together. Empty = no limit
	// Limit, where it is another one than before, takes over what was used. nil = a fixed window of
	// Descriptor.Override in Descriptor.OverrideWindowNS.
	Limit *limits.Limit
	// Exact: the file writes all of its names out, so that MaxBuckets does not bound it.
	Exact bool
}

// limitOver is the limit of the counter, whose bucket has had old.
func (desc *Descriptor) limitOver(old *limits.Limit) *limits.Limit {
	switch {
	case desc.Counter.Limit != nil:
		return desc.Counter.Limit
	case old != nil && old.MaxTPS == int64(desc.Override) && old.WindowNS() == desc.OverrideWindowNS && old.Algorithm == limits.FixedWindow:
		return old
	}
	return limits.Window(desc.Override, desc.OverrideWindowNS/int64(time.Second), limits.FixedWindow, false)
}

// The counters of a domain are spread over parts, each a gate, so that cores seldom meet at one.
const partNames = "0123456789abcdef"

// partOf names the part of a counter.
func (e *Engine) partOf(domain string, key []byte) gateName {
	part := maphash.Bytes(e.seed, key) % uint64(len(partNames))
	return gateName{shortName(domain), partNames[part : part+1], ofCounters}
}

// kept is the name under which usage outlives the process, where parts are others.
func (n gateName) kept() gateName {
	if n.kind == ofCounters {
		n.gateway = ""
	}
	return n
}

// counterBucket returns the bucket of a counter. Its refill or count up to now is that of the limit
// that it had.
func (g *gate) counterBucket(desc *Descriptor, nowNS int64) *bucket {
	b := g.others[string(desc.Counter.Key)]
	if b == nil {
		b = g.addOther(string(desc.Counter.Key))
		b.adopt(desc.limitOver(nil), nowNS, nowNS)
		b.durable = b.limit.WindowNS() >= durableWindowNS
		g.recall(b, nowNS)
	}
	b.adopt(desc.limitOver(b.limit), nowNS, nowNS)
	g.setDynamic(b, !desc.Counter.Exact)
	return b
}

// ChargeEach decides each descriptor of r on its own at nowNS, and charges it, in their order, whether
// others are refused or not. What has no Counter has no limit, and nobody waits.
func (e *Engine) ChargeEach(nowNS int64, r *Request, d *Decision) {
	d.reset(r)
	d.Code = OK
	for i := range r.Descriptors {
		s := &d.Statuses[i]
		s.Code = OK
		if len(r.Descriptors[i].Counter.Key) > 0 {
			e.chargeOne(nowNS, r.Domain, &r.Descriptors[i], s)
		}
		if s.Code == OverLimit {
			d.Code = OverLimit
		}
	}
	if e.dynamic.Load() > int64(e.cfg.MaxBuckets) {
		e.evict(len(r.Descriptors), nowNS)
	}
}

func (e *Engine) chargeOne(nowNS int64, domain string, desc *Descriptor, s *Status) {
	g := e.lockPart(e.partOf(domain, desc.Counter.Key))
	defer g.mu.Unlock()
	b := g.counterBucket(desc, nowNS)
	b.advance(nowNS)
	b.count(desc, s)
	g.evictOwn(1, nowNS)
}

func (e *Engine) lockPart(name gateName) *gate {
	for {
		g := e.gate(name)
		g.mu.Lock()
		if !g.dead {
			return g
		}
		g.mu.Unlock()
	}
}

// count charges the hits of one descriptor at lastNS, and fills its status. A fixed window counts them
// whatever the answer: over is what exceeds the limit then, and 0 hits are over only if it was exceeded
// before. The other algorithms count only what there is room for, since they would never recover else.
func (b *bucket) count(desc *Descriptor, s *Status) {
	s.Limit = b.limit
	over := false
	switch {
	case desc.Negative:
		b.give(desc.Hits)
	case b.window.fixed():
		b.window.used = b.window.most(b.window.used + desc.Hits)
		b.tokens = b.capacity - min(b.window.used, b.capacity)
		over = b.window.used > b.capacity
	case b.tokens < max(desc.Hits, 1):
		over = true
	default:
		b.take(desc.Hits)
	}
	s.Used = b.used()
	s.ResetNS = b.resetNS()
	if over {
		s.Code = OverLimit
		if !b.window.fixed() {
			s.ResetNS = max(b.waitNS(max(desc.Hits, 1)), 1)
		}
		return
	}
	s.Remaining = int64(b.tokens) //nolint:gosec // at most a capacity, which fits 32 bits
}

// resetNS is the time from lastNS until the window of a fixed one ends, or until the bucket is full.
func (b *bucket) resetNS() int64 {
	if b.window.fixed() {
		return b.window.lengthNS - b.lastNS%b.window.lengthNS
	}
	return b.fullInNS()
}
