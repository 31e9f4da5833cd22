package rollup

import (
	"math"
	"slices"
)

// bucket is a token bucket in integers. A hold of up to W is the same as W of refill more at the
// bottom: a request that finds less than a token passes when its token comes, which is within W
// exactly where that much more would have been enough.
type bucket struct {
	token    int64 // parts of a token
	refill   int64 // parts a second
	capacity int64 // parts; those at the bottom included
	bottom   int64 // parts: whoever finds less than this and a token waits
}

// newBucket takes thousandths of 1/PerSeconds as parts, so that a millisecond brings whole ones. A
// bucket for which that is too large (a hundred million in a window of months) takes 1/PerSeconds,
// and its bottom is rounded down.
func newBucket(l *Limit) bucket {
	perSecond, fine := max(l.PerSeconds, 1), int64(1000)
	if l.Capacity > math.MaxInt64/4/fine/perSecond {
		fine = 1
	}
	b := bucket{token: perSecond * fine, refill: l.MaxTPS * fine}
	b.bottom = l.MaxTPS * l.MaxWaitMS * fine / 1000 // at most 1.8e18
	b.capacity = l.Capacity*b.token + b.bottom      // at most 2.3e18 + 1.8e18
	return b
}

// fill returns the level some seconds later, if nobody comes.
func (b *bucket) fill(level, seconds int64) int64 {
	if b.refill == 0 || seconds <= (b.capacity-level)/b.refill {
		return level + seconds*b.refill
	}
	return b.capacity
}

// least follows the requests that come spread in the best way: the first at once, each other one
// when there is a token for it. No token is lost then but those that find the bucket full when all
// have passed, so that nobody can let more pass in this second; and a token that is kept for a later
// one lets one more pass there at most. So it is also the best in the long run.
type least struct {
	bucket
	level   int64
	refused int64
}

func (l *least) add(n int64) {
	passed := min(n, (l.level+l.refill)/l.token)
	l.refused = addUp(l.refused, n-passed)
	l.level = min(l.level+l.refill-passed*l.token, l.capacity)
}

// most follows the requests that come in the worst way. In each second that is one of two: all at
// its begin (the fewest pass now), or all just before its end (the bucket stays full until then,
// and is empty in the next second). Which one is worse shows later, so it follows both, and of
// these only paths of which none dominates another.
//
// That no other way is worse, for a level x, n requests, and a refill of r in a second: that two
// buckets whose levels differ by d let pass numbers that differ by at most ⌈d⌉, the fuller one
// more, whatever comes.
//
//   - All pass: no level at the end is lower than where they come at the end, if there are that
//     many tokens; else one that comes at the end is refused, and that leaves less than a token.
//   - One is refused, and the bucket was not full before in that second: at least ⌊x⌋ pass, no token
//     is lost that is not lost too where all come at the begin, and so that is as bad.
//   - One is refused, and the bucket was full before: all of its tokens pass in between. At the end
//     no more pass, and nothing is left either.
type most struct {
	bucket
	paths []path
	next  []path
}

// path is how many have passed at least, for a level at most as low.
type path struct{ level, passed int64 }

// maxPaths bounds the paths. Beyond it, two become one that is worse than both: then Most is a bound
// still, but nobody may be able to reach it. Buckets of up to a second's refill never have more than two.
const maxPaths = 8

func (m *most) add(n int64) {
	m.next = m.next[:0]
	for _, p := range m.paths {
		full := m.fill(p.level, 1)
		atEnd := min(n, full/m.token)
		m.keep(path{full - atEnd*m.token, p.passed + atEnd})
		if atBegin := min(n, p.level/m.token); atBegin < atEnd {
			m.keep(path{m.fill(p.level-atBegin*m.token, 1), p.passed + atBegin})
		}
	}
	m.paths, m.next = m.next, m.paths
	for len(m.paths) > maxPaths {
		m.join()
	}
}

func (m *most) skip(seconds int64) {
	m.next = m.next[:0]
	for _, p := range m.paths {
		m.keep(path{m.fill(p.level, seconds), p.passed})
	}
	m.paths, m.next = m.next, m.paths
}

// keep takes a path, unless another one dominates it.
func (m *most) keep(p path) {
	for _, other := range m.next {
		if m.dominates(other, p) {
			return
		}
	}
	m.next = slices.DeleteFunc(m.next, func(other path) bool { return m.dominates(p, other) })
	m.next = append(m.next, p)
}

// dominates tells whether p is worse than o whatever comes.
func (m *most) dominates(p, o path) bool {
	ahead := int64(0)
	if p.level > o.level {
		ahead = (p.level - o.level + m.token - 1) / m.token
	}
	return p.passed+ahead <= o.passed
}

// join makes one of the two paths whose levels are nearest to each other.
func (m *most) join() {
	slices.SortFunc(m.paths, func(a, b path) int { return int(min(max(a.level-b.level, -1), 1)) })
	at := 0
	for i := range len(m.paths) - 1 {
		if m.paths[i+1].level-m.paths[i].level < m.paths[at+1].level-m.paths[at].level {
			at = i
		}
	}
	m.paths[at].passed = min(m.paths[at].passed, m.paths[at+1].passed)
	m.paths = slices.Delete(m.paths, at+1, at+2)
}

// passed is how many have passed at least.
func (m *most) passed() int64 {
	n := int64(math.MaxInt64)
	for _, p := range m.paths {
		n = min(n, p.passed)
	}
	return n
}
