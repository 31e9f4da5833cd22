package descriptors

import (
	"fmt"
	"strings"
	"testing"
)

// matchCase asks a file for the limit of a descriptor. Each limit of these files has another number,
// by which it is known; -1 = the descriptor has none.
type matchCase struct {
	entries []Entry
	want    int
}

func checkMatches(t *testing.T, body string, cases []matchCase) {
	t.Helper()
	d := mustParse(t, body)
	for _, c := range cases {
		got := -1
		if r := d.Match(c.entries); r != nil {
			got = int(r.RequestsPerUnit)
		}
		if got != c.want {
			t.Errorf("Match(%q) = the limit of %d, want that of %d, in\n%s", c.entries, got, c.want, body)
		}
	}
}

func TestMatchGoesDownByEntry(t *testing.T) {
	checkMatches(t, `
domain: test-domain
descriptors:
- key: key1
  value: value1
  descriptors:
  - key: subkey1
    rate_limit: {unit: second, requests_per_unit: 5}
  - key: subkey1
    value: subvalue1
    rate_limit: {unit: second, requests_per_unit: 10}
- key: key2
  rate_limit: {unit: minute, requests_per_unit: 20}
- key: key2
  value: value2
  rate_limit: {unit: minute, requests_per_unit: 30}
- key: key2
  value: value3
- key: key5
  value: value5
  rate_limit: {unit: day, requests_per_unit: 15}
  descriptors:
  - key: subkey5
    value: subvalue5
    rate_limit: {unit: day, requests_per_unit: 25}
`, []matchCase{
		{nil, -1},
		{entriesOf("key1", "value1"), -1},
		{entriesOf("key1", "value1", "subkey1", "x"), 5},
		{entriesOf("key1", "value1", "subkey1", ""), 5},
		{entriesOf("key1", "value1", "subkey1", "subvalue1"), 10},
		{entriesOf("key1", "other", "subkey1", "subvalue1"), -1},
		{entriesOf("key2", "x"), 20},
		{entriesOf("key2", ""), 20},
		{entriesOf("key2", "value2"), 30},
		{entriesOf("key2", "value3"), -1}, // the allow-list entry hides the default beside it
		{entriesOf("key5", "value5"), 15},
		{entriesOf("key5", "value5", "subkey5", "subvalue5"), 25},
		{entriesOf("key5", "value5", "subkey5", "x"), -1},
		{entriesOf("key2", "x", "key2", "x"), -1}, // deeper than the tree
		{entriesOf("subkey1", "x"), -1},
		{entriesOf("", ""), -1},
	})
}

func TestMatchByPattern(t *testing.T) {
	checkMatches(t, `
domain: test-domain
descriptors:
- {key: wild, value: foo*, rate_limit: {unit: minute, requests_per_unit: 20}}
- {key: noWild, value: foo, rate_limit: {unit: minute, requests_per_unit: 21}}
- {key: midWild, value: bar*b, rate_limit: {unit: minute, requests_per_unit: 23}}
- {key: multiWild, value: foo*bar*baz, rate_limit: {unit: minute, requests_per_unit: 10}}
- {key: all, value: '*', rate_limit: {unit: minute, requests_per_unit: 24}}
- {key: lead, value: '*end', rate_limit: {unit: minute, requests_per_unit: 25}}
- {key: twice, value: 'a**b', rate_limit: {unit: minute, requests_per_unit: 26}}
- key: nestedWild
  value: val1
  descriptors:
  - {key: wild, value: goo*, rate_limit: {unit: minute, requests_per_unit: 27}}
`, []matchCase{
		{entriesOf("wild", "foo"), 20},
		{entriesOf("wild", "foo1"), 20},
		{entriesOf("wild", "fo"), -1},
		{entriesOf("wild", "xfoo"), -1},
		{entriesOf("wild", ""), -1},
		{entriesOf("noWild", "foo1"), -1},
		{entriesOf("midWild", "barb"), 23},
		{entriesOf("midWild", "bar\xff\nb"), 23},
		{entriesOf("midWild", "ba"), -1},
		{entriesOf("midWild", "barab1"), -1},
		{entriesOf("multiWild", "foobarbaz"), 10},
		{entriesOf("multiWild", "foo1bar2baz"), 10},
		{entriesOf("multiWild", "foobaz"), -1},
		{entriesOf("multiWild", "foobarba"), -1},
		{entriesOf("all", ""), 24},
		{entriesOf("all", "x"), 24},
		{entriesOf("lead", "end"), 25},
		{entriesOf("lead", "the end"), 25},
		{entriesOf("lead", "ending"), -1},
		{entriesOf("twice", "ab"), 26},
		{entriesOf("twice", "a"), -1}, // one letter is not both ends
		{entriesOf("nestedWild", "val1", "wild", "goof"), 27},
		{entriesOf("nestedWild", "val1", "wild", "foo"), -1},
	})
}

