package limits

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// model is a set of rows that is searched from its first to its last for every question: what
// DESIGN.md §5.1 says, and nothing clever.
type model map[Key]Limit

// best returns the row of one level: rows of the common domain are hidden by own rows of the
// same key, exact is better than a pattern, many bytes are better than few, the gateway decides
// before the endpoint.
func (m model) best(domain, gateway string, fits func(Key) bool) *Limit {
	var found []Limit
	for k, l := range m {
		_, hidden := m[Key{domain, k.Gateway, k.Endpoint, k.Per, k.PerSeconds}]
		if (k.Domain == domain || (k.Domain == "" && !hidden)) && fitsName(k.Gateway, gateway) && fits(k) {
			found = append(found, l)
		}
	}
	if len(found) == 0 {
		return nil
	}
	best := slices.MinFunc(found, func(a, b Limit) int {
		return cmp.Or(better(a.Gateway, b.Gateway), better(a.Endpoint, b.Endpoint))
	})
	return &best
}

func (m model) gateway(domain, gateway string, d Dim) *Limit {
	return m.best(domain, gateway, func(k Key) bool { return k.Endpoint == "" && k.Per == d.Per && k.PerSeconds == d.PerSeconds })
}

func (m model) endpoint(domain, gateway, endpoint string, d Dim) *Limit {
	return m.best(domain, gateway, func(k Key) bool {
		return k.Endpoint != "" && k.Per == d.Per && k.PerSeconds == d.PerSeconds && fitsName(k.Endpoint, endpoint)
	})
}

func (m model) dims(domain, gateway string) []Dim {
	found := map[Dim]bool{}
	for k := range m {
		if (k.Per != "" || k.PerSeconds != 0) && (k.Domain == "" || k.Domain == domain) && fitsName(k.Gateway, gateway) {
			found[Dim{k.Per, k.PerSeconds}] = true
		}
	}
	return slices.SortedFunc(maps.Keys(found), Dim.Compare)
}

func (m model) sorted() []Limit {
	return slices.SortedFunc(maps.Values(m), func(a, b Limit) int { return a.Compare(b.Key) })
}

func fitsName(written, name string) bool {
	if strings.Contains(written, "*") {
		return naive(written, name)
	}
	return written == name
}

func better(a, b string) int {
	pattern := func(s string) int { return min(strings.Count(s, "*"), 1) }
	letters := func(s string) int { return len(strings.ReplaceAll(s, "*", "")) }
	return cmp.Or(pattern(a)-pattern(b), pattern(a)*(letters(b)-letters(a)), strings.Compare(a, b))
}

// Few names, so that rows and questions meet.
var (
	domains   = rapid.SampledFrom([]string{"", "d", "e"})
	pers      = rapid.SampledFrom([]string{"", "", "user", "ip"})
	spans     = rapid.SampledFrom([]int64{0, 0, 60})
	written   = rapid.StringMatching(`[ab*]{1,3}`)
	requested = rapid.OneOf(rapid.StringMatching(`[ab]{0,4}`), rapid.SampledFrom([]string{"", "*", "a*", "\xff", strings.Repeat("a", 300)}))
	keys      = keysOf(written)
	rows      = rowsOf(keys)

	// Fewer still, so that one row is changed again and again.
	someKeys = keysOf(rapid.SampledFrom([]string{"a", "b", "a*", "*b"}))
	someRows = rowsOf(someKeys)
)

func keysOf(name *rapid.Generator[string]) *rapid.Generator[Key] {
	return rapid.Custom(func(t *rapid.T) Key {
		endpoint := rapid.OneOf(rapid.Just(""), name).Draw(t, "endpoint")
		return Key{domains.Draw(t, "domain"), name.Draw(t, "gateway"), endpoint, pers.Draw(t, "per"), spans.Draw(t, "per_seconds")}
	})
}

func rowsOf(key *rapid.Generator[Key]) *rapid.Generator[Limit] {
	return rapid.Custom(func(t *rapid.T) Limit {
		l := Limit{
			Key: key.Draw(t, "key"), MaxTPS: rapid.Int64Range(0, 3).Draw(t, "max_tps"), Burst: rapid.Int64Range(0, 2).Draw(t, "burst"),
			Enabled: rapid.Bool().Draw(t, "enabled"), Version: rapid.Int64Range(0, 2).Draw(t, "version"),
		}
		if l.Burst == 0 { // else only a token bucket is valid
			l.Algorithm = rapid.SampledFrom([]Algorithm{TokenBucket, FixedWindow, SlidingWindow}).Draw(t, "algorithm")
		}
		return l
	})
}

func modelOf(rows []Limit) model {
	m := model{}
	for _, l := range rows {
		m[l.Key] = l
	}
	return m
}

