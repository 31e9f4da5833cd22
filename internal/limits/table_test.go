package limits

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// key reads `domain|gateway|endpoint|per|per_seconds`.
func key(s string) Key {
	p := append(strings.Split(s, "|"), "", "", "", "")
	seconds, _ := strconv.ParseInt(p[4], 10, 64) // empty = 0
	return Key{p[0], p[1], p[2], p[3], seconds}
}

func limit(s string) Limit {
	k, off := strings.CutSuffix(s, " off")
	return Limit{Key: key(k), MaxTPS: 5, Enabled: !off}
}

func tableOf(tb testing.TB, rows ...string) *Table {
	tb.Helper()
	ls := make([]Limit, 0, len(rows))
	for _, s := range rows {
		ls = append(ls, limit(s))
	}
	t, err := NewTable(nil, ls, Stamp{})
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

func shown(l *Limit) string {
	if l == nil {
		return ""
	}
	s := strings.Join([]string{l.Domain, l.Gateway, l.Endpoint, l.Per}, "|")
	if l.PerSeconds > 0 {
		s += "|" + strconv.FormatInt(l.PerSeconds, 10)
	}
	if s = strings.TrimRight(s, "|"); !l.Enabled {
		s += " off"
	}
	return s
}

// TestLookupRules goes through DESIGN.md §5.1, sentence by sentence.
func TestLookupRules(t *testing.T) {
	for _, c := range []struct {
		rule     string
		rows     []string
		ask      string // domain|gateway|endpoint|per
		gateway  string
		endpoint string
	}{
		{"no rows", nil, "d|g|e", "", ""},
		{"own rows", []string{"d|g", "d|g|e"}, "d|g|e", "d|g", "d|g|e"},
		{"rows of another domain", []string{"x|g", "x|g|e"}, "d|g|e", "", ""},
		{"common rows", []string{"|g", "|g|e"}, "d|g|e", "|g", "|g|e"},
		{"own over common", []string{"|g", "|g|e", "d|g", "d|g|e"}, "d|g|e", "d|g", "d|g|e"},
		{"overlaid each by itself", []string{"|g", "|g|e", "d|g|e"}, "d|g|e", "|g", "d|g|e"},
		{"own pattern over the same common one", []string{"|g*|e*", "d|g*|e*"}, "d|g|e", "", "d|g*|e*"},
		{"requests to the common domain itself", []string{"|g", "d|g"}, "|g|e", "|g", ""},

		{"each level on its own: gateway only", []string{"d|g"}, "d|g|e", "d|g", ""},
		{"each level on its own: endpoint only", []string{"d|g|e"}, "d|g|e", "", "d|g|e"},
		{"each level on its own: gateway by pattern, endpoint exact", []string{"d|*", "d|g|e"}, "d|g|e", "d|*", "d|g|e"},
		{"endpoint of another gateway", []string{"d|g", "d|h|e"}, "d|g|e", "d|g", ""},

		{"star stands for no bytes", []string{"d|g*", "d|g*|*e"}, "d|g|e", "d|g*", "d|g*|*e"},
		{"star stands for any bytes", []string{"d|*", "d|*|*"}, "d|\xff\x00|\xfe", "d|*", "d|*|*"},
		{"star stands for slashes", []string{"d|g|/pay/*"}, "d|g|/pay/1/2", "", "d|g|/pay/*"},
		{"an empty gateway and endpoint fit only patterns", []string{"d|g|e", "d|*", "d|*|*"}, "d||", "d|*", "d|*|*"},
		{"star in a request is a byte like others", []string{"d|g"}, "d|*|*", "", ""},

		{"exact over pattern", []string{"d|g*", "d|g", "d|g|e*", "d|g|e"}, "d|g|e", "d|g", "d|g|e"},
		{"exact common gateway over own pattern", []string{"d|g*", "|g"}, "d|g", "|g", ""},
		{"exact common endpoint over own pattern", []string{"d|g|e*", "|g|e"}, "d|g|e", "", "|g|e"},
		{"most bytes other than star", []string{"d|*", "d|g*", "d|ga*"}, "d|gab", "d|ga*", ""},
		{"most bytes, stars do not count", []string{"d|g*b", "d|***g***"}, "d|gab", "d|g*b", ""},
		{"most bytes among endpoints", []string{"d|g|*", "d|g|/pay*", "d|g|/p*"}, "d|g|/pay", "", "d|g|/pay*"},
		{"most bytes: a better common pattern over an own one", []string{"d|g|/*", "|g|/pay*"}, "d|g|/pay", "", "|g|/pay*"},
		{"most bytes: a better own pattern over a common one", []string{"d|g|/pay*", "|g|/*"}, "d|g|/pay", "", "d|g|/pay*"},
		{"tie: lexical order of gateways", []string{"d|g*", "d|*b"}, "d|gb", "d|*b", ""},
		{"tie: lexical order of endpoints", []string{"d|g|a*", "d|g|*b"}, "d|g|ab", "", "d|g|*b"},
		{"tie: lexical order, common before own", []string{"d|g|a*", "|g|*b"}, "d|g|ab", "", "|g|*b"},
		{"best gateway first: a pattern endpoint there over an exact one of a pattern gateway", []string{"d|g|*", "d|g*|e"}, "d|g|e", "", "d|g|*"},
		{"best gateway first: exact common gateway with a pattern endpoint", []string{"d|g*|e", "|g|*"}, "d|g|e", "", "|g|*"},
		{"a better gateway without a fitting endpoint passes it on", []string{"d|g|x", "d|g*|e"}, "d|g|e", "", "d|g*|e"},
		{"a better gateway with endpoints only passes the gateway level on", []string{"d|g|x", "d|g*"}, "d|g|e", "d|g*", ""},

		{"a disabled row counts as a match", []string{"d|g off", "d|*", "d|g|e off", "d|g|*"}, "d|g|e", "d|g off", "d|g|e off"},
		{"a disabled own row hides the common one", []string{"d|g off", "|g"}, "d|g", "d|g off", ""},
		{"a disabled pattern hides worse ones", []string{"d|g* off", "d|*"}, "d|ga", "d|g* off", ""},

		{"per rows are a level of their own", []string{"d|g", "d|g||user", "d|g|e|user"}, "d|g|e|user", "d|g||user", "d|g|e|user"},
		{"per rows do not count all requests", []string{"d|g||user"}, "d|g|e", "", ""},
		{"rows without per do not count by value", []string{"d|g", "d|g|e"}, "d|g|e|user", "", ""},
		{"another per", []string{"d|g||ip"}, "d|g|e|user", "", ""},
		{"per: own over common", []string{"|g||user", "d|g||user"}, "d|g||user", "d|g||user", ""},
		{"per: by pattern", []string{"d|*||user", "d|g", "d|g|*|user"}, "d|g|e|user", "d|*||user", "d|g|*|user"},
		{"per: best gateway first", []string{"d|*||user", "|g||user"}, "d|g||user", "|g||user", ""},

		{"windows are levels of their own", []string{"d|g", "d|g|||60", "d|g|e||60"}, "d|g|e||60", "d|g|||60", "d|g|e||60"},
		{"rows of another window", []string{"d|g|||60", "d|g|e||3600"}, "d|g|e", "", ""},
		{"windows: by pattern, beside an exact row of another", []string{"d|*|||60", "d|g"}, "d|g|||60", "d|*|||60", ""},
		{"windows and per", []string{"d|g||user|60", "d|g||user", "|g|e|user|60"}, "d|g|e|user|60", "d|g||user|60", "|g|e|user|60"},
	} {
		k := key(c.ask)
		r := tableOf(t, c.rows...).Rules(k.Domain, k.Gateway)
		if got := shown(r.Gateway(k.Dim())); got != c.gateway {
			t.Errorf("%s: rows %q, ask %q: gateway row %q, want %q", c.rule, c.rows, c.ask, got, c.gateway)
		}
		if got := shown(r.Endpoint(k.Endpoint, k.Dim())); got != c.endpoint {
			t.Errorf("%s: rows %q, ask %q: endpoint row %q, want %q", c.rule, c.rows, c.ask, got, c.endpoint)
		}
	}
}

func TestDimsAreThoseOfTheGateway(t *testing.T) {
	tbl := tableOf(t, "d|g||user", "d|g|e|ip", "|g||user", "|g*|*|tenant", "x|g||other", "d|h||else", "d|g", "d|g|e||60", "d|g||ip|60")
	for ask, want := range map[string][]Dim{
		"d|g":  {{"", 60}, {"ip", 0}, {"ip", 60}, {"tenant", 0}, {"user", 0}},
		"d|ga": {{"tenant", 0}}, "x|g": {{"other", 0}, {"tenant", 0}, {"user", 0}}, "|g": {{"tenant", 0}, {"user", 0}}, "d|nobody": nil,
	} {
		k := key(ask)
		if got := tbl.Rules(k.Domain, k.Gateway).Dims(); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", ask, got, want)
		}
	}
}