func TestMatchPrecedence(t *testing.T) {
	checkMatches(t, `
domain: test-domain
descriptors:
- {key: k, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: k, value: 'a*', rate_limit: {unit: minute, requests_per_unit: 2}}
- {key: k, value: 'ab*', rate_limit: {unit: minute, requests_per_unit: 3}}
- {key: k, value: 'abc', rate_limit: {unit: minute, requests_per_unit: 4}}
- {key: k, value: '*z', rate_limit: {unit: minute, requests_per_unit: 5}}
- {key: k, value: 'c*z', rate_limit: {unit: minute, requests_per_unit: 6}}
- {key: k, value: 'hidden', descriptors: [{key: l, rate_limit: {unit: minute, requests_per_unit: 7}}]}
- {key: k, value: 'hid*', rate_limit: {unit: minute, requests_per_unit: 8}}
- {key: k, value: 'wild*', descriptors: [{key: m, value: x, rate_limit: {unit: minute, requests_per_unit: 9}}]}
- {key: k, value: 'wildest', descriptors: [{key: m, value: y, rate_limit: {unit: minute, requests_per_unit: 10}}]}
`, []matchCase{
		{entriesOf("k", "abc"), 4},                 // exact before patterns
		{entriesOf("k", "abcd"), 2},                // the first pattern of the file, not the longest
		{entriesOf("k", "ab*"), 3},                 // the pattern's own text is an exact value
		{entriesOf("k", "az"), 2},                  // before *z
		{entriesOf("k", "cz"), 5},                  // *z stands before c*z
		{entriesOf("k", "q"), 1},                   // the node without a value comes last
		{entriesOf("k", "hidden"), -1},             // no limit of its own, and hides pattern and default
		{entriesOf("k", "hidd"), 8},                //
		{entriesOf("k", "wildest", "m", "x"), -1},  // no way back from the exact node to wild*
		{entriesOf("k", "wilder", "m", "x"), 9},    //
		{entriesOf("k", "wild", "m", "y"), -1},     //
		{entriesOf("k", "abc", "l", "x"), -1},      //
		{entriesOf("k", "hidden", "l", "abc"), 7},  //
		{entriesOf("k", "hidden", "l", ""), 7},     //
		{entriesOf("k", "hidden", "k", "abc"), -1}, //
	})
}

// TestNamesDoNotMeet has pairs that envoyproxy/ratelimit takes for the same, since it joins key and
// value with `_`.
func TestNamesDoNotMeet(t *testing.T) {
	checkMatches(t, `
domain: shop
descriptors:
- {key: a_b, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: a, value: c, rate_limit: {unit: minute, requests_per_unit: 2}}
- {key: a, value: 'b_*', rate_limit: {unit: minute, requests_per_unit: 3}}
- {key: 'x*', rate_limit: {unit: minute, requests_per_unit: 4}}
`, []matchCase{
		{entriesOf("a", "b"), -1},
		{entriesOf("a_b", ""), 1},
		{entriesOf("a_b", "c"), 1},
		{entriesOf("a_c", ""), -1},
		{entriesOf("a", "b_c"), 3},
		{entriesOf("a_b", "_c"), 1},
		{entriesOf("xy", "z"), -1}, // a star in a key is a letter
		{entriesOf("x*", "z"), 4},
	})
}

