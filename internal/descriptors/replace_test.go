package descriptors

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const replaceFile = `
domain: d
descriptors:
- {key: a, rate_limit: {unit: day, requests_per_unit: 1, name: a, replaces: [{name: b}, {name: b}]}}
- {key: b, rate_limit: {unit: day, requests_per_unit: 2, name: b, replaces: [{name: c}]}}
- {key: c, rate_limit: {unit: day, requests_per_unit: 3, name: c}}
- {key: free, rate_limit: {unlimited: true, name: free, replaces: [{name: c}]}}
- {key: x, rate_limit: {unit: day, requests_per_unit: 4, name: x, replaces: [{name: y}, {name: free}]}}
- {key: y, rate_limit: {unit: day, requests_per_unit: 5, name: y, replaces: [{name: x}, {name: nobody}]}}
- {key: none, rate_limit: {unit: day, requests_per_unit: 6}}
- {key: empty}
`

func TestReplaces(t *testing.T) {
	d := mustParse(t, replaceFile)
	var s Replacing
	for _, c := range []struct{ matched, gone string }{
		{"a b c none", "b c"}, // b is replaced, and replaces c all the same
		{"b a", "b"},
		{"a c", ""},
		{"b c", "c"},
		{"free c", "c"},        // unlimited ones replace
		{"x free", ""},         // and are never replaced
		{"x y", "x y"},         // both vanish
		{"x", ""},              //
		{"c none empty a", ""}, // nothing here names another
		{"b b c c", "c c"},
		{"none", ""},
	} {
		s.Reset()
		var rules []*Rule
		var gone []string
		for key := range strings.FieldsSeq(c.matched) {
			rules = append(rules, d.Match(entriesOf(key, "v")))
			s.Add(rules[len(rules)-1])
		}
		for i, key := range strings.Fields(c.matched) {
			if rules[i] != nil && s.Replaced(rules[i]) {
				gone = append(gone, key)
			}
		}
		if got := strings.Join(gone, " "); got != c.gone {
			t.Errorf("of %q %q are replaced, want %q", c.matched, got, c.gone)
		}
	}
}

// TestReplacesOfManyNames has more names than fit a word, and compares with lists of names.
func TestReplacesOfManyNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limits = 150
		var all []branch
		replaces := make([][]string, limits)
		for i := range limits {
			p := &policy{name: fmt.Sprint("n", i), unit: setting{given: true, text: "day"}, requests: number64(1)}
			for _, j := range rapid.SliceOfN(rapid.IntRange(0, limits-1), 0, 3).Draw(t, "replaces") {
				if j != i {
					p.replaces = append(p.replaces, replacement{name: fmt.Sprint("n", j)})
					replaces[i] = append(replaces[i], fmt.Sprint("n", j))
				}
			}
			all = append(all, branch{key: strconv.Itoa(i), limit: p})
		}
		d := compile(&tree{domain: "d", descriptors: all}, &faults{})
		var s Replacing
		for range 3 {
			s.Reset()
			var names []string
			matched := rapid.SliceOfN(rapid.IntRange(0, limits-1), 0, 20).Draw(t, "matched")
			for _, i := range matched {
				s.Add(d.Match(entriesOf(strconv.Itoa(i), "")))
				names = append(names, replaces[i]...)
			}
			for _, i := range matched {
				got, want := s.Replaced(d.Match(entriesOf(strconv.Itoa(i), ""))), slices.Contains(names, fmt.Sprint("n", i))
				if got != want {
					t.Fatalf("of %v number %d is replaced: %t, want %t", matched, i, got, want)
				}
			}
		}
	})
}
