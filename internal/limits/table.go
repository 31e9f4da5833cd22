package limits

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"
)

// Table is an immutable compiled set of limits: what one request reads. A table that Apply makes
// shares with the one before what has not changed.
type Table struct {
	id       int64
	seq      uint64
	atNS     int64
	loadedAt time.Time
	size     int

	exact    cowMap[place, *placeRows]               // gateways that are written out
	patterns cowMap[name, *patternIndex[*placeRows]] // gateways with `*`, by domain
}

// place is a gateway of a domain, as rows write it.
type place struct{ domain, gateway string }

func (p place) hash() uint32 { return fnv(fnv(fnvOffset, p.gateway)*fnvPrime, p.domain) }

// placeRows are all rows of one place.
type placeRows struct {
	owner *edit
	all   level // of the zero Dim
	dims  map[Dim]*level
}

// level are a gateway row and the endpoint rows beside it, all of one dimension.
type level struct {
	owner     *edit
	gateway   *Limit
	endpoints cowMap[name, *Limit]
	patterns  *patternIndex[*Limit] // endpoints with `*`; nil = none
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

	// Pause is called after every few hundred rows, so that whoever compiles a million of them
	// beside requests lets these go first; nil = there is no hurry.
	Pause func()
}

// pauseEvery is after how many rows Stamp.Pause is called.
const pauseEvery = 256

func (s *Stamp) pauseAt(row int) {
	if s.Pause != nil && row%pauseEvery == 0 {
		s.Pause()
	}
}

// NewTable compiles rows. prev is the table in force, nil for the first; rows that it has
// too stay as they are in it, and keep the instant since which they are in force. So a reload that
// changes little makes little garbage. Two rows of one key, or a row out of bounds, make it fail
// with every fault named; prev stays as it is.
func NewTable(prev *Table, rows []Limit, stamp Stamp) (*Table, error) {
	return NewTableFrom(prev, func(yield func(*Limit) bool) {
		for i := range rows {
			if !yield(&rows[i]) {
				return
			}
		}
	}, stamp)
}