func TestRuleSaysWhatTheFileSays(t *testing.T) {
	d := mustParse(t, `
domain: shop
descriptors:
- key: a
  shadow_mode: true
  rate_limit: {unit: Hour, requests_per_unit: 0x10, name: "slow lane"}
- key: b
  quota_mode: on
  rate_limit: {per_seconds: 30, requests_per_unit: 1_000, algorithm: sliding_window}
  metadata: {team: web, tags: [1, two, null], deep: {yes: 0.5}}
- key: c
  rate_limit: {unlimited: true, name: free}
- key: d
  rate_limit: {per_seconds: 604800, requests_per_unit: 0, algorithm: token_bucket}
`)
	var got strings.Builder
	for i := range d.Rules() {
		r := &d.Rules()[i]
		fmt.Fprintf(&got, "%d %s: %d/%ds %s %s name %q label %q unlimited %t shadow %t quota %t %v\n", r.ID, r.Key(), r.RequestsPerUnit, r.Seconds,
			r.Unit, r.Algorithm, r.Name, r.Label, r.Unlimited, r.Shadow, r.Quota, r.Metadata)
		if r.Domain() != d {
			t.Errorf("rule %d is of another domain", i)
		}
	}
	want := `0 shop.a: 16/3600s HOUR fixed_window name "slow lane" label "slow lane" unlimited false shadow true quota false map[]
1 shop.b: 1000/30s UNKNOWN sliding_window name "" label "" unlimited false shadow false quota true map[deep:map[yes:0.5] tags:[1 two <nil>] team:web]
2 shop.c: 0/0s UNKNOWN token_bucket name "free" label "free" unlimited true shadow false quota false map[]
3 shop.d: 0/604800s WEEK token_bucket name "" label "" unlimited false shadow false quota false map[]
`
	if got.String() != want || d.AllOrNothing() || d.Name() != "shop" {
		t.Errorf("domain %q, all or nothing %t, rules:\n%swant:\n%s", d.Name(), d.AllOrNothing(), got.String(), want)
	}
}

func TestAllOrNothing(t *testing.T) {
	if d := mustParse(t, "domain: d\nall_or_nothing: true"); !d.AllOrNothing() {
		t.Error("the domain does not say it")
	}
}

func TestWalk(t *testing.T) {
	d := mustParse(t, `
domain: shop
descriptors:
- {key: a, value: x, value_to_metric: true, descriptors: [{key: b, detailed_metric: true, rate_limit: {unit: day, requests_per_unit: 1}}]}
- {key: c, value: y*, share_threshold: true}
`)
	got := ""
	d.Walk(func(n Node) {
		got += fmt.Sprintln(n.Name(), n.Depth, n.Key, n.Value, n.Leaf, n.Rule != nil, n.ShareThreshold, n.DetailedMetric, n.ValueToMetric)
	})
	want := `shop.a_x 0 a x false false false false true
shop.a_x.b 1 b  true true false true false
shop.c_y* 0 c y* true false true false false
`
	if got != want {
		t.Errorf("Walk gave\n%swant\n%s", got, want)
	}
}

func TestUnits(t *testing.T) {
	for unit, want := range map[string]int64{
		"second": 1, "MINUTE": 60, "Hour": 3600, "day": 86400, "week": 604800, "mOnTh": 2592000, "year": 31536000,
	} {
		d := mustParse(t, "domain: d\ndescriptors: [{key: k, rate_limit: {requests_per_unit: 1, unit: "+unit+"}}]")
		r := &d.Rules()[0]
		if r.Seconds != want || r.Unit.Seconds() != want || unitOf(want) != r.Unit {
			t.Errorf("unit %s: %d s, %v of %d s; want %d s", unit, r.Seconds, r.Unit, r.Unit.Seconds(), want)
		}
	}
	if u := units + 1; u.String() != "UNKNOWN" || u.Seconds() != 0 {
		t.Errorf("a unit that does not exist is %s of %d s", u, u.Seconds())
	}
}
