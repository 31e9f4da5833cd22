package limits

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func matches(text, name string) bool {
	p := compilePattern(text)
	return p.match(name)
}

func orderOf(a, b string) int {
	p, q := compilePattern(a), compilePattern(b)
	return p.compare(&q)
}

// naive is the textbook definition of a match.
func naive(p, s string) bool {
	switch {
	case p == "":
		return s == ""
	case p[0] == '*':
		return naive(p[1:], s) || (s != "" && naive(p, s[1:]))
	}
	return s != "" && s[0] == p[0] && naive(p[1:], s[1:])
}

// TestEveryShortPattern takes all patterns and names of up to five bytes.
func TestEveryShortPattern(t *testing.T) {
	const longest = 5
	names := words("ab", longest)
	for _, text := range words("ab*", longest) {
		if !strings.Contains(text, "*") {
			continue
		}
		p := compilePattern(text)
		for _, name := range names {
			if got, want := p.match(name), naive(text, name); got != want {
				t.Errorf("%q matches %q: %t, want %t", text, name, got, want)
			}
		}
	}
}

// words are all strings of up to n of the letters.
func words(letters string, n int) []string {
	all := []string{""}
	for from := 0; n > 0; n-- {
		for _, word := range all[from:len(all):len(all)] {
			from++
			for _, letter := range letters {
				all = append(all, word+string(letter))
			}
		}
	}
	return all
}

func TestPatternAgainstNaiveMatcher(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ab]{0,3}\*[ab*]{0,6}`).Draw(t, "pattern")
		name := rapid.OneOf(
			rapid.StringMatching(`[ab]{0,12}`),
			rapid.Just(strings.ReplaceAll(text, "*", "")),
			rapid.Just(strings.ReplaceAll(text, "*", "ab")),
			rapid.Just(text),
		).Draw(t, "name")
		if got, want := matches(text, name), naive(text, name); got != want {
			t.Errorf("%q matches %q: %t, want %t", text, name, got, want)
		}
	})
}

func TestPatternMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "", true},
		{"*", "\xff\x00anything", true},
		{"**", "", true},
		{"a*", "a", true},
		{"a*", "", false},
		{"a*", "ba", false},
		{"*a", "a", true},
		{"*a", "ab", false},
		{"a*a", "a", false}, // its two ends must not share a byte
		{"a*a", "aa", true},
		{"ab*ba", "aba", false},
		{"*a*", "bab", true},
		{"*a*", "bbb", false},
		{"a*b*c", "axxbyyc", true},
		{"a*b*c", "acb", false},
		{"a*bc*c", "abc", false}, // nor its middle and its end
		{"*ab*ab*", "abab", true},
		{"*ab*ab*", "aba", false},
		{"*a*a*", "abb", false},
		{"a*", "a*", true},
		{"ö*", "\xc3\xb6x", true},
		{"*/\xff", "x/\xff", true},
	} {
		if got := matches(c.pattern, c.name); got != c.want || naive(c.pattern, c.name) != c.want {
			t.Errorf("%q matches %q: %t, want %t", c.pattern, c.name, got, c.want)
		}
	}
}

func TestPatternOrder(t *testing.T) {
	want := []string{"abcd*", "a*bc", "ab*c", "*a", "*b", "a*", "*", "**"}
	got := slices.Clone(want)
	slices.Sort(got)
	slices.SortFunc(got, orderOf)
	if !slices.Equal(got, want) {
		t.Errorf("best first: %q, want %q", got, want)
	}
}

// FuzzPattern bounds the lengths, for the naive matcher takes exponential time.
func FuzzPattern(f *testing.F) {
	f.Add("a*b", "axb")
	f.Add("*", "\xff")
	f.Add("a*a*a", "aa")
	f.Fuzz(func(t *testing.T, text, name string) {
		if !strings.Contains(text, "*") || len(text) > 12 || len(name) > 20 {
			return // no pattern, or too long for the naive matcher
		}
		if got, want := matches(text, name), naive(text, name); got != want {
			t.Errorf("%q matches %q: %t, want %t", text, name, got, want)
		}
	})
}
