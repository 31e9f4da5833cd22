package limits

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
)

// shardCount is the number of maps over which exact gateways are spread: a change of one
// row copies the array of shards and one map, not all rows.
const shardCount = 4096

// Table is an immutable compiled set of limits: what one request reads.
type Table struct {
	id       int64
	seq      uint64
	atNS     int64
	loadedAt time.Time
	size     int

	shards   *[shardCount]map[string]*gatewayRows // exact gateways, by their name
	patterns []*gatewayRows                       // gateways with `*`, best first
}

// gatewayRows are all rows of one gateway, as it is written.
type gatewayRows struct {
	gateway string
	pattern pattern // zero for an exact gateway
	domains map[string]*domainRows
}

// domainRows are the rows of one (domain, gateway).
type domainRows struct {
	all  levelRows            // per NULL
	pers map[string]levelRows // by key
}

// levelRows are a gateway row and the endpoint rows beside it.
type levelRows struct {
	gateway   *Limit
	endpoints map[string]*Limit
	patterns  []endpointPattern // endpoints with `*`, best first
}

type endpointPattern struct {
	pattern pattern
	limit   *Limit
}

// Change is one changed row: Limit is nil when the row of Key was deleted.
type Change struct {
	Key   Key
	Limit *Limit
}

// Stamp says which state of the store a table shows.
type Stamp struct {
	ID       int64     // id of the newest change in it: tps_limits_history.id, or the file's own count
	AtNS     int64     // engine's time at which it comes into force
	LoadedAt time.Time // wall clock, for people
}

// NewTable compiles rows. prev is the table in force, nil for the first; rows that it has
// too keep the instant since which they are in force. Two rows of one key, or a row out of
// bounds, make it fail with every fault named; prev stays as it is.
func NewTable(prev *Table, rows []Limit, stamp Stamp) (*Table, error) {
	t := &Table{id: stamp.ID, seq: 1, atNS: stamp.AtNS, loadedAt: stamp.LoadedAt, shards: new([shardCount]map[string]*gatewayRows)}
	if prev != nil {
		t.seq = prev.seq + 1
	}
	var errs []error
	for i := range rows {
		l := &rows[i]
		if err := l.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("row %s: %w", l.Key, err))
			continue
		}
		if t.find(l.Key) != nil {
			errs = append(errs, fmt.Errorf("row %s: comes twice", l.Key))
			continue
		}
		t.rowsOf(l.Gateway, ownAll{}).domain(l.Domain).put(t.compile(prev, l))
		t.size++
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	t.sortPatterns()
	return t, nil
}

// Apply returns a table with the changes made, in their order. t stays as it is; what no
// change touches is shared. A row out of bounds makes it fail.
func (t *Table) Apply(changes []Change, stamp Stamp) (*Table, error) {
	next := &Table{id: stamp.ID, seq: t.seq + 1, atNS: stamp.AtNS, loadedAt: stamp.LoadedAt, size: t.size, patterns: slices.Clone(t.patterns)}
	shards := *t.shards
	next.shards = &shards
	own := make(ownSome)
	for _, c := range changes {
		if c.Limit == nil {
			next.remove(c.Key, own)
			continue
		}
		if c.Limit.Key != c.Key {
			return nil, fmt.Errorf("change of %s carries the row %s", c.Key, c.Limit.Key)
		}
		if err := c.Limit.Validate(); err != nil {
			return nil, fmt.Errorf("row %s: %w", c.Key, err)
		}
		had := next.find(c.Key) != nil
		next.rowsOf(c.Key.Gateway, own).domain(c.Key.Domain).put(next.compile(next, c.Limit))
		if !had {
			next.size++
		}
	}
	next.sortPatterns()
	return next, nil
}

func (t *Table) compile(prev *Table, l *Limit) *Limit {
	c := l.Compile(t.atNS)
	c.born = t.seq
	if prev == nil {
		return c
	}
	if old := prev.find(l.Key); old != nil {
		c.born = old.born
		if c.rate == old.rate && c.burst == old.burst {
			c.sinceNS = old.sinceNS
		}
		if old.same(c) {
			return old
		}
	}
	return c
}

// owner says which gatewayRows and shards this change has made itself and may write.
type owner interface {
	shard(i int) bool
	rows(g *gatewayRows) bool
	add(i int, g *gatewayRows)
}

type ownAll struct{}

func (ownAll) shard(int) bool         { return true }
func (ownAll) rows(*gatewayRows) bool { return true }
func (ownAll) add(int, *gatewayRows)  {}

type ownSome map[any]bool

