package descriptors

import (
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// The model walks the tree as it was written, and tries every letter for every star.

func modelMatch(all []branch, entries []Entry) *branch {
	if len(entries) == 0 {
		return nil
	}
	b := modelFind(all, entries[0])
	if b == nil || len(entries) == 1 {
		return b
	}
	return modelMatch(b.children, entries[1:])
}

// modelFind is exact, else the first pattern, else the one without a value.
func modelFind(all []branch, e Entry) *branch {
	for _, fits := range []func(value string) bool{
		func(value string) bool { return value != "" && value == e.Value },
		func(value string) bool { return isPattern(value) && modelFits(value, e.Value) },
		func(value string) bool { return value == "" },
	} {
		for i := range all {
			if all[i].key == e.Key && fits(all[i].value) {
				return &all[i]
			}
		}
	}
	return nil
}

func modelFits(pattern, s string) bool {
	switch {
	case pattern == "":
		return s == ""
	case pattern[0] == '*':
		return modelFits(pattern[1:], s) || (s != "" && modelFits(pattern, s[1:]))
	}
	return s != "" && s[0] == pattern[0] && modelFits(pattern[1:], s[1:])
}

// modelKey is what is counted together, as a list of texts.
func modelKey(domain string, seconds int64, all []branch, entries []Entry, shared bool) []string {
	key := []string{domain, strconv.FormatInt(seconds, 10)}
	for _, e := range entries {
		value := e.Value
		if b := modelFind(all, e); shared && b != nil {
			if b.flags.has(shareThreshold) {
				value = b.value
			}
			all = b.children
		}
		key = append(key, e.Key, value)
	}
	return key
}

// anyTree draws a tree of few letters, so that values and patterns often meet. Each limit has a number
// of its own.
func anyTree(t *rapid.T) *tree {
	number := int64(0)
	var level func(depth int) []branch
	level = func(depth int) (all []branch) {
		seen := make(map[[2]string]bool)
		for range rapid.IntRange(0, 6).Draw(t, "siblings") {
			b := branch{key: rapid.SampledFrom([]string{"a", "b", "a*"}).Draw(t, "key"), value: anyValue(true).Draw(t, "value")}
			if seen[[2]string{b.key, b.value}] {
				continue
			}
			seen[[2]string{b.key, b.value}] = true
			if isPattern(b.value) && rapid.Bool().Draw(t, "share") {
				b.flags |= shareThreshold
			}
			if rapid.IntRange(0, 3).Draw(t, "limit") > 0 {
				number++
				b.limit = &policy{requests: number64(number), unit: setting{given: true, text: "day"}}
			}
			if depth < 3 {
				b.children = level(depth + 1)
			}
			all = append(all, b)
		}
		return all
	}
	return &tree{source: "any.yaml", domain: "d", descriptors: level(1)}
}

func number64(n int64) number { return number{given: true, n: n} }

func anyValue(pattern bool) *rapid.Generator[string] {
	letters := []rune("aab")
	if pattern {
		letters = []rune("aab**")
	}
	return rapid.StringOfN(rapid.SampledFrom(letters), 0, 5, -1)
}

func anyEntries(t *rapid.T) []Entry {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Entry {
		return Entry{Key: rapid.SampledFrom([]string{"a", "b", "a*"}).Draw(t, "key"), Value: anyValue(rapid.Bool().Draw(t, "odd")).Draw(t, "value")}
	}), 0, 4).Draw(t, "entries")
}

func matchLikeModel(t *rapid.T) {
	tree := anyTree(t)
	found := faults{source: tree.source}
	d := compile(tree, &found)
	if err := found.err(); err != nil {
		t.Fatalf("compiling %+v: %v", tree, err)
	}
	for range 20 {
		entries := anyEntries(t)
		got, want := int64(-1), int64(-1)
		if r := d.Match(entries); r != nil {
			got = int64(r.RequestsPerUnit)
		}
		if b := modelMatch(tree.descriptors, entries); b != nil && b.limit != nil {
			want = b.limit.requests.n
		}
		if got != want {
			t.Fatalf("Match(%q) = limit %d, want %d, in %+v", entries, got, want, tree.descriptors)
		}
	}
}

func TestMatchLikeModel(t *testing.T) { rapid.Check(t, matchLikeModel) }

func FuzzMatch(f *testing.F) { f.Fuzz(rapid.MakeFuzz(matchLikeModel)) }

// countersLikeModel has pairs of matching requests: what the model counts apart has two keys, what it
// counts together has one.
func countersLikeModel(t *rapid.T) {
	tree := anyTree(t)
	d := compile(tree, &faults{})
	type counted struct {
		model []string
		key   string
	}
	var all []counted
	for range 20 {
		entries := anyEntries(t)
		r := d.Match(entries)
		one := counted{model: modelKey("d", day, tree.descriptors, entries, r != nil), key: string(AppendKey(nil, r, day, entries))}
		for _, o := range append(all, one) {
			if same := slices.Equal(one.model, o.model); (one.key == o.key) != same {
				t.Fatalf("%q and %q: keys %q and %q; want same = %t", one.model, o.model, one.key, o.key, same)
			}
		}
		all = append(all, one)
	}
}

func TestCountersLikeModel(t *testing.T) { rapid.Check(t, countersLikeModel) }

// TestPatternsLikeModel has many patterns side by side, as the index is made for.
func TestPatternsLikeModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfNDistinct(anyValue(true).Filter(isPattern), 1, 60, func(s string) string { return s }).Draw(t, "patterns")
		var all []branch
		for i, value := range values {
			all = append(all, branch{key: "k", value: value, limit: &policy{requests: number64(int64(i)), unit: setting{given: true, text: "day"}}})
		}
		d := compile(&tree{domain: "d", descriptors: all}, &faults{})
		for range 20 {
			e := Entry{Key: "k", Value: anyValue(false).Draw(t, "value")}
			got, want := d.Match([]Entry{e}), modelFind(all, e)
			if (got == nil) != (want == nil) || (got != nil && int64(got.RequestsPerUnit) != want.limit.requests.n) {
				t.Fatalf("%q among %q: got %+v, want %+v", e.Value, values, got, want)
			}
		}
	})
}