// values are limits without what a table adds.
func values(ls []*Limit) []Limit {
	out := make([]Limit, 0, len(ls))
	for _, l := range ls {
		row := *l
		row.compiled = compiled{}
		out = append(out, row)
	}
	return out
}

// asks puts one random question to a table and a model, and fails where the answers differ.
func asks(t *rapid.T, tbl *Table, m model) {
	t.Helper()
	domain, gateway, endpoint := domains.Draw(t, "domain"), requested.Draw(t, "gateway"), requested.Draw(t, "endpoint")
	d := Dim{pers.Draw(t, "per"), spans.Draw(t, "per_seconds")}
	r := tbl.Rules(domain, gateway)
	agree := func(what string, got, want *Limit) {
		if (got == nil) != (want == nil) || (got != nil && !got.same(want)) {
			t.Errorf("%s of domain %q, gateway %q, endpoint %q, dimension %v:\n got %+v\nwant %+v\nrows %+v", what, domain, gateway, endpoint, d, got, want, m.sorted())
		}
	}
	agree("gateway row", r.Gateway(d), m.gateway(domain, gateway, d))
	agree("endpoint row", r.Endpoint(endpoint, d), m.endpoint(domain, gateway, endpoint, d))
	if got, want := r.Dims(), m.dims(domain, gateway); !slices.Equal(got, want) {
		t.Errorf("dimensions of domain %q, gateway %q: %v, want %v", domain, gateway, got, want)
	}
	own := slices.ContainsFunc(m.sorted(), func(l Limit) bool { return l.Domain == domain && l.Gateway == gateway })
	if got, want := tbl.Exact(domain, gateway), own && !strings.Contains(gateway, "*"); got != want {
		t.Errorf("Exact(%q, %q) = %t, want %t", domain, gateway, got, want)
	}
}

// holds fails where a table does not have exactly the rows of a model.
func holds(t *rapid.T, tbl *Table, m model) {
	t.Helper()
	if got, want := values(tbl.Sorted()), m.sorted(); !slices.EqualFunc(got, want, sameRow) {
		t.Errorf("rows\n got %+v\nwant %+v", got, want)
	}
	if tbl.Len() != len(m) {
		t.Errorf("Len is %d, want %d", tbl.Len(), len(m))
	}
	for k, want := range m {
		if got := tbl.Find(k); got == nil || !got.same(&want) {
			t.Errorf("Find(%v) = %+v, want %+v", k, got, want)
		}
	}
	if missing := keys.Draw(t, "find"); tbl.Find(missing) != nil {
		if _, ok := m[missing]; !ok {
			t.Errorf("Find(%v) = %+v, want nil", missing, tbl.Find(missing))
		}
	}
}

func sameRow(a, b Limit) bool { return a.same(&b) }

func TestLookupAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := modelOf(rapid.SliceOfN(rows, 0, 20).Draw(t, "rows"))
		tbl, err := NewTable(nil, slices.Collect(maps.Values(m)), Stamp{})
		if err != nil {
			t.Fatal(err)
		}
		holds(t, tbl, m)
		for range 10 {
			asks(t, tbl, m)
		}
	})
}

var changes = rapid.Custom(func(t *rapid.T) Change {
	if rapid.IntRange(0, 2).Draw(t, "kind") == 0 {
		return Change{Key: someKeys.Draw(t, "delete")}
	}
	l := someRows.Draw(t, "put")
	return Change{Key: l.Key, Limit: &l}
})

// ages are the instants that a table must have kept, by row.
type ages map[Key]compiled

func (a ages) apply(c Change, m model, next *Table) {
	had, ok := a[c.Key]
	if c.Limit == nil {
		delete(a, c.Key)
		delete(m, c.Key)
		return
	}
	want := *c.Limit.Compile(next.AtNS())
	want.born = next.Seq()
	if ok {
		want.born = had.born
		if had.rate == want.rate && had.burst == want.burst && m[c.Key].Algorithm == want.Algorithm {
			want.sinceNS = had.sinceNS
		}
	}
	a[c.Key], m[c.Key] = want.compiled, *c.Limit
}

