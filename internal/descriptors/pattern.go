package descriptors

import (
	"slices"
	"strings"
)

// pattern is a value with `*` in it, cut at the stars.
type pattern struct {
	prefix, suffix string   // before the first star, after the last
	middles        []string // between stars
	order          int      // in the file, among the patterns of its key
	node           *node
}

func newPattern(n *node, order int) *pattern {
	parts := strings.Split(n.value, "*")
	last := len(parts) - 1
	return &pattern{prefix: parts[0], suffix: parts[last], middles: parts[1:last], order: order, node: n}
}

// patterns finds the first pattern, in the order of the file, that a value fits, without trying each:
// by what is before the first star, then by what is after the last. Only patterns that have both alike
// are tried one after the other.
type patterns struct {
	prefixes affixes
	bySuffix []ends // one per prefix
}

// ends are the patterns of one prefix.
type ends struct {
	lowest   int // order
	suffixes affixes
	patterns [][]*pattern // one list per suffix, in order
}

// first returns the node of that pattern, nil if there is none.
func (p *patterns) first(s string) *node {
	if p == nil {
		return nil
	}
	var best *pattern
	for i := p.prefixes.longest(s); i >= 0; i = p.prefixes.within[i] {
		if e := &p.bySuffix[i]; best == nil || e.lowest < best.order {
			best = e.first(s[len(p.prefixes.texts[i]):], best)
		}
	}
	if best == nil {
		return nil
	}
	return best.node
}

// first returns the first pattern that fits, best if that comes before. rest is the value without the
// prefix.
func (e *ends) first(rest string, best *pattern) *pattern {
	for i := e.suffixes.longest(rest); i >= 0; i = e.suffixes.within[i] {
		middle := rest[:len(rest)-len(e.suffixes.texts[i])]
		for _, p := range e.patterns[i] {
			if best != nil && best.order < p.order {
				break
			}
			if p.fits(middle) {
				best = p
				break
			}
		}
	}
	return best
}

// fits tells whether the parts between the stars follow each other in s. Each is looked for once, from
// the left, so that the cost is that of len(middles) searches whatever s holds.
func (p *pattern) fits(s string) bool {
	for _, part := range p.middles {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return true
}

// affixes finds which of many texts a value begins with, or ends with. The texts are in the order of
// their letters as read from that end, so that all of them that a value has stand before it, the
// longest last, each linked to the next shorter one: one binary search finds them.
type affixes struct {
	texts  []string
	within []int // the longest other text that this one begins (or ends) with, -1 = none
	ends   bool  // texts are ends of values and not beginnings
}

func newAffixes(texts []string, ends bool) affixes {
	a := affixes{texts: texts, ends: ends, within: make([]int, len(texts))}
	slices.SortFunc(a.texts, a.compare)
	for i := range texts {
		j := i - 1
		for j >= 0 && !a.has(texts[i], texts[j]) {
			j = a.within[j]
		}
		a.within[i] = j
	}
	return a
}

// longest returns the index of the longest text that s has, -1 if it has none.
func (a *affixes) longest(s string) int {
	low, high := 0, len(a.texts)
	for low < high {
		if middle := (low + high) / 2; a.compare(a.texts[middle], s) <= 0 {
			low = middle + 1
		} else {
			high = middle
		}
	}
	i := low - 1
	for i >= 0 && !a.has(s, a.texts[i]) {
		i = a.within[i]
	}
	return i
}

func (a *affixes) has(s, text string) bool {
	if a.ends {
		return strings.HasSuffix(s, text)
	}
	return strings.HasPrefix(s, text)
}

func (a *affixes) compare(x, y string) int {
	if !a.ends {
		return strings.Compare(x, y)
	}
	for i := 1; i <= min(len(x), len(y)); i++ {
		if cx, cy := x[len(x)-i], y[len(y)-i]; cx != cy {
			return int(cx) - int(cy)
		}
	}
	return len(x) - len(y)
}

// newPatterns indexes patterns, which are in the order of the file; nil for none.
func newPatterns(all []*pattern) *patterns {
	if len(all) == 0 {
		return nil
	}
	byPrefix := groupBy(all, func(p *pattern) string { return p.prefix })
	ix := &patterns{prefixes: newAffixes(keysOf(byPrefix), false)}
	for _, prefix := range ix.prefixes.texts {
		ix.bySuffix = append(ix.bySuffix, newEnds(byPrefix[prefix]))
	}
	return ix
}

func newEnds(all []*pattern) ends {
	bySuffix := groupBy(all, func(p *pattern) string { return p.suffix })
	e := ends{lowest: all[0].order, suffixes: newAffixes(keysOf(bySuffix), true)}
	for _, suffix := range e.suffixes.texts {
		e.patterns = append(e.patterns, bySuffix[suffix])
	}
	return e
}

func groupBy(all []*pattern, key func(*pattern) string) map[string][]*pattern {
	groups := make(map[string][]*pattern)
	for _, p := range all {
		groups[key(p)] = append(groups[key(p)], p)
	}
	return groups
}

func keysOf(groups map[string][]*pattern) []string {
	keys := make([]string, 0, len(groups))
	for key := range groups {
		keys = append(keys, key)
	}
	return keys
}