func (o ownSome) shard(i int) bool         { return o[i] }
func (o ownSome) rows(g *gatewayRows) bool { return o[g] }
func (o ownSome) add(i int, g *gatewayRows) {
	o[i] = true
	o[g] = true
}

// rowsOf returns the rows of a gateway that may be written, made or copied where needed.
func (t *Table) rowsOf(gateway string, own owner) *gatewayRows {
	if strings.Contains(gateway, "*") {
		return t.patternRowsOf(gateway, own)
	}
	i := shardOf(gateway)
	g := t.shards[i][gateway]
	if g != nil && own.rows(g) {
		return g
	}
	g = g.clone(gateway)
	if t.shards[i] == nil || !own.shard(i) {
		if t.shards[i] = maps.Clone(t.shards[i]); t.shards[i] == nil {
			t.shards[i] = make(map[string]*gatewayRows, 1)
		}
	}
	t.shards[i][gateway] = g
	own.add(i, g)
	return g
}

func (t *Table) patternRowsOf(gateway string, own owner) *gatewayRows {
	i := slices.IndexFunc(t.patterns, func(g *gatewayRows) bool { return g.gateway == gateway })
	if i >= 0 && own.rows(t.patterns[i]) {
		return t.patterns[i]
	}
	if i < 0 {
		i = len(t.patterns)
		t.patterns = append(t.patterns, nil)
	}
	g := t.patterns[i].clone(gateway)
	g.pattern = compilePattern(gateway)
	t.patterns[i] = g
	own.add(-1, g)
	return g
}

func (g *gatewayRows) clone(gateway string) *gatewayRows {
	c := &gatewayRows{gateway: gateway, domains: make(map[string]*domainRows, 1)}
	if g == nil {
		return c
	}
	for name, d := range g.domains {
		c.domains[name] = d.clone()
	}
	return c
}

func (g *gatewayRows) domain(name string) *domainRows {
	d := g.domains[name]
	if d == nil {
		d = &domainRows{}
		g.domains[name] = d
	}
	return d
}

func (d *domainRows) clone() *domainRows {
	c := &domainRows{all: d.all.clone()}
	for key, lr := range d.pers {
		c.setPer(key, lr.clone())
	}
	return c
}

func (lr levelRows) clone() levelRows {
	lr.endpoints = maps.Clone(lr.endpoints)
	lr.patterns = slices.Clone(lr.patterns)
	return lr
}

func (d *domainRows) setPer(key string, lr levelRows) {
	if d.pers == nil {
		d.pers = make(map[string]levelRows, 1)
	}
	d.pers[key] = lr
}

func (d *domainRows) put(l *Limit) {
	if l.Per == "" {
		d.all.put(l)
		return
	}
	lr := d.pers[l.Per]
	lr.put(l)
	d.setPer(l.Per, lr)
}

func (lr *levelRows) put(l *Limit) {
	switch {
	case l.Endpoint == "":
		lr.gateway = l
	case strings.Contains(l.Endpoint, "*"):
		lr.removePattern(l.Endpoint)
		lr.patterns = append(lr.patterns, endpointPattern{compilePattern(l.Endpoint), l})
		slices.SortFunc(lr.patterns, func(a, b endpointPattern) int { return a.pattern.compare(b.pattern) })
	default:
		if lr.endpoints == nil {
			lr.endpoints = make(map[string]*Limit, 1)
		}
		lr.endpoints[l.Endpoint] = l
	}
}

func (lr *levelRows) removePattern(endpoint string) {
	lr.patterns = slices.DeleteFunc(lr.patterns, func(p endpointPattern) bool { return p.limit.Endpoint == endpoint })
}

func (lr *levelRows) find(endpoint string) *Limit {
	switch {
	case endpoint == "":
		return lr.gateway
	case strings.Contains(endpoint, "*"):
		for _, p := range lr.patterns {
			if p.limit.Endpoint == endpoint {
				return p.limit
			}
		}
		return nil
	}
	return lr.endpoints[endpoint]
}

func (lr *levelRows) remove(endpoint string) {
	switch {
	case endpoint == "":
		lr.gateway = nil
	case strings.Contains(endpoint, "*"):
		lr.removePattern(endpoint)
	default:
		delete(lr.endpoints, endpoint)
	}
}

func (lr *levelRows) empty() bool {
	return lr.gateway == nil && len(lr.endpoints) == 0 && len(lr.patterns) == 0
}

