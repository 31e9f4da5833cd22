package buckets

import (
	"hash/maphash"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// durableWindowNS is the shortest window whose usage survives a restart: that of a shorter one is
// over before anybody notices.
const durableWindowNS = int64(time.Minute)

// Usage is what one bucket of a window of a minute or longer has used, as it is kept from one
// process to the next. Names may be any bytes; of those longer than 255 there is a hash.
type Usage struct {
	Domain   []byte     `json:"domain"`
	Gateway  []byte     `json:"gateway"`
	NoName   bool       `json:"no_gateway,omitempty"` // of descriptors without a gateway that carry a limit
	Counter  bool       `json:"counter,omitempty"`    // of a Counter
	Key      []byte     `json:"key"`                  // of the bucket in its gate
	RowNS    int64      `json:"row_ns,omitempty"`     // when the row was made; 0 = not known
	AtNS     int64      `json:"at_ns"`                // since 1970
	FullAtNS int64      `json:"full_at_ns"`           // nothing is left of it from then on
	Used     uint64     `json:"used"`                 // hits that count at AtNS
	SlotNS   int64      `json:"slot_ns,omitempty"`    // length of the parts of a sliding window
	Slots    [][2]int64 `json:"slots,omitempty"`      // number of each part since 1970, and its hits
}

type usageKey struct {
	name gateName
	key  string
}

func (u *Usage) of() usageKey {
	name := gateName{domain: string(u.Domain), gateway: string(u.Gateway)}
	switch {
	case u.Counter:
		name.kind = ofCounters
	case u.NoName:
		name.kind = ofNone
	}
	return usageKey{name, string(u.Key)}
}

// kept is the usage that no bucket has taken yet, in parts, so that nobody waits for a copy of all.
type kept struct {
	left   atomic.Int64
	shards [gateShards]keptShard
}

type keptShard struct {
	mu    sync.Mutex
	byKey map[usageKey]Usage
}

// Restore takes over what an earlier process has used. It is to be called before the first request;
// each bucket takes its part when it is made.
func (e *Engine) Restore(all []Usage) {
	nowNS := e.clock.NowNS()
	for _, u := range all {
		if u.FullAtNS > nowNS && u.AtNS > 0 { // else it is over, or of somebody who has edited the file
			e.keep(u)
		}
	}
}

func (e *Engine) keep(u Usage) {
	k := u.of()
	s := e.keptShard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byKey == nil {
		s.byKey = make(map[usageKey]Usage)
	}
	if _, twice := s.byKey[k]; !twice {
		e.kept.left.Add(1)
	}
	s.byKey[k] = u
}

func (e *Engine) keptShard(k usageKey) *keptShard {
	return &e.kept.shards[maphash.Comparable(e.seed, k)%gateShards]
}

// recall gives a bucket that was just made the usage that an earlier process has left.
func (g *gate) recall(b *bucket, nowNS int64) {
	if !b.durable || g.engine.kept.left.Load() == 0 {
		return
	}
	if u, ok := g.engine.takeKept(usageKey{g.name.kept(), b.key}); ok && u.RowNS == rowNS(b.limit) {
		b.restore(&u, nowNS)
	}
}

func (e *Engine) takeKept(k usageKey) (Usage, bool) {
	s := e.keptShard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.byKey[k]
	if ok {
		delete(s.byKey, k)
		e.kept.left.Add(-1)
	}
	return u, ok
}

// restore makes a full bucket what it was at u.AtNS, and lets the time since then pass. Of a clock
// that was set back everything counts as used just now.
func (b *bucket) restore(u *Usage, nowNS int64) {
	b.lastNS = min(u.AtNS, nowNS)
	switch {
	case b.window == nil:
		b.tokens, b.rem = b.capacity-min(u.Used, b.capacity), 0
	case b.window.slots != nil && u.SlotNS == b.window.slotNS() && u.AtNS <= nowNS:
		b.window.load(b.lastNS, u.Slots)
	default:
		b.window.add(b.lastNS, b.window.most(u.Used))
	}
	if b.window != nil {
		b.tokens = b.capacity - min(b.window.used, b.capacity)
	}
	b.advance(nowNS)
}

// load takes hits of the parts that can still count at lastNS.
func (w *window) load(lastNS int64, saved [][2]int64) {
	last := lastNS / w.slotNS()
	for _, s := range saved {
		if slot, hits := s[0], s[1]; slot <= last && slot >= max(last-slotsInWindow, 0) && hits > 0 && hits <= maxSlot-int64(w.used) { //nolint:gosec // at most maxSlot
			w.add(slot*w.slotNS(), uint64(hits))
		}
	}
}

// Usage returns what is to survive the process: of every bucket of a window of a minute or longer
// that is not full. No gate is locked for longer than it takes to look at some thousand buckets.
func (e *Engine) Usage() iter.Seq[Usage] { return e.usage(e.clock.NowNS()) }

func (e *Engine) usage(nowNS int64) iter.Seq[Usage] {
	return func(yield func(Usage) bool) {
		// What is taken meanwhile comes twice, and the later counts; the other way round it would be missed.
		for i := range e.kept.shards {
			for _, u := range e.stillKept(&e.kept.shards[i], nowNS) {
				if !yield(u) {
					return
				}
			}
		}
		var gates []*gate
		for i := range e.shards {
			gates = e.shards[i].appendTo(gates[:0])
			for _, g := range gates {
				if !g.usage(nowNS, yield) {
					return
				}
			}
		}
	}
}

// stillKept is what no bucket has taken yet, because no request has come for it.
func (e *Engine) stillKept(s *keptShard, nowNS int64) []Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.byKey)
	maps.DeleteFunc(s.byKey, func(_ usageKey, u Usage) bool { return u.FullAtNS <= nowNS })
	e.kept.left.Add(int64(len(s.byKey) - before))
	return slices.Collect(maps.Values(s.byKey))
}

// usage tells what is to survive of the gate, until yield says no.
func (g *gate) usage(nowNS int64, yield func(Usage) bool) (more bool) {
	var some []Usage // of one piece: nobody is to wait for the growth of a long list
	more = true
	g.eachInPieces(func(b *bucket) {
		if b.durable && b.limit != nil && !g.fullAt(b, nowNS) {
			some = append(some, g.usageOf(b))
		}
	}, func() bool {
		for _, u := range some {
			more = more && yield(u)
		}
		some = some[:0]
		return more
	})
	return more
}

func (g *gate) usageOf(b *bucket) Usage {
	name := g.name.kept()
	u := Usage{
		Domain: []byte(name.domain), Gateway: []byte(name.gateway), NoName: name.kind == ofNone, Counter: name.kind == ofCounters, Key: []byte(b.key), RowNS: rowNS(b.limit),
		AtNS: b.lastNS, FullAtNS: addNS(b.lastNS, b.fullInNS()), Used: b.used(),
	}
	u.setSlots(b.window)
	return u
}

// rowNS tells two rows of one key apart, of which one was deleted before the other was made.
func rowNS(l *limits.Limit) int64 {
	if l.CreatedAt.IsZero() {
		return 0
	}
	return l.CreatedAt.UnixNano()
}

func (u *Usage) setSlots(w *window) {
	if w == nil || w.slots == nil {
		return
	}
	u.SlotNS = w.slotNS()
	last := u.AtNS / u.SlotNS
	for slot := max(last-slotsInWindow, 0); slot <= last; slot++ {
		if hits := *w.slots.at(slot); hits > 0 {
			u.Slots = append(u.Slots, [2]int64{slot, int64(hits)})
		}
	}
}