// NewTableFrom is NewTable for rows that are given one by one. Those of prev itself, as
// [Table.Shared] gives them, cost next to nothing. It does not keep the others.
func NewTableFrom(prev *Table, rows iter.Seq[*Limit], stamp Stamp) (*Table, error) {
	t := &Table{}
	if prev != nil {
		*t = *prev
	}
	t.id, t.seq, t.atNS, t.loadedAt = stamp.ID, t.seq+1, stamp.AtNS, stamp.LoadedAt
	r := reload{prev: prev, next: t, edit: &edit{}, seen: make(map[*Limit]struct{}, t.size)}
	var errs []error
	n := 0
	for l := range rows {
		stamp.pauseAt(n)
		n++
		if err := r.row(l); err != nil {
			errs = append(errs, fmt.Errorf("row %s: %w", l.Key, err))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	r.removeUnseen(stamp)
	return t, nil
}

// reload is the making of a table from all rows.
type reload struct {
	prev, next *Table
	edit       *edit
	seen       map[*Limit]struct{} // rows of prev that are there still
}

// row takes one row.
func (r *reload) row(l *Limit) error {
	old := r.old(l.Canonical())
	if old != l { // else it is good
		if err := l.Validate(); err != nil {
			return err
		}
	}
	if old == nil {
		if had := r.next.put(r.edit, r.next.compile(nil, l)); had {
			return errTwice
		}
		return nil
	}
	if _, twice := r.seen[old]; twice {
		return errTwice
	}
	r.seen[old] = struct{}{}
	if old != l && !old.same(l) {
		r.next.put(r.edit, r.next.compile(old, l))
	}
	return nil
}

var errTwice = errors.New("comes twice")

func (r *reload) old(key Key) *Limit {
	if r.prev == nil {
		return nil
	}
	return r.prev.find(key)
}

// removeUnseen takes out what prev had and no row says any more.
func (r *reload) removeUnseen(stamp Stamp) {
	if r.prev == nil || len(r.seen) == r.prev.size {
		return
	}
	n := 0
	for l := range r.prev.All() {
		n++
		stamp.pauseAt(n)
		if _, there := r.seen[l]; !there {
			r.next.remove(r.edit, l.Key)
		}
	}
}

// Apply returns a table with the changes made, in their order. t stays as it is; what no
// change touches is shared. A row out of bounds makes it fail.
func (t *Table) Apply(changes []Change, stamp Stamp) (*Table, error) {
	next := *t
	next.id, next.seq, next.atNS, next.loadedAt = stamp.ID, t.seq+1, stamp.AtNS, stamp.LoadedAt
	e := &edit{}
	for _, c := range changes {
		if c.Limit == nil {
			next.remove(e, c.Key.Canonical())
			continue
		}
		if c.Limit.Canonical() != c.Key.Canonical() {
			return nil, fmt.Errorf("change of %s carries the row %s", c.Key, c.Limit.Key)
		}
		if err := c.Limit.Validate(); err != nil {
			return nil, fmt.Errorf("row %s: %w", c.Key, err)
		}
		next.put(e, next.compile(next.find(c.Key.Canonical()), c.Limit))
	}
	return &next, nil
}

// compile works out what a request needs of l, which takes the place of old; nil = it is a new row.
func (t *Table) compile(old, l *Limit) *Limit {
	c := l.Compile(t.atNS)
	c.born = t.seq
	if old == nil {
		return c
	}
	c.born = old.born
	if c.rate == old.rate && c.burst == old.burst && c.Algorithm == old.Algorithm {
		c.sinceNS = old.sinceNS
	}
	if old.same(c) {
		return old
	}
	return c
}

// put sets a row; had tells whether there was one of its key.
func (t *Table) put(e *edit, l *Limit) (had bool) {
	rows := t.writable(e, l.Domain, l.Gateway)
	lv := rows.writable(e, l.Dim())
	switch {
	case l.Endpoint == "":
		had, lv.gateway = lv.gateway != nil, l
	case isPattern(l.Endpoint):
		had = lv.patterns.find(l.Endpoint) != nil
		lv.patterns = lv.patterns.with(e, l.Endpoint, l)
	default:
		had = lv.endpoints.put(e, name(l.Endpoint), l)
	}
	if !had {
		t.size++
	}
	return had
}

// writable returns the rows of a place that the edit may write to, made or copied where needed.
func (t *Table) writable(e *edit, domain, gateway string) *placeRows {
	old := t.rowsOf(domain, gateway)
	rows := owned(e, old, func(r *placeRows) **edit { return &r.owner })
	if rows == old {
		return rows
	}
	if isPattern(gateway) {
		t.patterns.put(e, name(domain), t.patterns.get(name(domain)).with(e, gateway, rows))
	} else {
		t.exact.put(e, place{domain, gateway}, rows)
	}
	if rows.dims != nil {
		rows.dims = maps.Clone(rows.dims)
	}
	return rows
}

func (r *placeRows) writable(e *edit, d Dim) *level {
	if d == (Dim{}) {
		return &r.all
	}
	if r.dims == nil {
		r.dims = make(map[Dim]*level, 1)
	}
	lv := owned(e, r.dims[d], func(l *level) **edit { return &l.owner })
	r.dims[d] = lv
	return lv
}

// level returns the rows of a dimension, nil if there are none.
func (r *placeRows) level(d Dim) *level {
	switch {
	case r == nil:
		return nil
	case d == Dim{}:
		return &r.all
	}
	return r.dims[d]
}

func (lv *level) find(endpoint string) *Limit {
	switch {
	case lv == nil:
		return nil
	case endpoint == "":
		return lv.gateway
	case isPattern(endpoint):
		return lv.patterns.find(endpoint)
	}
	return lv.endpoints.get(name(endpoint))
}

func (lv *level) empty() bool {
	return lv.gateway == nil && lv.endpoints.size == 0 && lv.patterns == nil
}

func (t *Table) remove(e *edit, key Key) {
	if t.find(key) == nil {
		return
	}
	t.size--
	rows := t.writable(e, key.Domain, key.Gateway)
	lv := rows.writable(e, key.Dim())
	switch {
	case key.Endpoint == "":
		lv.gateway = nil
	case isPattern(key.Endpoint):
		lv.patterns = lv.patterns.without(e, key.Endpoint)
	default:
		lv.endpoints.remove(e, name(key.Endpoint))
	}
	if lv != &rows.all && lv.empty() {
		delete(rows.dims, key.Dim())
	}
	if !rows.all.empty() || len(rows.dims) > 0 {
		return
	}
	if !isPattern(key.Gateway) {
		t.exact.remove(e, place{key.Domain, key.Gateway})
		return
	}
	if rest := t.patterns.get(name(key.Domain)).without(e, key.Gateway); rest != nil {
		t.patterns.put(e, name(key.Domain), rest)
	} else {
		t.patterns.remove(e, name(key.Domain))
	}
}

// Shared returns the table's own row where that says the same as l, else a copy of l. The table may
// be nil.
func (t *Table) Shared(l *Limit) *Limit {
	if t != nil {
		if old := t.find(l.Canonical()); old != nil && old.same(l) {
			return old
		}
	}
	c := *l
	return &c
}

// Find returns the row of exactly this key, nil if there is none.
func (t *Table) Find(key Key) *Limit { return t.find(key.Canonical()) }

func (t *Table) find(key Key) *Limit {
	return t.rowsOf(key.Domain, key.Gateway).level(key.Dim()).find(key.Endpoint)
}

// rowsOf returns the rows of a gateway as it is written, nil if there are none.
func (t *Table) rowsOf(domain, gateway string) *placeRows {
	if isPattern(gateway) {
		return t.patterns.get(name(domain)).find(gateway)
	}
	return t.exact.get(place{domain, gateway})
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
		for _, rows := range t.exact.all() {
			if !rows.each(yield) {
				return
			}
		}
		for _, index := range t.patterns.all() {
			for rows := range index.all() {
				if !rows.each(yield) {
					return
				}
			}
		}
	}
}

// Sorted returns every row, by key.
func (t *Table) Sorted() []*Limit {
	return slices.SortedFunc(t.All(), func(a, b *Limit) int { return a.Compare(b.Key) })
}

func (r *placeRows) each(yield func(*Limit) bool) bool {
	if !r.all.each(yield) {
		return false
	}
	for _, lv := range r.dims {
		if !lv.each(yield) {
			return false
		}
	}
	return true
}

func (lv *level) each(yield func(*Limit) bool) bool {
	if lv.gateway != nil && !yield(lv.gateway) {
		return false
	}
	for _, l := range lv.endpoints.all() {
		if !yield(l) {
			return false
		}
	}
	for l := range lv.patterns.all() {
		if !yield(l) {
			return false
		}
	}
	return true
}
