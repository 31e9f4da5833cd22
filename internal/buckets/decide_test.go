package buckets

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// decideMachine drives an Engine and the naive model side by side.
type decideMachine struct {
	*world
	model *model
	rows  map[limits.Key]limits.Limit
	nowNS int64
	d     Decision // used again and again
}

func newDecideMachine(tb testing.TB, t *rapid.T) *decideMachine {
	tb.Helper()
	defaultTPS := rapid.SampledFrom([]int64{0, 1, 20}).Draw(t, "default_max_tps")
	m := &decideMachine{
		world: newWorld(tb, Config{DefaultMaxTPS: defaultTPS}), model: newModel(defaultTPS),
		rows: map[limits.Key]limits.Limit{}, nowNS: 1,
	}
	for range rapid.IntRange(0, 12).Draw(t, "rows") {
		l := drawRow(t)
		m.rows[l.Key] = l
	}
	m.setRows()
	return m
}

func (m *decideMachine) setRows() {
	rows := slices.Collect(maps.Values(m.rows))
	m.put(m.nowNS, rows...)
	m.model.setRows(rows, m.nowNS)
}

// Change adds, changes or deletes one row. The sweep before it brings every bucket up to the
// last change: a gate that misses several knows only when the last one came.
func (m *decideMachine) Change(t *rapid.T) {
	m.step(t)
	m.engine.sweep(m.nowNS)
	keys := slices.SortedFunc(maps.Keys(m.rows), limits.Key.Compare)
	l := drawRow(t)
	if len(keys) > 0 && rapid.Bool().Draw(t, "existing") {
		l.Key = rapid.SampledFrom(keys).Draw(t, "key")
	}
	m.rows[l.Key] = l
	if rapid.IntRange(0, 2).Draw(t, "delete") == 0 {
		delete(m.rows, l.Key)
	}
	m.setRows()
}

func (m *decideMachine) step(t *rapid.T) {
	m.nowNS += rapid.OneOf(rapid.Int64Range(0, 2), rapid.Int64Range(0, 400*ms), rapid.Just(100*ms), rapid.Int64Range(0, 20*sec)).Draw(t, "step_ns")
}

func (m *decideMachine) Decide(t *rapid.T) {
	m.step(t)
	r := drawRequest(t)
	explained, err := m.engine.explain(m.nowNS, r) // which charges nothing: the models agree after it
	if err != nil {
		t.Fatalf("explain(%+v) = %v", r, err)
	}
	if _, err := m.engine.decide(m.nowNS, r, int64(MaxWait), &m.d); err != nil {
		t.Fatalf("decide(%+v) = %v", r, err)
	}
	code, statuses := m.model.decide(r, m.nowNS)
	if diff := cmp.Diff(shownAll(code, statuses), shownAll(m.d.Code, m.d.Statuses)); diff != "" {
		t.Fatalf("at %d ns, request %+v (-want +got):\n%s", m.nowNS, *r, diff)
	}
	m.checkExplained(t, &explained)
}

// checkExplained compares what was foretold with what was decided.
func (m *decideMachine) checkExplained(t *rapid.T, x *Explanation) {
	if x.Code != m.d.Code || x.Held {
		t.Fatalf("explained as %v, held %t, and decided as %v", x.Code, x.Held, m.d.Code)
	}
	for i, s := range m.d.Statuses {
		var named []*limits.Limit
		for _, l := range x.Descriptors[i].Limits {
			if l.Decided && !slices.Contains(named, l.Limit) {
				named = append(named, l.Limit)
			}
			if l.Limit == s.Limit && s.Code == OK && !s.ShadowRefused && l.After != s.Remaining {
				t.Fatalf("descriptor %d, limit %v: %d were to be left, %d are", i, l.Limit.Key, l.After, s.Remaining)
			}
		}
		if (s.Limit == nil && named != nil) || (s.Limit != nil && !slices.Equal(named, []*limits.Limit{s.Limit})) {
			t.Fatalf("descriptor %d: explained by %v, decided by %v", i, named, s.Limit)
		}
	}
}

// Sweep may come at any time and changes no answer.
func (m *decideMachine) Sweep(t *rapid.T) {
	m.step(t)
	m.engine.sweep(m.nowNS)
}

// shownAll is an answer as text, so that limits are compared by what they say.
func shownAll(code Code, statuses []Status) []string {
	shown := []string{code.String()}
	for _, s := range statuses {
		limit := "no limit"
		if s.Limit != nil {
			limit = fmt.Sprintf("%s max_tps %d", s.Limit.Key, s.Limit.MaxTPS)
		}
		s.Limit = nil
		shown = append(shown, fmt.Sprintf("%+v %s", s, limit))
	}
	return shown
}

