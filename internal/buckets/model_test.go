package buckets

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// model decides as DESIGN.md §5 says, in the plainest way: every row is looked at for every
// request, buckets are rational numbers, changes reach all of them at once. It knows no holds.
type model struct {
	fallback *limits.Limit
	rows     map[limits.Key]*limits.Limit
	buckets  map[string]*modelBucket
}

// modelBucket is the exact state of one level of one domain and its concrete names.
type modelBucket struct {
	meter
	limit *limits.Limit
	place modelLevel
}

// modelLevel is one level that a limit may stand at. Names that do not belong to it are empty.
type modelLevel struct {
	rank             rank
	domain, gateway  string
	hasEndpoint      bool
	endpoint         string
	per, value       string
	perSeconds       int64
	override         string // all of the override, its entries included
	overrideN        uint32
	overrideWindowNS int64
}

func (l modelLevel) key() string { return fmt.Sprintf("%+q", fmt.Sprintf("%#v", l)) }

// modelTake is what one request asks of one bucket.
type modelTake struct {
	b            *modelBucket
	need         uint64
	charge, give uint64
}

// modelRef is one level of one descriptor.
type modelRef struct {
	b    *modelBucket
	need uint64
	room bool // for this descriptor alone, before anything was charged
}

func newModel(defaultTPS int64) *model {
	m := &model{rows: map[limits.Key]*limits.Limit{}, buckets: map[string]*modelBucket{}}
	if defaultTPS > 0 {
		m.fallback = limits.Limit{Key: limits.Key{Gateway: "default"}, MaxTPS: defaultTPS, Enabled: true}.Compile(0)
	}
	return m
}

// setRows changes the rows at nowNS: usage stays, and is forgotten where no row is left.
func (m *model) setRows(rows []limits.Limit, nowNS int64) {
	clear(m.rows)
	for _, l := range rows {
		m.rows[l.Key] = l.Compile(0)
	}
	for key, b := range m.buckets {
		if b.place.override != "" {
			continue
		}
		l := m.match(b.place)
		switch {
		case l == nil && b.limit != m.fallback:
			delete(m.buckets, key)
		case l == nil || !l.Enabled:
		default:
			b.meter, b.limit = changed(b.meter, l, nowNS), l
		}
	}
}

