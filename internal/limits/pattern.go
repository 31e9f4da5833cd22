package limits

import (
	"cmp"
	"iter"
	"slices"
	"strings"
)

// pattern is a name with `*` in it, cut at the stars.
type pattern struct {
	text  string
	parts []string // at least two
	bytes int      // other than `*`
}

func isPattern(text string) bool { return strings.Contains(text, "*") }

func compilePattern(text string) pattern {
	return pattern{text: text, parts: strings.Split(text, "*"), bytes: len(text) - strings.Count(text, "*")}
}

func (p *pattern) prefix() string { return p.parts[0] }

func (p *pattern) suffix() string { return p.parts[len(p.parts)-1] }

// middle is the longest part between two stars, empty where there is none.
func (p *pattern) middle() string {
	longest := ""
	for _, part := range p.parts[1 : len(p.parts)-1] {
		if len(part) > len(longest) {
			longest = part
		}
	}
	return longest
}

// compare orders patterns best first: most bytes other than `*`, then by their text.
func (p *pattern) compare(o *pattern) int {
	return cmp.Or(cmp.Compare(o.bytes, p.bytes), strings.Compare(p.text, o.text))
}

// match tells whether s fits. Each part is looked for once, from the left, so that the cost
// is that of len(parts) searches whatever s holds.
func (p *pattern) match(s string) bool {
	first, last := p.prefix(), p.suffix()
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

// patternIndex finds the patterns that match a name without trying each of them: by what is before
// the first star, then by what is after the last, then by the longest part between stars. Keys of
// one length are found by one lookup, whatever their number; parts between stars by one lookup for
// each place in the name. It is copied on write like a cowMap.
type patternIndex[V any] struct {
	owner    *edit
	prefixes affixes[*suffixIndex[V]]
	size     int
}

type suffixIndex[V any] struct {
	owner    *edit
	suffixes affixes[*middleIndex[V]]
}

type middleIndex[V any] struct {
	owner   *edit
	middles affixes[[]patternEntry[V]]
}

type patternEntry[V any] struct {
	pattern pattern
	value   V
}

// affixes are looked up as parts of a longer name: it knows which lengths there are.
type affixes[V any] struct {
	byText  cowMap[name, V]
	lengths []affixLength // ascending
}

type affixLength struct{ length, keys int }

func (a *affixes[V]) put(e *edit, key string, v V) {
	if had := a.byText.put(e, name(key), v); !had {
		a.count(len(key), 1)
	}
}

func (a *affixes[V]) remove(e *edit, key string) {
	if had := a.byText.remove(e, name(key)); had {
		a.count(len(key), -1)
	}
}

// count notes that there is one key more or less of a length.
func (a *affixes[V]) count(length, keys int) {
	a.lengths = slices.Clone(a.lengths)
	i, found := slices.BinarySearchFunc(a.lengths, length, func(l affixLength, n int) int { return cmp.Compare(l.length, n) })
	if !found {
		a.lengths = slices.Insert(a.lengths, i, affixLength{length: length})
	}
	if a.lengths[i].keys += keys; a.lengths[i].keys == 0 {
		a.lengths = slices.Delete(a.lengths, i, i+1)
	}
}

// match calls f for each pattern that s fits, for some more than once.
func (ix *patternIndex[V]) match(s string, f func(*patternEntry[V])) {
	if ix == nil {
		return
	}
	for _, p := range ix.prefixes.lengths {
		if p.length > len(s) {
			return
		}
		if suffixes := ix.prefixes.byText.get(name(s[:p.length])); suffixes != nil {
			suffixes.match(s, p.length, f)
		}
	}
}

func (ix *suffixIndex[V]) match(s string, from int, f func(*patternEntry[V])) {
	for _, l := range ix.suffixes.lengths {
		to := len(s) - l.length
		if to < from {
			return
		}
		if middles := ix.suffixes.byText.get(name(s[to:])); middles != nil {
			middles.match(s, from, to, f)
		}
	}
}

func (ix *middleIndex[V]) match(s string, from, to int, f func(*patternEntry[V])) {
	if ix.middles.lengths[len(ix.middles.lengths)-1].length > 0 && ix.fewerThanPlaces(len(s), to-from) {
		for _, entries := range ix.middles.byText.all() {
			matchEach(entries, s, f)
		}
		return
	}
	for _, l := range ix.middles.lengths {
		if l.length == 0 {
			matchEach(ix.middles.byText.get(""), s, f)
			continue
		}
		for at := from; at+l.length <= to; at++ {
			matchEach(ix.middles.byText.get(name(s[at:at+l.length])), s, f)
		}
	}
}

// fewerThanPlaces tells whether it costs less to try each pattern than to look at each place in a
// name: clients choose how long that is. A try finds its way through some 32 bytes in the time of
// one lookup.
func (ix *middleIndex[V]) fewerThanPlaces(length, places int) bool {
	return ix.middles.byText.size*(1+length/32) < places*len(ix.middles.lengths)
}

func matchEach[V any](entries []patternEntry[V], s string, f func(*patternEntry[V])) {
	for i := range entries {
		if entries[i].pattern.match(s) {
			f(&entries[i])
		}
	}
}

// best returns the best of the patterns that s fits, nil if there is none.
func (ix *patternIndex[V]) best(s string) *patternEntry[V] {
	var best *patternEntry[V]
	ix.match(s, func(e *patternEntry[V]) {
		if best == nil || e.pattern.compare(&best.pattern) < 0 {
			best = e
		}
	})
	return best
}

// ranked returns all that s fits, best first.
func (ix *patternIndex[V]) ranked(s string) (all []*patternEntry[V]) {
	ix.match(s, func(e *patternEntry[V]) { all = append(all, e) })
	if len(all) > 1 {
		slices.SortFunc(all, func(a, b *patternEntry[V]) int { return a.pattern.compare(&b.pattern) })
		all = slices.Compact(all)
	}
	return all
}

// find returns the value of exactly this pattern.
func (ix *patternIndex[V]) find(text string) (found V) {
	if ix == nil {
		return found
	}
	p := compilePattern(text)
	suffixes := ix.prefixes.byText.get(name(p.prefix()))
	if suffixes == nil {
		return found
	}
	middles := suffixes.suffixes.byText.get(name(p.suffix()))
	if middles == nil {
		return found
	}
	for _, e := range middles.middles.byText.get(name(p.middle())) {
		if e.pattern.text == text {
			return e.value
		}
	}
	return found
}

// with returns the index with a pattern set.
func (ix *patternIndex[V]) with(e *edit, text string, v V) *patternIndex[V] {
	p := compilePattern(text)
	ix, middles := ix.path(e, &p)
	entries := slices.Clone(middles.middles.byText.get(name(p.middle())))
	if i := slices.IndexFunc(entries, func(e patternEntry[V]) bool { return e.pattern.text == text }); i >= 0 {
		entries[i].value = v
	} else {
		entries = append(entries, patternEntry[V]{p, v})
		ix.size++
	}
	middles.middles.put(e, p.middle(), entries)
	return ix
}

// path copies what leads to a pattern, where the edit does not own it yet.
func (ix *patternIndex[V]) path(e *edit, p *pattern) (*patternIndex[V], *middleIndex[V]) {
	ix = owned(e, ix, func(ix *patternIndex[V]) **edit { return &ix.owner })
	suffixes := owned(e, ix.prefixes.byText.get(name(p.prefix())), func(ix *suffixIndex[V]) **edit { return &ix.owner })
	ix.prefixes.put(e, p.prefix(), suffixes)
	middles := owned(e, suffixes.suffixes.byText.get(name(p.suffix())), func(ix *middleIndex[V]) **edit { return &ix.owner })
	suffixes.suffixes.put(e, p.suffix(), middles)
	return ix, middles
}

// owned returns what the edit may write to: v itself, a copy, or a new one where v is nil.
func owned[T any](e *edit, v *T, owner func(*T) **edit) *T {
	if v != nil && *owner(v) == e {
		return v
	}
	c := new(T)
	if v != nil {
		*c = *v
	}
	*owner(c) = e
	return c
}

// without returns the index without a pattern that it has; nil when that was the last.
func (ix *patternIndex[V]) without(e *edit, text string) *patternIndex[V] {
	p := compilePattern(text)
	ix, middles := ix.path(e, &p)
	if ix.size--; ix.size == 0 {
		return nil
	}
	entries := slices.DeleteFunc(slices.Clone(middles.middles.byText.get(name(p.middle()))), func(e patternEntry[V]) bool { return e.pattern.text == text })
	if len(entries) > 0 {
		middles.middles.put(e, p.middle(), entries)
		return ix
	}
	middles.middles.remove(e, p.middle())
	suffixes := ix.prefixes.byText.get(name(p.prefix()))
	if len(middles.middles.lengths) == 0 {
		suffixes.suffixes.remove(e, p.suffix())
	}
	if len(suffixes.suffixes.lengths) == 0 {
		ix.prefixes.remove(e, p.prefix())
	}
	return ix
}

// all goes through the patterns in no order.
func (ix *patternIndex[V]) all() iter.Seq[V] {
	return func(yield func(V) bool) {
		if ix == nil {
			return
		}
		for _, suffixes := range ix.prefixes.byText.all() {
			for _, middles := range suffixes.suffixes.byText.all() {
				for _, entries := range middles.middles.byText.all() {
					for i := range entries {
						if !yield(entries[i].value) {
							return
						}
					}
				}
			}
		}
	}
}