// TestApplyAgainstModel makes changes over and over: each table is that of its rows, the one
// before stays as it was, rows keep when they were born and since when they are as they are.
func TestApplyAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, kept := model{}, ages{}
		tbl, err := NewTable(nil, nil, Stamp{})
		if err != nil {
			t.Fatal(err)
		}
		for round := range rapid.IntRange(1, 6).Draw(t, "rounds") {
			before, old := maps.Clone(m), tbl
			pointers := old.Sorted()
			stamp := Stamp{ID: int64(round) + 10, AtNS: int64(round)*1000 + 1}
			batch := rapid.SliceOfN(changes, 0, 20).Draw(t, "changes")
			if tbl, err = old.Apply(batch, stamp); err != nil {
				t.Fatal(err)
			}
			if tbl.Seq() != old.Seq()+1 || tbl.ID() != stamp.ID || tbl.AtNS() != stamp.AtNS {
				t.Errorf("seq %d, id %d, at %d; want %d, %+v", tbl.Seq(), tbl.ID(), tbl.AtNS(), old.Seq()+1, stamp)
			}
			touched := map[Key]bool{}
			for _, c := range batch {
				kept.apply(c, m, tbl)
				touched[c.Key] = true
			}
			checkApplied(t, tbl, m, kept)
			holds(t, old, before)
			asks(t, old, before)
			if !slices.Equal(pointers, old.Sorted()) {
				t.Error("Apply has exchanged rows of the table that it came from")
			}
			for _, l := range pointers {
				if !touched[l.Key] && tbl.Find(l.Key) != l {
					t.Errorf("row %v has changed, and no change named it", l.Key)
				}
			}
		}
	})
}

func checkApplied(t *rapid.T, tbl *Table, m model, kept ages) {
	t.Helper()
	fresh, err := NewTable(nil, m.sorted(), Stamp{})
	if err != nil {
		t.Fatal(err)
	}
	holds(t, tbl, m)
	holds(t, fresh, m)
	for range 4 {
		asks(t, tbl, m)
	}
	for l := range tbl.All() {
		if l.compiled != kept[l.Key] {
			t.Errorf("row %v: compiled %+v, want %+v", l.Key, l.compiled, kept[l.Key])
		}
	}
}

// TestReloadAgainstModel is the same for a whole new set of rows.
func TestReloadAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, kept := model{}, ages{}
		tbl, err := NewTable(nil, nil, Stamp{})
		if err != nil {
			t.Fatal(err)
		}
		for round := range 3 {
			next := modelOf(rapid.SliceOfN(someRows, 0, 8).Draw(t, "rows"))
			for _, l := range m.sorted() { // half of the rows stay
				if rapid.Bool().Draw(t, "stays") {
					next[l.Key] = l
				}
			}
			old, pointers, before := tbl, tbl.Sorted(), maps.Clone(m)
			if tbl, err = NewTable(old, next.sorted(), Stamp{AtNS: int64(round)*1000 + 1}); err != nil {
				t.Fatal(err)
			}
			for k := range before {
				if _, ok := next[k]; !ok {
					kept.apply(Change{Key: k}, m, tbl)
				}
			}
			for _, l := range next {
				kept.apply(Change{l.Key, &l}, m, tbl)
			}
			checkApplied(t, tbl, m, kept)
			holds(t, old, before)
			for _, l := range pointers {
				if now := tbl.Find(l.Key); now != nil && now.same(l) && now != l {
					t.Errorf("row %v is as it was, and yet another", l.Key)
				}
			}
		}
	})
}

// TestAnyNameIsRefusedOrFound puts names of any bytes into rows and questions.
func TestAnyNameIsRefusedOrFound(t *testing.T) { rapid.Check(t, anyName) }

func FuzzAnyName(f *testing.F) { f.Fuzz(rapid.MakeFuzz(anyName)) }

func anyName(t *rapid.T) {
	name := rapid.OneOf(rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 300), func(b []byte) string { return string(b) }), rapid.String())
	l := Limit{Key: Key{name.Draw(t, "domain"), name.Draw(t, "gateway"), name.Draw(t, "endpoint"), name.Draw(t, "per"), rapid.Int64Range(-1, 1<<40).Draw(t, "per_seconds")}, Note: name.Draw(t, "note")}
	tbl, err := NewTable(nil, []Limit{l}, Stamp{})
	if (err == nil) != (l.Validate() == nil) {
		t.Fatalf("%+v: Validate says %v, NewTable %v", l, l.Validate(), err)
	}
	if err != nil {
		if tbl, err = NewTable(nil, nil, Stamp{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := tbl.Find(l.Key); (got != nil) != (tbl.Len() == 1) {
		t.Errorf("Find(%v) = %+v with %d rows", l.Key, got, tbl.Len())
	}
	if next, err := tbl.Apply([]Change{{Key: l.Key}}, Stamp{}); err != nil || next.Len() != 0 {
		t.Errorf("deleting %v: %v, %d rows left", l.Key, err, next.Len())
	}
	r := tbl.Rules(name.Draw(t, "asked domain"), name.Draw(t, "asked gateway"))
	r.Gateway(Dim{Per: name.Draw(t, "asked per")})
	r.Endpoint(name.Draw(t, "asked endpoint"), l.Dim())
}