func drawRow(t *rapid.T) limits.Limit {
	l := limits.Limit{
		Key: limits.Key{
			Domain:   rapid.SampledFrom([]string{"d", "d", "d", ""}).Draw(t, "domain"),
			Gateway:  rapid.SampledFrom([]string{"gw", "gw", "gx", "g*", "*w", "*"}).Draw(t, "gateway"),
			Endpoint: rapid.SampledFrom([]string{"", "", "ep", "eq", "e*", "*p", "*"}).Draw(t, "endpoint"),
			Per:      rapid.SampledFrom([]string{"", "", "", "user", "tenant"}).Draw(t, "per"),

			PerSeconds: rapid.SampledFrom([]int64{0, 0, 0, 2, 60}).Draw(t, "per_seconds"),
		},
		MaxTPS:  rapid.SampledFrom([]int64{0, 1, 3, 7, 10, 333, 9_999}).Draw(t, "max_tps"),
		Burst:   rapid.SampledFrom([]int64{0, 1, 2, 5, 10}).Draw(t, "burst"),
		Enabled: rapid.IntRange(0, 7).Draw(t, "disabled") > 0,
		Shadow:  rapid.IntRange(0, 5).Draw(t, "shadow") == 0,
	}
	if l.Burst == 0 {
		l.Algorithm = rapid.SampledFrom([]limits.Algorithm{limits.TokenBucket, limits.FixedWindow, limits.SlidingWindow}).Draw(t, "algorithm")
	}
	return l
}

func drawRequest(t *rapid.T) *Request {
	r := &Request{Domain: rapid.SampledFrom([]string{"d", "d", "e"}).Draw(t, "request_domain")}
	for range rapid.IntRange(1, 3).Draw(t, "descriptors") {
		r.Descriptors = append(r.Descriptors, drawDescriptor(t))
	}
	return r
}

func drawDescriptor(t *rapid.T) Descriptor {
	d := Descriptor{MaxWaitMS: -1}
	if d.HasGateway = rapid.IntRange(0, 9).Draw(t, "has_gateway") > 0; d.HasGateway {
		d.Gateway = rapid.SampledFrom([]string{"gw", "gw", "gw", "gx", "other", ""}).Draw(t, "gateway")
		d.Entries = append(d.Entries, Entry{"gateway", d.Gateway})
	}
	if d.HasEndpoint = rapid.Bool().Draw(t, "has_endpoint"); d.HasEndpoint {
		d.Endpoint = rapid.SampledFrom([]string{"ep", "ep", "eq", "x", ""}).Draw(t, "endpoint")
		d.Entries = append(d.Entries, Entry{"endpoint", d.Endpoint})
	}
	for _, key := range rapid.SampledFrom([][]string{nil, {"user"}, {"tenant", "user"}, {"user", "user"}, {MaxWaitKey}}).Draw(t, "keys") {
		d.Entries = append(d.Entries, Entry{key, rapid.SampledFrom([]string{"1", "2"}).Draw(t, "value")})
	}
	d.Hits = rapid.SampledFrom([]uint64{0, 1, 1, 1, 2, 5, 10, 11}).Draw(t, "hits")
	d.Negative = rapid.IntRange(0, 6).Draw(t, "negative") == 0
	if rapid.IntRange(0, 7).Draw(t, "override") == 0 {
		d.Override = rapid.SampledFrom([]uint32{0, 1, 7, 30}).Draw(t, "override_n")
		d.OverrideWindowNS = rapid.SampledFrom([]int64{sec, 60 * sec}).Draw(t, "override_window")
	}
	return d
}

func TestDecideEqualsNaiveModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := newDecideMachine(t, rt)
		rt.Repeat(map[string]func(*rapid.T){"decide": m.Decide, "decide more": m.Decide, "decide most": m.Decide, "change": m.Change, "sweep": m.Sweep})
	})
}

// TestRefundOfSeveralDescriptors: a bucket is given back to once, the largest.
func TestRefundOfSeveralDescriptors(t *testing.T) {
	w := newWorld(t, Config{}, row(1, 10, "gw"))
	w.decide(1, ask(10, "gw", ""))
	back := &Request{Domain: "d", Descriptors: []Descriptor{descriptor(2, "gw", ""), descriptor(3, "gw", "")}}
	back.Descriptors[0].Negative, back.Descriptors[1].Negative = true, true
	if d := w.decide(1, back); d.Code != OK || d.Statuses[0].Remaining != 3 {
		t.Errorf("given back 2 and 3 to an empty bucket: %v, remaining %d, want OK, 3", d.Code, d.Statuses[0].Remaining)
	}
}

// TestOverrideIgnoresMaxWait: our own entry max_wait_ms is no part of what an override counts by.
func TestOverrideIgnoresMaxWait(t *testing.T) {
	override := func(ms string) *Request {
		r := ask(1, "gw", "ep", Entry{MaxWaitKey, ms})
		r.Descriptors[0].Override, r.Descriptors[0].OverrideWindowNS = 1, sec
		return r
	}
	w := newWorld(t, Config{})
	first, second := w.decide(1, override("1")).Code, w.decide(1, override("2")).Code
	if first != OK || second != OverLimit {
		t.Errorf("1/s with max_wait_ms 1, then 2: %v, %v, want OK, OVER_LIMIT", first, second)
	}
}
