package buckets

import (
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// bucket is the live state of one limit for one concrete key: how much room was left, and
// when that was true. The zero bucket has no limit yet; adopt gives it one, and it is full.
type bucket struct {
	limit    *limits.Limit
	rate     limits.Rate // copy of limit's: one cache line less to touch
	capacity uint64
	tokens   uint64 // whole tokens at lastNS
	rem      uint64 // parts of the next token at lastNS, of rate.PerNS
	lastNS   int64
	window   *window // of an algorithm with windows, which tokens follow; nil = token bucket

	gen    uint64 // generation of the gate's rules for which limit was looked up
	turns  *turns // lanes whose heads wait for room here; nil = there never was one
	queued uint64 // hits of all waiters that need this bucket and can ever pass
	pins   int    // waiters that hold a pointer to it

	key     string // in gate.endpoints or gate.others; empty for the gateway's own
	other   bool   // lives in gate.others
	durable bool   // its usage is to survive a restart: Engine.Usage
	shadow  bool   // copy of limit's, like rate
	brought bool   // limit is an override
	dynamic int    // index in gate.dynamic plus 1; 0 = a row writes the name out
	place   int    // index in gate.keyed
}

// adopt makes the bucket count for l, which took over at changedNS. Usage survives a change:
// refill up to the change runs at the old rate, then the level is the new capacity less what
// was used, at least 0. A row that was deleted and made again starts full.
func (b *bucket) adopt(l *limits.Limit, changedNS, nowNS int64) {
	old := b.limit
	if old == l {
		return
	}
	b.limit, b.shadow, b.brought = l, l.Shadow, l.Gateway == ""
	if old == nil || (old.Key == l.Key && old.Born() != l.Born() && old.Born() != 0) {
		b.rate, b.capacity, b.window = l.Rate(), l.Capacity(), newWindow(l, 0, nowNS)
		b.tokens, b.rem, b.lastNS = b.capacity, 0, nowNS
		return
	}
	b.advance(min(changedNS, nowNS))
	if b.window == nil && l.Algorithm == limits.TokenBucket {
		b.resize(l.Rate(), l.Capacity())
	} else {
		b.convert(l)
	}
	b.advance(nowNS)
}

func (b *bucket) resize(rate limits.Rate, capacity uint64) {
	used := b.capacity - b.tokens // of whole tokens; rem is the part of one that came back already
	b.rem = b.rate.Rescale(b.rem, rate)
	b.rate, b.capacity = rate, capacity
	switch {
	case used > capacity:
		b.tokens, b.rem = 0, 0
	case used == 0:
		b.tokens, b.rem = capacity, 0
	default:
		b.tokens = capacity - used
	}
}

// convert is resize where one of the two algorithms has windows. What was used counts as used at
// lastNS where the algorithm is another one.
func (b *bucket) convert(l *limits.Limit) {
	used := b.used()
	b.rate, b.capacity, b.rem = l.Rate(), l.Capacity(), 0
	if !b.window.is(l) {
		b.window = newWindow(l, used, b.lastNS)
	}
	b.tokens = b.capacity - min(used, b.capacity)
}

// used is how many hits count at lastNS. After a cut it may be more than the capacity of a limit
// with windows.
func (b *bucket) used() uint64 {
	if b.window != nil {
		return b.window.used
	}
	return b.capacity - b.tokens
}

// advance refills up to nowNS. A clock that stands or goes back changes nothing.
func (b *bucket) advance(nowNS int64) {
	if nowNS <= b.lastNS {
		return
	}
	switch {
	case b.window != nil:
		b.window.advance(b.lastNS, nowNS)
		b.tokens = b.capacity - min(b.window.used, b.capacity)
	case b.tokens < b.capacity:
		add, left := b.rate.Refill(nowNS-b.lastNS, b.rem, b.capacity-b.tokens)
		b.tokens += add
		b.rem = left
	}
	b.lastNS = nowNS
}

// take removes hits that are there.
func (b *bucket) take(hits uint64) {
	b.tokens -= hits
	if b.window != nil {
		b.window.add(b.lastNS, hits)
	}
}

// give puts hits back, never above capacity.
func (b *bucket) give(hits uint64) {
	if hits == 0 {
		return
	}
	if b.window != nil {
		b.window.remove(b.lastNS, min(hits, b.window.used))
		b.tokens = b.capacity - min(b.window.used, b.capacity)
		return
	}
	b.tokens += min(hits, b.capacity-b.tokens)
	if b.tokens == b.capacity {
		b.rem = 0
	}
}

// waitNS is the time from lastNS until hits tokens are there, limits.Never if they never are.
func (b *bucket) waitNS(hits uint64) int64 {
	switch {
	case hits > b.capacity:
		return limits.Never
	case hits <= b.tokens:
		return 0
	case b.window != nil:
		return b.window.releaseNS(b.lastNS, b.window.used+hits-b.capacity)
	}
	return b.rate.WaitNS(hits-b.tokens, b.rem)
}

// queueWaitNS is the time from lastNS until ahead tokens have been taken by others, one after
// the other, and hits are there. Unlike for waitNS, the sum may exceed the capacity.
func (b *bucket) queueWaitNS(ahead, hits uint64) int64 {
	switch {
	case hits > b.capacity:
		return limits.Never
	case ahead+hits <= b.tokens:
		return 0
	case b.window != nil:
		return b.window.queueNS(b.lastNS, b.capacity, ahead+hits)
	case hits == 0:
		return b.rate.WaitNS(ahead-min(ahead, b.tokens), b.rem)
	}
	return b.rate.WaitNS(ahead+hits-b.tokens, b.rem)
}

// fullInNS is the time from lastNS until the bucket is full again.
func (b *bucket) fullInNS() int64 {
	switch {
	case b.window != nil && b.window.used > 0:
		return b.window.releaseNS(b.lastNS, b.window.used)
	case b.tokens >= b.capacity:
		return 0
	}
	return b.rate.WaitNS(b.capacity-b.tokens, b.rem)
}

// fullAt tells whether the bucket is full at nowNS, and so equals an absent one.
func (b *bucket) fullAt(nowNS int64) bool {
	wait := b.fullInNS()
	return wait == 0 || (wait != limits.Never && nowNS-b.lastNS >= wait)
}

// dueNS is the instant at which hits tokens are there.
func (b *bucket) dueNS(hits uint64) int64 { return addNS(b.lastNS, b.waitNS(hits)) }

// addNS adds a wait to an instant; Never stays Never.
func addNS(atNS, waitNS int64) int64 {
	if waitNS >= limits.Never-atNS {
		return limits.Never
	}
	return atNS + waitNS
}
