package limits

import (
	"maps"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// TestCowMapAgainstMap makes edits of a map that grows twice meanwhile: each version stays what it
// was when the next ones are made.
func TestCowMapAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m cowMap[name, int]
		want := map[name]int{}
		type version struct {
			m    cowMap[name, int]
			want map[name]int
		}
		var versions []version
		for round := range rapid.IntRange(1, 5).Draw(t, "rounds") {
			e := &edit{}
			first, count := rapid.IntRange(0, 3000).Draw(t, "first"), rapid.IntRange(0, 3000).Draw(t, "count")
			removing := rapid.IntRange(0, 3).Draw(t, "kind") == 0
			for i := first; i < first+count; i++ {
				k := name(strconv.Itoa(i))
				_, has := want[k]
				if removing {
					if had := m.remove(e, k); had != has {
						t.Fatalf("remove(%q) says it was there: %t, want %t", k, had, has)
					}
					delete(want, k)
				} else {
					if had := m.put(e, k, round); had != has {
						t.Fatalf("put(%q) says it was there: %t, want %t", k, had, has)
					}
					want[k] = round
				}
			}
			versions = append(versions, version{m, maps.Clone(want)})
		}
		for i, v := range versions {
			if got := maps.Collect(v.m.all()); !maps.Equal(got, v.want) || v.m.size != len(v.want) {
				t.Errorf("version %d: %d entries, size %d, want %d", i, len(got), v.m.size, len(v.want))
			}
			for k, n := range v.want {
				if v.m.get(k) != n {
					t.Fatalf("version %d: %q is %d, want %d", i, k, v.m.get(k), n)
				}
			}
			if v.m.get("missing") != 0 {
				t.Error("a key that was never put is found")
			}
		}
	})
}

// TestPatternIndexAgainstAll makes edits of an index and asks each version for what all of its
// patterns say.
func TestPatternIndexAgainstAll(t *testing.T) {
	text := rapid.StringMatching(`[ab]{0,2}\*([ab]{0,2}\*){0,2}[ab]{0,2}`)
	asked := rapid.StringMatching(`[ab]{0,8}`)
	rapid.Check(t, func(t *rapid.T) {
		var ix *patternIndex[int]
		want := map[string]int{}
		type version struct {
			ix   *patternIndex[int]
			want map[string]int
		}
		var versions []version
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			e := &edit{}
			for i, p := range rapid.SliceOfN(text, 0, 12).Draw(t, "patterns") {
				if _, has := want[p]; has && rapid.Bool().Draw(t, "remove") {
					ix = ix.without(e, p)
					delete(want, p)
				} else {
					ix = ix.with(e, p, i+1)
					want[p] = i + 1
				}
			}
			versions = append(versions, version{ix, maps.Clone(want)})
		}
		for _, v := range versions {
			checkIndex(t, v.ix, v.want, asked.Draw(t, "name"))
		}
	})
}

func checkIndex(t *rapid.T, ix *patternIndex[int], patterns map[string]int, asked string) {
	t.Helper()
	var want []int
	for _, p := range slices.SortedFunc(maps.Keys(patterns), orderOf) {
		if naive(p, asked) {
			want = append(want, patterns[p])
		}
		if ix.find(p) != patterns[p] {
			t.Errorf("find(%q) = %d, want %d", p, ix.find(p), patterns[p])
		}
	}
	var got []int
	for _, e := range ix.ranked(asked) {
		got = append(got, e.value)
	}
	if !slices.Equal(got, want) {
		t.Errorf("patterns %v: %q matches %v, want %v", patterns, asked, got, want)
	}
	best := ix.best(asked)
	if (best == nil) != (len(want) == 0) || (best != nil && best.value != want[0]) {
		t.Errorf("patterns %v: the best for %q is %v, want the first of %v", patterns, asked, best, want)
	}
	if all := slices.Sorted(ix.all()); len(all) != len(patterns) {
		t.Errorf("the index has %d patterns, want %d", len(all), len(patterns))
	}
	if ix.find("no*such") != 0 {
		t.Error("a pattern that was never put is found")
	}
}