func (t *Table) remove(key Key, own owner) {
	if t.find(key) == nil {
		return
	}
	t.size--
	g := t.rowsOf(key.Gateway, own)
	d := g.domains[key.Domain]
	if key.Per == "" {
		d.all.remove(key.Endpoint)
	} else {
		lr := d.pers[key.Per]
		lr.remove(key.Endpoint)
		if d.pers[key.Per] = lr; lr.empty() {
			delete(d.pers, key.Per)
		}
	}
	if d.all.empty() && len(d.pers) == 0 {
		delete(g.domains, key.Domain)
	}
	if len(g.domains) > 0 {
		return
	}
	if i := slices.Index(t.patterns, g); i >= 0 {
		t.patterns = slices.Delete(t.patterns, i, i+1)
		return
	}
	delete(t.shards[shardOf(key.Gateway)], key.Gateway)
}

func (t *Table) sortPatterns() {
	slices.SortFunc(t.patterns, func(a, b *gatewayRows) int { return a.pattern.compare(b.pattern) })
}

// Find returns the row of exactly this key, nil if there is none.
func (t *Table) Find(key Key) *Limit { return t.find(key) }

func (t *Table) find(key Key) *Limit {
	g := t.gateway(key.Gateway)
	if g == nil {
		return nil
	}
	d := g.domains[key.Domain]
	if d == nil {
		return nil
	}
	if key.Per == "" {
		return d.all.find(key.Endpoint)
	}
	lr := d.pers[key.Per]
	return lr.find(key.Endpoint)
}

// gateway returns the rows of a gateway as it is written.
func (t *Table) gateway(name string) *gatewayRows {
	if !strings.Contains(name, "*") {
		return t.shards[shardOf(name)][name]
	}
	for _, g := range t.patterns {
		if g.gateway == name {
			return g
		}
	}
	return nil
}

// ID is the id of the newest change in the table.
func (t *Table) ID() int64 { return t.id }

// Seq numbers the tables of this process, from 1.
func (t *Table) Seq() uint64 { return t.seq }

// AtNS is the engine's time at which the table came into force.
func (t *Table) AtNS() int64 { return t.atNS }

// LoadedAt is the wall clock at which it was read from its store.
func (t *Table) LoadedAt() time.Time { return t.loadedAt }

// Len is the number of rows.
func (t *Table) Len() int { return t.size }

// All returns every row in no order.
func (t *Table) All() iter.Seq[*Limit] {
	return func(yield func(*Limit) bool) {
		for _, shard := range t.shards {
			for _, g := range shard {
				if !g.each(yield) {
					return
				}
			}
		}
		for _, g := range t.patterns {
			if !g.each(yield) {
				return
			}
		}
	}
}

// Sorted returns every row, by key.
func (t *Table) Sorted() []*Limit {
	return slices.SortedFunc(t.All(), func(a, b *Limit) int { return a.Compare(b.Key) })
}

func (g *gatewayRows) each(yield func(*Limit) bool) bool {
	for _, d := range g.domains {
		if !d.all.each(yield) {
			return false
		}
		for _, lr := range d.pers {
			if !lr.each(yield) {
				return false
			}
		}
	}
	return true
}

func (lr *levelRows) each(yield func(*Limit) bool) bool {
	if lr.gateway != nil && !yield(lr.gateway) {
		return false
	}
	for _, l := range lr.endpoints {
		if !yield(l) {
			return false
		}
	}
	for _, p := range lr.patterns {
		if !yield(p.limit) {
			return false
		}
	}
	return true
}

// shardOf spreads gateways by FNV-1a. Operators choose the names, so a seed against
// collisions made on purpose is not needed.
func shardOf(gateway string) int {
	h := uint32(2166136261)
	for i := range len(gateway) {
		h = (h ^ uint32(gateway[i])) * 16777619
	}
	return int(h % shardCount)
}

// pattern is a name with `*` in it, cut at the stars.
type pattern struct {
	text  string
	parts []string // at least two
	bytes int      // other than `*`
}

func compilePattern(text string) pattern {
	return pattern{text: text, parts: strings.Split(text, "*"), bytes: len(text) - strings.Count(text, "*")}
}

// compare orders patterns best first: most bytes other than `*`, then by their text.
func (p pattern) compare(o pattern) int {
	return cmp.Or(cmp.Compare(o.bytes, p.bytes), strings.Compare(p.text, o.text))
}

// match tells whether s fits. Each part is looked for once, from the left, so that the cost
// is that of len(parts) searches whatever s holds.
func (p pattern) match(s string) bool {
	first, last := p.parts[0], p.parts[len(p.parts)-1]
	if len(s) < p.bytes || !strings.HasPrefix(s, first) || !strings.HasSuffix(s, last) {
		return false
	}
	s = s[len(first) : len(s)-len(last)]
	for _, part := range p.parts[1 : len(p.parts)-1] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return true
}
