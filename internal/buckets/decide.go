package buckets

import (
	"cmp"
	"slices"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// scratch is the room in which a Decision is worked out, kept from one request to the next.
type scratch struct {
	request *Request
	gates   []*gate // locked while the request is decided, ascending by id
	gateOf  []*gate // one per descriptor, nil where no limit can apply
	takes   []take  // one per bucket
	refs    []ref   // one per (descriptor, level), by descriptor
	refEnd  []int   // one per descriptor: where its refs end
	takeOf  map[*bucket]int
	charged bool
	key     levelKey
	waiter  waiter
}

// manyTakes is the number of buckets from which on takeOf is used to find one again, so that
// a request of a hundred thousand descriptors costs no more than each of them alone.
const manyTakes = 16

// take is what the request asks of one bucket. A bucket that several descriptors name is
// charged once, with the largest of their hits, and given back to once, the largest.
type take struct {
	gate   *gate
	bucket *bucket
	rank   rank
	before uint64 // tokens that were there before the charge
	need   uint64 // room that must be there: charge, or 1 for a check
	charge uint64
	give   uint64
}

// ref is one level of one descriptor.
type ref struct {
	take  int
	need  uint64 // this descriptor's own
	check bool
}

// rank is a level, in the order in which ties name them.
type rank uint8

const (
	rankEndpoint rank = iota
	rankPerEndpoint
	rankPerGateway
	rankGateway
)

func (d *Decision) reset(r *Request) {
	n := len(r.Descriptors)
	d.Code, d.Held, d.WaitedNS, d.BoundHit = 0, false, 0, ""
	d.Statuses = slices.Grow(d.Statuses[:0], n)[:n]
	clear(d.Statuses)
	d.gateOf = slices.Grow(d.gateOf[:0], n)[:n]
	d.request = r
	d.gates = d.gates[:0]
}

// resolveAll finds the buckets of every descriptor. The gates are locked.
func (d *Decision) resolveAll(nowNS int64) {
	d.takes, d.refs, d.refEnd, d.charged = d.takes[:0], d.refs[:0], d.refEnd[:0], false
	clear(d.takeOf)
	for i := range d.request.Descriptors {
		d.resolve(i, nowNS)
		d.refEnd = append(d.refEnd, len(d.refs))
	}
}

// refsOf are the levels of descriptor i.
func (d *Decision) refsOf(i int) []ref {
	start := 0
	if i > 0 {
		start = d.refEnd[i-1]
	}
	return d.refs[start:d.refEnd[i]]
}

// Release drops every pointer that the Decision holds into a request and the engine, so that
// a pooled one keeps nothing alive. Statuses stay until the next decision.
func (d *Decision) Release() {
	d.request = nil
	clear(d.gates[:cap(d.gates)])
	clear(d.gateOf[:cap(d.gateOf)])
	clear(d.takes[:cap(d.takes)])
	clear(d.takeOf)
	d.waiter = waiter{ready: d.waiter.ready}
}

// gatesToLock collects the gates of all descriptors, each once, ascending by id.
func (d *Decision) gatesToLock() {
	d.gates = d.gates[:0]
	for _, g := range d.gateOf {
		if g != nil && (len(d.gates) == 0 || d.gates[len(d.gates)-1] != g) {
			d.gates = append(d.gates, g)
		}
	}
	if len(d.gates) > 1 {
		slices.SortFunc(d.gates, func(a, b *gate) int { return cmp.Compare(a.id, b.id) })
		d.gates = slices.Compact(d.gates)
	}
}

// resolve finds the buckets of descriptor i.
func (d *Decision) resolve(i int, nowNS int64) {
	g, desc := d.gateOf[i], &d.request.Descriptors[i]
	if g == nil {
		return
	}
	if g.name.kind == ofCounters {
		d.add(i, rankGateway, g.counterBucket(desc, nowNS), nowNS)
		return
	}
	if desc.OverrideWindowNS > 0 {
		d.key = d.key[:0].override(desc)
		d.add(i, overrideRank(desc), g.overrideBucket(d.key, desc, nowNS), nowNS)
		if g.name.kind == ofNone {
			return
		}
	}
	matched := d.resolveLevels(i, g, desc, nowNS)
	if g.name.kind == ofNone || matched || desc.OverrideWindowNS > 0 {
		return
	}
	d.add(i, rankGateway, g.fallbackBucket(nowNS), nowNS)
}

func overrideRank(desc *Descriptor) rank {
	if desc.HasEndpoint {
		return rankEndpoint
	}
	return rankGateway
}

// resolveLevels adds the buckets of the rows that match, but for the level that an override
// replaces. matched says whether any row did.
func (d *Decision) resolveLevels(i int, g *gate, desc *Descriptor, nowNS int64) (matched bool) {
	override := desc.OverrideWindowNS > 0
	if desc.HasEndpoint && !override {
		b, found := g.endpointBucket(desc.Endpoint, nowNS)
		matched = found
		d.add(i, rankEndpoint, b, nowNS)
	}
	for _, dim := range g.rules.Dims() {
		if value, ok := desc.valueOf(dim); ok {
			matched = d.resolveDim(i, dim, value, nowNS) || matched
		}
	}
	if desc.HasEndpoint || !override {
		b, found := g.gatewayBucket(nowNS)
		matched = matched || found
		d.add(i, rankGateway, b, nowNS)
	}
	return matched
}

// resolveDim is resolveLevels for another dimension than the zero one. An override stands for the
// rows of its level of every window.
func (d *Decision) resolveDim(i int, dim limits.Dim, value string, nowNS int64) (matched bool) {
	g, desc := d.gateOf[i], &d.request.Descriptors[i]
	atEndpoint, atGateway := rankPerEndpoint, rankPerGateway
	overridden := false
	if dim.Per == "" {
		atEndpoint, atGateway = rankEndpoint, rankGateway
		overridden = desc.OverrideWindowNS > 0
	}
	if desc.HasEndpoint || !overridden {
		d.key = d.key[:0].gateway(dim, value)
		b, found := g.dimBucket(d.key, func() *limits.Limit { return g.rules.Gateway(dim) }, nowNS)
		d.add(i, atGateway, b, nowNS)
		matched = found
	}
	if desc.HasEndpoint && !overridden {
		d.key = d.key[:0].endpoint(dim, desc.Endpoint, value)
		b, found := g.dimBucket(d.key, func() *limits.Limit { return g.rules.Endpoint(desc.Endpoint, dim) }, nowNS)
		d.add(i, atEndpoint, b, nowNS)
		matched = matched || found
	}
	return matched
}

// valueOf returns what the descriptor counts by in a dimension; empty where that is nothing.
func (desc *Descriptor) valueOf(d limits.Dim) (value string, ok bool) {
	if d.Per == "" {
		return "", true
	}
	return desc.value(d.Per)
}

// value returns the value of the first entry of a key.
func (desc *Descriptor) value(key string) (string, bool) {
	for i := range desc.Entries {
		if desc.Entries[i].Key == key {
			return desc.Entries[i].Value, true
		}
	}
	return "", false
}

// add notes that descriptor i asks for room in b, which may be nil.
func (d *Decision) add(i int, level rank, b *bucket, nowNS int64) {
	if b == nil {
		return
	}
	desc := &d.request.Descriptors[i]
	r := ref{need: desc.Hits, check: !desc.Negative && desc.Hits == 0}
	var charge, give uint64
	switch {
	case desc.Negative:
		r.need, give = 0, desc.Hits
	case r.check:
		r.need = 1
	default:
		charge = desc.Hits
	}
	r.take = d.takeFor(d.gateOf[i], b, level)
	b.advance(nowNS)
	t := &d.takes[r.take]
	t.need, t.charge, t.give = max(t.need, r.need), max(t.charge, charge), max(t.give, give)
	d.refs = append(d.refs, r)
}

// takeFor returns the index of the bucket's take, made if this is the first to ask.
func (d *Decision) takeFor(g *gate, b *bucket, level rank) int {
	if len(d.takes) <= manyTakes {
		for j := range d.takes {
			if d.takes[j].bucket == b {
				return j
			}
		}
	} else if j, ok := d.takeOf[b]; ok {
		return j
	}
	d.takes = append(d.takes, take{gate: g, bucket: b, rank: level})
	if len(d.takes) > manyTakes {
		d.indexTakes()
	}
	return len(d.takes) - 1
}

func (d *Decision) indexTakes() {
	if d.takeOf == nil {
		d.takeOf = make(map[*bucket]int, 2*manyTakes)
	}
	first := len(d.takes) - 1
	if len(d.takeOf) == 0 {
		first = 0
	}
	for j := first; j < len(d.takes); j++ {
		d.takeOf[d.takes[j].bucket] = j
	}
}

// lacks tells whether the limit refuses a descriptor that needs so much room: because it is
// not there, or because it belongs to those who wait.
func (t *take) lacks(need uint64) bool {
	b := t.bucket
	return need > 0 && !b.shadow && (b.tokens < need || b.reserved())
}

func (d *Decision) refused() bool {
	for i := range d.takes {
		if d.takes[i].lacks(d.takes[i].need) {
			return true
		}
	}
	return false
}

// charge takes and gives back at nowNS.
func (d *Decision) charge(nowNS int64) {
	d.charged = true
	for i := range d.takes {
		t := &d.takes[i]
		b := t.bucket
		b.advance(nowNS)
		t.before = b.tokens
		if b.tokens >= t.charge { // only a shadow limit can be short of room here
			b.take(t.charge)
		}
		b.give(t.give)
		if t.give > 0 {
			t.gate.refresh(b) // it may be somebody's turn
		}
	}
}

// admit fills the answer to a request that was charged.
func (d *Decision) admit() {
	d.Code = OK
	for i := range d.Statuses {
		d.Statuses[i] = d.statusOK(d.refsOf(i))
	}
}

// statusOK names the limit with the least remaining; a shadow limit only if no enforced one
// applies.
func (d *Decision) statusOK(refs []ref) Status {
	s := Status{Code: OK}
	var best *ref
	for i := range refs {
		r := &refs[i]
		s.ShadowRefused = s.ShadowRefused || d.shadowLacks(r)
		if best == nil || d.namedBefore(r, best) {
			best = r
		}
	}
	if best != nil {
		d.name(&s, best)
		s.Remaining = d.remaining(best)
		s.ResetNS = d.takes[best.take].bucket.fullInNS()
	}
	return s
}

// shadowLacks tells whether a shadow limit would have refused.
func (d *Decision) shadowLacks(r *ref) bool {
	t := &d.takes[r.take]
	switch {
	case !t.bucket.shadow:
		return false
	case d.charged:
		return t.before < r.need
	}
	return t.bucket.tokens < r.need
}

func (d *Decision) namedBefore(a, b *ref) bool {
	ta, tb := &d.takes[a.take], &d.takes[b.take]
	if sa, sb := ta.bucket.shadow, tb.bucket.shadow; sa != sb {
		return sb
	}
	return cmp.Or(cmp.Compare(d.remaining(a), d.remaining(b)), ta.compare(tb)) < 0
}

// compare orders limits as ties name them: by level, then the shortest window first.
func (t *take) compare(o *take) int {
	if t.rank != o.rank {
		return cmp.Compare(t.rank, o.rank) // without a look at the limits, which are seldom in a cache
	}
	return cmp.Compare(t.bucket.limit.PerSeconds, o.bucket.limit.PerSeconds)
}

// remaining is what the status shows: the whole tokens, 0 while they belong to others.
func (d *Decision) remaining(r *ref) int64 {
	b := d.takes[r.take].bucket
	if b.queued > 0 || d.shadowLacks(r) {
		return 0
	}
	return int64(b.tokens) //nolint:gosec // at most a capacity, which fits 32 bits
}

func (d *Decision) name(s *Status, r *ref) {
	b := d.takes[r.take].bucket
	s.Limit, s.Shadow, s.Override = b.limit, b.shadow, b.brought
}

// refuse fills the answer to a request that was not charged.
func (d *Decision) refuse() {
	d.Code = OverLimit
	for i := range d.Statuses {
		d.Statuses[i] = d.statusRefused(d.refsOf(i))
	}
}

// statusRefused names the limit with the longest wait, or is the OK of a descriptor whose own
// limits all have room.
func (d *Decision) statusRefused(refs []ref) Status {
	var worst *ref
	longest := int64(-1)
	for i := range refs {
		r := &refs[i]
		if !d.takes[r.take].lacks(r.need) {
			continue
		}
		wait := d.takes[r.take].waitNS(r.need)
		if worst == nil || wait > longest || (wait == longest && d.takes[r.take].compare(&d.takes[worst.take]) < 0) {
			worst, longest = r, wait
		}
	}
	if worst == nil {
		return d.statusOK(refs)
	}
	s := Status{Code: OverLimit, ResetNS: max(longest, 1)}
	d.name(&s, worst)
	return s
}

// waitNS is how long until so many hits could pass: all who wait for the bucket's tokens go
// first.
func (t *take) waitNS(need uint64) int64 {
	if t.bucket.reserved() {
		return t.bucket.queueWaitNS(t.bucket.queued, need)
	}
	return t.bucket.waitNS(need)
}
