package buckets

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// gate is the live state of one gateway of one domain: its buckets and its queue, behind one
// mutex. Fields below mu are only touched with it held.
type gate struct {
	engine *Engine
	id     uint64 // order in which requests over several gates lock them
	name   gateName
	hash   uint64
	next   atomic.Pointer[gate] // in a chain of the shard

	mu   sync.Mutex
	dead bool // evicted: whoever held a pointer looks the gate up again

	tableSeq   uint64 // table of rules; 0 = none yet
	changedNS  int64  // when that table came into force
	gen        uint64 // counts the changes of rules
	rules      limits.Rules
	gatewayRow *limits.Limit // of the zero Dim, looked up once

	own       bucket             // gateway level, and the default limit where no row matches
	endpoints map[string]*bucket // endpoint level, by endpoint
	others    map[string]*bucket // other dimensions and overrides, by levelKey

	known   bool      // common rows that write names out do so for this domain, too: Engine.knowsDomain
	keyed   []*bucket // all of endpoints and others, for who looks at them in pieces
	exact   bool      // a row of the domain writes the gateway out
	dynamic []*bucket // of names that no row writes out
	holder  bool      // in Engine.holders
	slot    int       // index there; guarded by Engine.mu

	queue
}

// gateName names a gate. gateway is that of the rows only with ofGateway.
type gateName struct {
	domain, gateway string
	kind            gateKind
}

// gateKind is what a gate is there for.
type gateKind uint8

const (
	ofGateway  gateKind = iota
	ofNone              // descriptors without a gateway that carry a limit
	ofCounters          // a part of the counters of a domain
)

// queue are the waiters of a gate.
type queue struct {
	byKey    map[string]*lane
	stuck    lane // those who can never pass since the limits changed
	waiting  int
	seq      uint64   // numbers the arrivals
	turnSeq  uint64   // numbers the turns of lanes
	ready    laneHeap // lanes whose heads are to be looked at
	blocked  dueHeap  // buckets that heads of lanes wait for
	servedNS int64    // every turn up to this instant has been granted
	timer    *time.Timer
	timerNS  int64 // what the timer is set to, 0 = not set
}

// maxName is the longest name that is kept and compared as it is; longer ones are known by
// their hash. Rows cannot write out a name that long.
const maxName = limits.MaxNameBytes