func TestExactIsTheDomainsOwnGateway(t *testing.T) {
	tbl := tableOf(t, "d|g|e", "|common", "d|p*")
	for ask, want := range map[string]bool{"d|g": true, "d|common": false, "|common": true, "x|g": false, "d|p": false, "d|p*": false, "d|": false} {
		if k := key(ask); tbl.Exact(k.Domain, k.Gateway) != want {
			t.Errorf("Exact(%q) = %t, want %t", ask, !want, want)
		}
	}
}

func TestRulesAreEqualUntilTheirRowsChange(t *testing.T) {
	tbl := tableOf(t, "d|g", "d|g|e", "|g*", "d|other")
	before := tbl.Rules("d", "g")
	for change, equal := range map[string]bool{"d|other": true, "d|new": true, "x*|": true, "d|g": false, "d|g|new": false, "|g*": false, "|*": false} {
		next, err := tbl.Apply([]Change{{key(change), &Limit{Key: key(change), MaxTPS: 9, Enabled: true}}}, Stamp{})
		if change == "x*|" { // no gateway: refused
			if err == nil {
				t.Errorf("%q was not refused", change)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := next.Rules("d", "g").Equal(before); got != equal {
			t.Errorf("after a change of %q Equal is %t, want %t", change, got, equal)
		}
	}
	if !before.Equal(tbl.Rules("d", "g")) || before.Equal(Rules{}) {
		t.Error("Rules are not equal to themselves, or equal to none")
	}
}

func TestNewTableNamesEveryFault(t *testing.T) {
	prev := tableOf(t, "d|g")
	rows := []Limit{limit("d|g"), limit("d|g"), limit("d|p*|e*|user"), limit("d|p*|e*|user"), {Key: key("d|h"), MaxTPS: -1}, {Key: key("d|"), MaxTPS: 1}}
	tbl, err := NewTable(prev, rows, Stamp{})
	want := `row (domain "d", gateway "g", endpoint "", per ""): comes twice
row (domain "d", gateway "p*", endpoint "e*", per "user"): comes twice
row (domain "d", gateway "h", endpoint "", per ""): max_tps -1: is not within 0 to 1000000000
row (domain "d", gateway "", endpoint "", per ""): gateway "": is empty`
	if tbl != nil || err == nil || err.Error() != want {
		t.Errorf("got table %v and\n%v\nwant\n%s", tbl, err, want)
	}
	if prev.Len() != 1 || shown(prev.Find(key("d|g"))) != "d|g" {
		t.Errorf("the table in force has changed: %v", prev.Sorted())
	}
}

func TestApplyRefuses(t *testing.T) {
	tbl := tableOf(t, "d|g", "d|p*")
	good, bad := limit("d|new"), Limit{Key: key("d|g"), MaxTPS: -1}
	for _, c := range []struct {
		change Change
		want   string
	}{
		{Change{bad.Key, &bad}, `row (domain "d", gateway "g", endpoint "", per ""): max_tps -1: is not within 0 to 1000000000`},
		{Change{key("d|g"), &good}, `change of (domain "d", gateway "g", endpoint "", per "") carries the row (domain "d", gateway "new", endpoint "", per "")`},
	} {
		next, err := tbl.Apply([]Change{{good.Key, &good}, {Key: key("d|p*")}, c.change}, Stamp{})
		if next != nil || err == nil || err.Error() != c.want {
			t.Errorf("got table %v, %v\nwant %s", next, err, c.want)
		}
	}
	if tbl.Len() != 2 || tbl.Find(good.Key) != nil || tbl.Find(key("d|p*")) == nil {
		t.Errorf("a refused change has changed the table: %v", tbl.Sorted())
	}
}

// TestAgesOfRows tells when usage is kept: since moves with rate or burst only, born when a row
// was deleted in between.
func TestAgesOfRows(t *testing.T) {
	k := key("d|g")
	row := func(change func(*Limit)) *Limit {
		l := limit("d|g")
		change(&l)
		return &l
	}
	tbl, err := NewTable(nil, []Limit{limit("d|g")}, Stamp{AtNS: 100})
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		what  string
		to    *Limit
		since int64
		born  uint64
	}{
		{"nothing", row(func(*Limit) {}), 100, 1},
		{"a note", row(func(l *Limit) { l.Note = "x" }), 100, 1},
		{"disabled", row(func(l *Limit) { l.Enabled = false }), 100, 1},
		{"shadow and max_wait_ms", row(func(l *Limit) { l.Shadow, l.MaxWaitMS = true, 5 }), 100, 1},
		{"the default burst written out", row(func(l *Limit) { l.Burst = DefaultBurst(5) }), 100, 1},
		{"max_tps", row(func(l *Limit) { l.MaxTPS = 6 }), 206, 1},
		{"burst", row(func(l *Limit) { l.MaxTPS, l.Burst = 6, 1 }), 207, 1},
		{"deleted", nil, 0, 0},
		{"made again", row(func(l *Limit) { l.MaxTPS, l.Burst = 6, 1 }), 209, 10},
	} {
		next, err := tbl.Apply([]Change{{k, c.to}}, Stamp{AtNS: int64(201 + i)})
		if err != nil {
			t.Fatal(err)
		}
		tbl = next
		got := tbl.Find(k)
		if c.to == nil {
			if got != nil || tbl.Len() != 0 {
				t.Errorf("%s: still there: %+v", c.what, got)
			}
			continue
		}
		if got.SinceNS() != c.since || got.Born() != c.born {
			t.Errorf("%s: since %d, born %d, want %d, %d", c.what, got.SinceNS(), got.Born(), c.since, c.born)
		}
	}
}

// TestAgesAcrossReloads: a row that a reload does not have is gone, also when the next has it.
func TestAgesAcrossReloads(t *testing.T) {
	var prev *Table
	for i, c := range []struct {
		rows  []Limit
		since int64
		born  uint64
	}{{[]Limit{limit("d|g")}, 100, 1}, {[]Limit{limit("d|g"), limit("d|h")}, 100, 1}, {nil, 0, 0}, {[]Limit{limit("d|g")}, 103, 4}} {
		tbl, err := NewTable(prev, c.rows, Stamp{ID: int64(i), AtNS: int64(100 + i), LoadedAt: time.Unix(int64(i), 0)})
		if err != nil {
			t.Fatal(err)
		}
		if tbl.ID() != int64(i) || tbl.AtNS() != int64(100+i) || tbl.LoadedAt() != time.Unix(int64(i), 0) || tbl.Seq() != uint64(i+1) {
			t.Errorf("load %d: id %d, at %d, loaded at %v, seq %d", i, tbl.ID(), tbl.AtNS(), tbl.LoadedAt(), tbl.Seq())
		}
		if got := tbl.Find(key("d|g")); got != nil && (got.SinceNS() != c.since || got.Born() != c.born) {
			t.Errorf("load %d: since %d, born %d, want %d, %d", i, got.SinceNS(), got.Born(), c.since, c.born)
		} else if (got == nil) != (c.since == 0) {
			t.Errorf("load %d: %+v", i, got)
		}
		prev = tbl
	}
}

// TestDeletedAndMadeAgainInOneBatch: what was used by the first row is not used by the second.
func TestDeletedAndMadeAgainInOneBatch(t *testing.T) {
	tbl := tableOf(t, "d|g", "d|p*|e*|user")
	for _, k := range []Key{key("d|g"), key("d|p*|e*|user")} {
		l := limit(strings.Join([]string{k.Domain, k.Gateway, k.Endpoint, k.Per}, "|"))
		next, err := tbl.Apply([]Change{{Key: k}, {Key: k}, {k, &l}}, Stamp{AtNS: 5})
		if err != nil {
			t.Fatal(err)
		}
		got := next.Find(k)
		if got == nil || got.Born() != next.Seq() || got.Born() == tbl.Find(k).Born() || got.SinceNS() != 5 || next.Len() != 2 {
			t.Errorf("%v: %+v of %d rows, want born %d since 5 of 2 rows", k, got, next.Len(), next.Seq())
		}
	}
}

func TestAllStopsWhenAsked(t *testing.T) {
	tbl := tableOf(t, "d|g", "d|g|e", "d|g|e*", "d|g||user", "d|p*", "d|p*|e", "d|p*|e*|user")
	for stop := 1; stop <= tbl.Len(); stop++ {
		seen := 0
		for range tbl.All() {
			if seen++; seen == stop {
				break
			}
		}
		if seen != stop {
			t.Errorf("after a break at row %d there were %d", stop, seen)
		}
	}
}

// TestManyGateways makes the map of gateways grow twice.
func TestManyGateways(t *testing.T) {
	const n = 5 * shardGrowth * shardSize
	rows := make([]Limit, 0, n)
	for i := range n {
		rows = append(rows, limit(fmt.Sprintf("d|g%d", i)))
	}
	tbl, err := NewTable(nil, rows, Stamp{})
	if err != nil || tbl.Len() != n {
		t.Fatalf("%v, %d rows, want %d", err, tbl.Len(), n)
	}
	var gone []Change
	for i := range rows {
		if tbl.Rules("d", rows[i].Gateway).Gateway(Dim{}) == nil {
			t.Errorf("gateway %q is not found", rows[i].Gateway)
		}
		gone = append(gone, Change{Key: rows[i].Key})
	}
	empty, err := tbl.Apply(gone, Stamp{})
	if err != nil || empty.Len() != 0 || len(empty.Sorted()) != 0 || tbl.Len() != n || len(tbl.Sorted()) != n {
		t.Errorf("%v: %d rows are left of the deleted, %d of the old table", err, empty.Len(), tbl.Len())
	}
}

// TestLookupDoesNotAllocate tells that the questions of a request cost no memory.
func TestLookupDoesNotAllocate(t *testing.T) {
	user := Dim{Per: "user"}
	r := tableOf(t, "d|g", "d|g|e", "|g|e*", "d|g*|*", "d|g|a*b*c", "d|g||user").Rules("d", "g")
	if n := testing.AllocsPerRun(100, func() {
		if r.Gateway(Dim{}) == nil || r.Gateway(user) == nil || r.Endpoint("e", Dim{}) == nil || r.Endpoint("elsewhere", Dim{}) == nil || r.Endpoint("x", user) != nil {
			t.Error("the rows are not found")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
