package buckets

import (
	"cmp"
	"container/heap"
	"encoding/hex"
	"slices"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// BucketState is one live bucket.
type BucketState struct {
	Domain, Gateway, Endpoint string
	HasEndpoint               bool
	Value                     string        // of the descriptor key that Limit counts by
	Limit                     *limits.Limit // of Gateway "" where a request or a file brought it along
	Counter                   string        // key of a Counter; empty = the bucket is of a row or an override
	Tokens, Capacity          uint64
	Queued                    uint64 // hits of those who wait for its tokens
	FullInNS                  int64
}

// compare orders buckets as an operator looks for them: those that requests wait for first, then
// those with the smallest part of their room left.
func (s *BucketState) compare(o *BucketState) int {
	return cmp.Or(
		cmp.Compare(o.Queued, s.Queued),
		cmp.Compare(s.Tokens*max(o.Capacity, 1), o.Tokens*max(s.Capacity, 1)), // at most 1e9 each
		cmp.Compare(o.Capacity, s.Capacity),
		cmp.Compare(s.Domain, o.Domain), cmp.Compare(s.Gateway, o.Gateway), cmp.Compare(s.Endpoint, o.Endpoint), cmp.Compare(s.Value, o.Value),
	)
}

// Buckets returns the live buckets that requests wait for and the fullest ones, at most most of
// them; full ones are left out. It looks at all, some thousand of a gate at a time.
func (e *Engine) Buckets(most int) []BucketState { return e.fullest(e.clock.NowNS(), most) }

func (e *Engine) fullest(nowNS int64, most int) []BucketState {
	kept := worstFirst{}
	var gates []*gate
	for i := range e.shards {
		gates = e.shards[i].appendTo(gates[:0])
		for _, g := range gates {
			g.inspect(nowNS, func(s *BucketState) { kept.offer(s, most) })
		}
	}
	slices.SortFunc(kept, func(a, b BucketState) int { return a.compare(&b) })
	return kept
}

// worstFirst is a heap whose first element is the next to go.
type worstFirst []BucketState

func (h worstFirst) Len() int           { return len(h) }
func (h worstFirst) Less(i, j int) bool { return h[i].compare(&h[j]) > 0 }
func (h worstFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *worstFirst) Push(x any)        { *h = append(*h, x.(BucketState)) }
func (h *worstFirst) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func (h *worstFirst) offer(s *BucketState, most int) {
	switch {
	case h.Len() < most:
		heap.Push(h, *s)
	case most > 0 && s.compare(&(*h)[0]) < 0:
		(*h)[0] = *s
		heap.Fix(h, 0)
	}
}

// inspect shows f every bucket of the gate that is not full.
func (g *gate) inspect(nowNS int64, f func(*BucketState)) {
	show := func(b *bucket) {
		if b.limit == nil || (b.queued == 0 && b.fullAt(nowNS)) {
			return
		}
		c := b.copy()
		c.advance(nowNS)
		s := BucketState{
			Domain: shownName(g.name.domain), Gateway: shownName(g.name.gateway), Limit: c.limit,
			Tokens: c.tokens, Capacity: c.capacity, Queued: c.queued, FullInNS: c.fullInNS(),
		}
		s.setLevel(g, b)
		f(&s)
	}
	g.inspectOwn(show)
	g.eachInPieces(show, func() bool { return true })
}

func (g *gate) inspectOwn(show func(*bucket)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.dead {
		show(&g.own)
	}
}

func (s *BucketState) setLevel(g *gate, b *bucket) {
	switch {
	case g.name.kind == ofCounters:
		s.Gateway, s.Counter = "", b.key
	case b.key == "":
	case !b.other:
		s.HasEndpoint, s.Endpoint = true, shownName(b.key)
	case b.key[0] == 'g' || b.key[0] == 'e':
		level := parseLevel(b.key)
		s.HasEndpoint, s.Endpoint, s.Value = level.hasEndpoint, shownName(level.endpoint), shownName(level.value)
	}
}

// shownName is a name as people can read it: of a long one only the hash is known.
func shownName(name string) string {
	if isHash(name) {
		return "sha256:" + hex.EncodeToString([]byte(name[1:]))
	}
	return name
}

// BucketKey names one live bucket by the concrete names of its requests.
type BucketKey struct {
	Domain, Gateway, Endpoint string
	HasEndpoint               bool
	Dim                       limits.Dim
	Value                     string // of Dim.Per
}

// Reset fills a bucket again, as if nothing had been taken, also by an earlier process. It returns
// false where there is none: then it was full. Those who wait for its tokens get their turn.
func (e *Engine) Reset(k BucketKey) bool { return e.reset(e.clock.NowNS(), k) }

func (e *Engine) reset(nowNS int64, k BucketKey) bool {
	name := gateName{shortName(k.Domain), shortName(k.Gateway), ofGateway}
	_, kept := e.takeKept(usageKey{name, string(k.level())})
	g := e.findSurely(name)
	if g == nil {
		return kept
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	b := g.bucketOf(k)
	if g.dead || b == nil || b.limit == nil {
		return kept
	}
	g.serve(nowNS)
	b.advance(nowNS)
	if b.window != nil {
		b.window = newWindow(b.limit, 0, nowNS)
	}
	b.tokens, b.rem = b.capacity, 0
	g.refresh(b)
	g.serve(nowNS)
	return true
}

func (g *gate) bucketOf(k BucketKey) *bucket {
	switch {
	case k.Dim != limits.Dim{}:
		return g.others[string(k.level())]
	case k.HasEndpoint:
		return g.endpoints[shortName(k.Endpoint)]
	}
	return &g.own
}

// level is the key of the bucket in gate.others.
func (k *BucketKey) level() levelKey {
	if k.HasEndpoint {
		return levelKey(nil).endpoint(k.Dim, k.Endpoint, k.Value)
	}
	return levelKey(nil).gateway(k.Dim, k.Value)
}