// match returns the row of a level: own rows hide common ones of the same key, then exact
// before patterns and the most bytes first, by gateway and then by endpoint.
func (m *model) match(level modelLevel) *limits.Limit {
	var found []*limits.Limit
	for _, l := range m.rows {
		own := l.Key
		own.Domain = level.domain
		hidden := l.Domain == "" && level.domain != "" && m.rows[own] != nil
		if (l.Domain == "" || l.Domain == level.domain) && !hidden && l.Per == level.per && l.PerSeconds == level.perSeconds && (l.Endpoint != "") == level.hasEndpoint &&
			matches(l.Gateway, level.gateway) && (!level.hasEndpoint || matches(l.Endpoint, level.endpoint)) {
			found = append(found, l)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return slices.MinFunc(found, func(a, b *limits.Limit) int {
		return cmp.Or(compareNames(a.Gateway, b.Gateway), compareNames(a.Endpoint, b.Endpoint))
	})
}

// matches is a matcher of `*` that tries everything.
func matches(pattern, s string) bool {
	switch {
	case pattern == "":
		return s == ""
	case pattern[0] == '*':
		return matches(pattern[1:], s) || (s != "" && matches(pattern, s[1:]))
	}
	return s != "" && s[0] == pattern[0] && matches(pattern[1:], s[1:])
}

func compareNames(a, b string) int {
	bytes := func(s string) int { return len(strings.ReplaceAll(s, "*", "")) }
	exact := func(s string) int {
		if strings.Contains(s, "*") {
			return 0
		}
		return 1
	}
	return cmp.Or(exact(b)-exact(a), bytes(b)-bytes(a), strings.Compare(a, b))
}

// bucket returns the level's live state, nil where no limit is in force. matched tells whether
// a row did.
func (m *model) bucket(level modelLevel, nowNS int64) (b *modelBucket, matched bool) {
	l := m.match(level)
	if l == nil || !l.Enabled {
		return nil, l != nil
	}
	return m.live(level, l, nowNS), true
}

func (m *model) live(level modelLevel, l *limits.Limit, nowNS int64) *modelBucket {
	b := m.buckets[level.key()]
	if b == nil {
		b = &modelBucket{newMeter(l, nowNS), l, level}
		m.buckets[level.key()] = b
	}
	b.advance(nowNS)
	return b
}

// levels returns the buckets that limit a descriptor.
func (m *model) levels(domain string, desc *Descriptor, nowNS int64) (found []*modelBucket) {
	override := desc.OverrideWindowNS > 0
	if override {
		found = append(found, m.override(domain, desc, nowNS))
	}
	if !desc.HasGateway {
		return found
	}
	matched := override
	for _, level := range m.candidates(domain, desc) {
		replaced := override && level.per == "" && level.hasEndpoint == desc.HasEndpoint
		if replaced {
			continue
		}
		b, ok := m.bucket(level, nowNS)
		matched = matched || ok
		if b != nil {
			found = append(found, b)
		}
	}
	if !matched && m.fallback != nil {
		found = append(found, m.live(modelLevel{rank: rankGateway, domain: domain, gateway: desc.Gateway}, m.fallback, nowNS))
	}
	return found
}

// candidates are all levels of a descriptor, whether a row limits them or not.
func (m *model) candidates(domain string, desc *Descriptor) []modelLevel {
	gateway := modelLevel{rank: rankGateway, domain: domain, gateway: desc.Gateway}
	levels := []modelLevel{gateway}
	pers := map[string]string{}
	for _, e := range slices.Backward(desc.Entries) {
		pers[e.Key] = e.Value
	}
	for _, per := range slices.Sorted(maps.Keys(pers)) {
		level := gateway
		level.rank, level.per, level.value = rankPerGateway, per, pers[per]
		levels = append(levels, level)
	}
	return withEndpoint(withWindows(levels), desc)
}

// modelWindows are those of the rows that the tests draw.
var modelWindows = []int64{0, 2, 60}

func withWindows(levels []modelLevel) (all []modelLevel) {
	for _, level := range levels {
		for _, level.perSeconds = range modelWindows {
			all = append(all, level)
		}
	}
	return all
}

func withEndpoint(levels []modelLevel, desc *Descriptor) []modelLevel {
	if !desc.HasEndpoint {
		return levels
	}
	for _, level := range slices.Clone(levels) {
		level.hasEndpoint, level.endpoint = true, desc.Endpoint
		level.rank = map[rank]rank{rankGateway: rankEndpoint, rankPerGateway: rankPerEndpoint}[level.rank]
		levels = append(levels, level)
	}
	return levels
}

func (m *model) override(domain string, desc *Descriptor, nowNS int64) *modelBucket {
	entries := slices.DeleteFunc(slices.Clone(desc.Entries), func(e Entry) bool { return e.Key == MaxWaitKey })
	level := modelLevel{
		rank: rankGateway, domain: domain, override: fmt.Sprintf("%q", entries), overrideN: desc.Override, overrideWindowNS: desc.OverrideWindowNS,
	}
	if desc.HasEndpoint {
		level.rank = rankEndpoint
	}
	if b := m.buckets[level.key()]; b != nil {
		b.advance(nowNS)
		return b
	}
	l := limits.Override(desc.Override, desc.OverrideWindowNS, nowNS)
	b := m.live(level, l, nowNS)
	exact := b.meter.(*exactBucket)
	exact.rate = ratOf(uint64(desc.Override))
	exact.rate.Quo(exact.rate, ratOf(uint64(desc.OverrideWindowNS)))
	return b
}

// decide answers r.
func (m *model) decide(r *Request, nowNS int64) (Code, []Status) {
	refs := make([][]modelRef, len(r.Descriptors))
	takes := map[*modelBucket]*modelTake{}
	refused := false
	for i := range r.Descriptors {
		desc := &r.Descriptors[i]
		for _, b := range m.levels(r.Domain, desc, nowNS) {
			refs[i] = append(refs[i], m.ref(b, desc, takes))
			t := takes[b]
			refused = refused || (!b.limit.Shadow && !b.has(t.need))
		}
	}
	if !refused {
		charge(takes)
	}
	statuses := make([]Status, len(refs))
	for i := range refs {
		statuses[i] = statusOf(refs[i], refused)
	}
	if refused {
		return OverLimit, statuses
	}
	return OK, statuses
}

func (m *model) ref(b *modelBucket, desc *Descriptor, takes map[*modelBucket]*modelTake) modelRef {
	t := takes[b]
	if t == nil {
		t = &modelTake{b: b}
		takes[b] = t
	}
	need := desc.Hits
	switch {
	case desc.Negative:
		need = 0
		t.give = max(t.give, desc.Hits)
	case desc.Hits == 0:
		need = 1
	default:
		t.charge = max(t.charge, desc.Hits)
	}
	t.need = max(t.need, need)
	return modelRef{b: b, need: need, room: b.has(need)}
}

func charge(takes map[*modelBucket]*modelTake) {
	for b, t := range takes {
		if b.has(t.charge) {
			b.take(t.charge)
		}
		b.give(t.give)
	}
}

// statusOf is the table of §5.8 for one descriptor.
func statusOf(refs []modelRef, refused bool) Status {
	short := slices.DeleteFunc(slices.Clone(refs), func(r modelRef) bool { return !refused || r.room || r.b.limit.Shadow })
	if len(short) > 0 {
		worst := slices.MinFunc(short, func(a, b modelRef) int {
			return cmp.Or(cmp.Compare(b.waitOrNever(), a.waitOrNever()), a.b.place.compare(b.b.place))
		})
		return Status{Code: OverLimit, Limit: worst.b.limit, Override: worst.b.place.override != "", ResetNS: worst.waitOrNever()}
	}
	s := Status{Code: OK}
	for _, r := range refs {
		s.ShadowRefused = s.ShadowRefused || (r.b.limit.Shadow && !r.room)
	}
	if len(refs) == 0 {
		return s
	}
	least := slices.MinFunc(refs, func(a, b modelRef) int {
		return cmp.Or(cmp.Compare(a.shadow(), b.shadow()), cmp.Compare(a.remaining(), b.remaining()), a.b.place.compare(b.b.place))
	})
	s.Limit, s.Override, s.Shadow = least.b.limit, least.b.place.override != "", least.b.limit.Shadow
	s.Remaining, s.ResetNS = least.remaining(), least.b.full()
	return s
}

func (r modelRef) waitOrNever() int64 {
	if r.need > r.b.limit.Capacity() {
		return limits.Never
	}
	return r.b.wait(r.need)
}

func (r modelRef) shadow() int {
	if r.b.limit.Shadow {
		return 1
	}
	return 0
}

func (r modelRef) remaining() int64 {
	if r.b.limit.Shadow && !r.room {
		return 0
	}
	return int64(r.b.whole())
}

func (l modelLevel) compare(o modelLevel) int {
	return cmp.Or(cmp.Compare(l.rank, o.rank), cmp.Compare(l.perSeconds, o.perSeconds))
}