// shortName returns s, or a hash of it where s is too long to be kept. Hashes begin with a
// byte that no row's name can hold; a name that begins with it is hashed too, lest it pose as another.
func shortName(s string) string {
	if len(s) <= maxName && !isHash(s) {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "\x00" + string(sum[:])
}

// sync takes over the table in force. gateway is the name as the request wrote it: the gate
// itself keeps only the hash of a long one.
func (g *gate) sync(t *limits.Table, gateway string, nowNS int64) {
	if g.name.kind == ofCounters || t.Seq() <= g.tableSeq {
		return
	}
	g.tableSeq = t.Seq()
	if g.name.kind == ofNone {
		g.setExact(false)
		return
	}
	g.setExact(t.Exact(g.name.domain, gateway) || (g.known && t.Exact("", gateway)))
	rules := t.Rules(g.name.domain, gateway)
	if g.gen > 0 && rules.Equal(g.rules) {
		return
	}
	atNS := min(t.AtNS(), nowNS)
	if g.waiting > 0 {
		g.serve(atNS) // turns that came before the change
	}
	g.rules, g.changedNS = rules, t.AtNS()
	g.gen++
	g.gatewayRow = rules.Gateway(limits.Dim{})
	if g.gatewayRow == nil && g.own.limit != nil && g.own.limit != g.engine.fallback {
		g.own = bucket{} // the row was deleted: its usage is forgotten
	}
	if g.waiting > 0 {
		g.requeue(atNS)
	}
}

// tookOverNS is the instant at which l took over b: l's own where the same row changed, or where
// more than one change of rules was missed, else that of the last change.
func (g *gate) tookOverNS(b *bucket, l *limits.Limit) int64 {
	if b.limit != nil && b.limit.Key == l.Key && l.SinceNS() > b.lastNS {
		return l.SinceNS()
	}
	if b.gen+1 == g.gen || l.SinceNS() < b.lastNS {
		return g.changedNS
	}
	return l.SinceNS()
}

// writtenOut tells whether the row of l names the gate and the endpoint themselves.
func (g *gate) writtenOut(l *limits.Limit) bool {
	return (l.Domain == g.name.domain || (g.known && l.Domain == "")) && !strings.Contains(l.Gateway, "*") && !strings.Contains(l.Endpoint, "*")
}

// gatewayBucket returns the gateway's own bucket, nil when no limit is in force there. found
// says whether a row matches, a disabled one included.
func (g *gate) gatewayBucket(nowNS int64) (b *bucket, found bool) {
	l := g.gatewayRow
	if l != nil && g.own.limit == l && g.own.gen == g.gen {
		return &g.own, true
	}
	if l == nil || !l.Enabled {
		return nil, l != nil
	}
	g.settleOn(&g.own, l, nowNS)
	return &g.own, true
}

// fallbackBucket returns the bucket of the default limit: the gateway's own, so that a row
// that comes later takes over what was used.
func (g *gate) fallbackBucket(nowNS int64) *bucket {
	if g.engine.fallback == nil {
		return nil
	}
	g.settleOn(&g.own, g.engine.fallback, nowNS)
	return &g.own
}

// endpointBucket is gatewayBucket for a concrete endpoint.
func (g *gate) endpointBucket(endpoint string, nowNS int64) (b *bucket, found bool) {
	key := shortName(endpoint)
	b = g.endpoints[key]
	if b != nil && b.gen == g.gen {
		return b, true
	}
	l := g.rules.Endpoint(endpoint, limits.Dim{})
	switch {
	case l == nil:
		g.drop(b)
		return nil, false
	case !l.Enabled:
		return nil, true
	case b == nil:
		b = g.addEndpoint(strings.Clone(key))
	}
	g.settleOn(b, l, nowNS)
	g.setDynamic(b, !g.writtenOut(l))
	return b, true
}

// dimBucket is gatewayBucket for a row of another dimension than the zero one, of the gateway or of
// the endpoint. key is the bucket's, as levelKey makes it.
func (g *gate) dimBucket(key []byte, row func() *limits.Limit, nowNS int64) (b *bucket, found bool) {
	b = g.others[string(key)]
	if b != nil && b.gen == g.gen {
		return b, true
	}
	l := row()
	switch {
	case l == nil:
		g.drop(b)
		return nil, false
	case !l.Enabled:
		return nil, true
	case b == nil:
		b = g.addOther(string(key))
		b.durable = l.WindowNS() >= durableWindowNS
		g.settleOn(b, l, nowNS)
		g.recall(b, nowNS)
	}
	g.settleOn(b, l, nowNS)
	g.setDynamic(b, l.Per != "" || !g.writtenOut(l))
	return b, true
}

// overrideBucket returns the bucket of the limit that a descriptor brought along, which is
// part of its key.
func (g *gate) overrideBucket(key []byte, d *Descriptor, nowNS int64) *bucket {
	b := g.others[string(key)]
	if b == nil {
		b = g.addOther(string(key))
		b.durable = d.OverrideWindowNS >= durableWindowNS
		b.adopt(limits.Override(d.Override, d.OverrideWindowNS, nowNS), nowNS, nowNS)
		g.recall(b, nowNS)
		g.setDynamic(b, true)
	}
	return b
}

func (g *gate) settleOn(b *bucket, l *limits.Limit, nowNS int64) {
	if b.limit != l {
		b.adopt(l, g.tookOverNS(b, l), nowNS)
	}
	b.gen = g.gen
}

func (g *gate) addEndpoint(key string) *bucket {
	if g.endpoints == nil {
		g.endpoints = make(map[string]*bucket, 1)
	}
	b := &bucket{key: key, place: len(g.keyed)}
	g.endpoints[key] = b
	g.keyed = append(g.keyed, b)
	g.engine.buckets.Add(1)
	return b
}

func (g *gate) addOther(key string) *bucket {
	if g.others == nil {
		g.others = make(map[string]*bucket, 1)
	}
	b := &bucket{key: key, other: true, place: len(g.keyed)}
	g.others[key] = b
	g.keyed = append(g.keyed, b)
	g.engine.buckets.Add(1)
	return b
}

// levelKey builds the keys of gate.others and of lanes. No two different lists of names meet:
// every name is preceded by its length.
type levelKey []byte

func (k levelKey) name(s string) levelKey {
	s = shortName(s)
	return append(binary.AppendUvarint(k, uint64(len(s))), s...)
}

func (k levelKey) gateway(d limits.Dim, value string) levelKey {
	return append(k, 'g').dim(d).name(value)
}

func (k levelKey) endpoint(d limits.Dim, endpoint, value string) levelKey {
	return append(k, 'e').dim(d).name(value).name(endpoint)
}

func (k levelKey) dim(d limits.Dim) levelKey {
	return binary.AppendUvarint(k.name(d.Per), uint64(d.PerSeconds)) //nolint:gosec // never negative
}

func (k levelKey) override(d *Descriptor) levelKey {
	k = binary.AppendUvarint(append(k, 'o'), uint64(d.Override))
	k = binary.AppendUvarint(k, uint64(max(d.OverrideWindowNS, 0)))
	for i := range d.Entries {
		if d.Entries[i].Key != MaxWaitKey {
			k = k.name(d.Entries[i].Key).name(d.Entries[i].Value)
		}
	}
	if len(k) <= maxOverrideKey {
		return k
	}
	sum := sha256.Sum256(k)
	return append(append(k[:0], 'h'), sum[:]...)
}

// maxOverrideKey bounds the memory of one override: the names of all its entries are part of
// its key, longer ones are known by their hash.
const maxOverrideKey = 1024

// drop forgets a bucket, unless a waiter needs it.
func (g *gate) drop(b *bucket) {
	if b == nil || b.pins > 0 {
		return
	}
	g.setDynamic(b, false)
	last := len(g.keyed) - 1
	g.keyed[b.place] = g.keyed[last]
	g.keyed[b.place].place = b.place
	g.keyed[last] = nil
	g.keyed = g.keyed[:last]
	if b.other {
		delete(g.others, b.key)
	} else {
		delete(g.endpoints, b.key)
	}
	g.engine.buckets.Add(-1)
}

// eachInPieces shows f the gate's keyed buckets, some thousand at a time with the gate locked, and
// calls between after each time, with the gate unlocked, until that says no. Buckets that come or go
// meanwhile may be missed, or seen twice.
func (g *gate) eachInPieces(f func(*bucket), between func() bool) {
	g.mu.Lock()
	left := len(g.keyed)
	g.mu.Unlock()
	for left > 0 {
		if left = g.piece(left, f); !between() {
			return
		}
	}
}

// piece shows f the last of the first unseen buckets, and returns how many are left.
func (g *gate) piece(unseen int, f func(*bucket)) (left int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.dead {
		return 0
	}
	unseen = min(unseen, len(g.keyed))
	left = max(unseen-sweepChunk, 0)
	for _, b := range g.keyed[left:unseen] {
		f(b)
	}
	return left
}
