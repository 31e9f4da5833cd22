package descriptors

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func filesOf(namesAndBodies ...string) map[string]File {
	files := make(map[string]File)
	for i := 0; i < len(namesAndBodies); i += 2 {
		files[namesAndBodies[i]] = File{Body: []byte(namesAndBodies[i+1])}
	}
	return files
}

// limited is a file of one limit.
func limited(domain string, n int) string {
	return fmt.Sprintf("domain: %s\ndescriptors:\n- {key: k, rate_limit: {unit: day, requests_per_unit: %d}}\n", domain, n)
}

// numberOf is the number of the limit that a domain of limited has, -1 where it has none, -2 where
// there is no such domain.
func numberOf(s *Set, domain string) int {
	d, ok := s.Domain(domain)
	if !ok {
		return -2
	}
	if r := d.Match(entriesOf("k", "v")); r != nil {
		return int(r.RequestsPerUnit)
	}
	return -1
}

// shape is a Set as a text: of each file its domain, and its error.
func shape(s *Set) string {
	var text strings.Builder
	for src := range s.Sources() {
		domain := "none"
		if src.Domain != nil {
			domain = src.Domain.Name()
		}
		if !src.Loaded {
			domain += " (never loaded)"
		}
		fmt.Fprintf(&text, "%s has %s", src.Name, domain)
		if src.Err != nil {
			fmt.Fprintf(&text, "; %v", src.Err)
		}
		text.WriteString("\n")
	}
	return text.String()
}

// TestSetFromOneStateToTheNext goes through states of a directory, each from the one before.
func TestSetFromOneStateToTheNext(t *testing.T) {
	var s *Set
	for _, step := range []struct {
		name  string
		files map[string]File
		want  string
		limit map[string]int
	}{
		{
			"two good files", filesOf("a.yaml", limited("A", 1), "b.yaml", limited("B", 2)),
			"a.yaml has A\nb.yaml has B\n",
			map[string]int{"A": 1, "B": 2, "C": -2},
		},
		{
			"a fault keeps what was good", filesOf("a.yaml", "domain: A\ndescriptors: 5", "b.yaml", limited("B", 3)),
			"a.yaml has A; a.yaml: line 2, column 14: error loading config file: descriptors is 5, where a list is to be\nb.yaml has B\n",
			map[string]int{"A": 1, "B": 3},
		},
		{
			"a fault beside another domain keeps the old one", filesOf("a.yaml", "domain: X\ndescriptors: 5", "b.yaml", limited("B", 3)),
			"a.yaml has A; a.yaml: line 2, column 14: error loading config file: descriptors is 5, where a list is to be\nb.yaml has B\n",
			map[string]int{"A": 1, "B": 3, "X": -2},
		},
		{
			"whoever cannot be read keeps his, too",
			map[string]File{"a.yaml": {Err: errors.New("permission denied")}, "b.yaml": {Body: []byte(limited("B", 3))}},
			"a.yaml has A; a.yaml: permission denied\nb.yaml has B\n",
			map[string]int{"A": 1, "B": 3},
		},
		{
			"a third wants a domain that is taken", filesOf("a.yaml", limited("A", 4), "0.yaml", limited("A", 5), "b.yaml", limited("B", 3)),
			"0.yaml has none (never loaded); 0.yaml: line 1, column 9: duplicate domain 'A' in config file: a.yaml has it\na.yaml has A\nb.yaml has B\n",
			map[string]int{"A": 4, "B": 3},
		},
		{
			"b takes the name of a, and keeps its own", filesOf("a.yaml", limited("A", 4), "b.yaml", limited("A", 6)),
			"a.yaml has A\nb.yaml has B; b.yaml: line 1, column 9: duplicate domain 'A' in config file: a.yaml has it\n",
			map[string]int{"A": 4, "B": 3},
		},
		{
			"a goes, so that b has what it wants", filesOf("b.yaml", limited("A", 6)),
			"b.yaml has A\n",
			map[string]int{"A": 6, "B": -2},
		},
		{
			"two files swap", filesOf("b.yaml", limited("A", 6), "c.yaml", limited("C", 7)),
			"b.yaml has A\nc.yaml has C\n",
			map[string]int{"A": 6, "C": 7},
		},
		{
			"their domains", filesOf("b.yaml", limited("C", 8), "c.yaml", limited("A", 9)),
			"b.yaml has C\nc.yaml has A\n",
			map[string]int{"A": 9, "C": 8},
		},
		{
			"one moves to a domain that another is pushed back to", filesOf("a.yaml", limited("C", 10), "b.yaml", limited("A", 11), "c.yaml", limited("A", 9)),
			"a.yaml has none (never loaded); a.yaml: line 1, column 9: duplicate domain 'C' in config file: b.yaml has it\n" +
				"b.yaml has C; b.yaml: line 1, column 9: duplicate domain 'A' in config file: c.yaml has it\nc.yaml has A\n",
			map[string]int{"A": 9, "C": 8},
		},
		{"a file is renamed", filesOf("d.yaml", limited("A", 12)), "d.yaml has A\n", map[string]int{"A": 12, "C": -2}},
		{"all files are gone", nil, "", map[string]int{"A": -2}},
		{
			"a file that never loads is known by name", filesOf("n.yaml", "domain: N\nx: y", "o.yaml", "domain: 'O'\na: [\n", "README.md", "# Limits\n"),
			"README.md has none (never loaded); README.md: line 1, column 1: config file cannot have empty domain: the file says nothing\n" +
				"n.yaml has N (never loaded); n.yaml: line 2, column 1: config error, unknown key 'x'\n" +
				"o.yaml has O (never loaded); o.yaml: line 2: error loading config file: yaml: did not find expected node content\n",
			map[string]int{"N": -1, "O": -1},
		},
		{
			"a good file comes before one that never loaded", filesOf("n.yaml", "domain: N\nx: y", "z.yaml", limited("N", 13)),
			"n.yaml has none (never loaded); n.yaml: line 2, column 1: config error, unknown key 'x'\nz.yaml has N\n",
			map[string]int{"N": 13},
		},
		{
			"once good, it is known", filesOf("n.yaml", "domain: M\nx: y", "z.yaml", limited("N", 13)),
			"n.yaml has M (never loaded); n.yaml: line 2, column 1: config error, unknown key 'x'\nz.yaml has N\n",
			map[string]int{"N": 13, "M": -1},
		},
		{
			"at the first time the first by name has it", filesOf("q.yaml", limited("Q", 1), "p.yaml", limited("Q", 2)),
			"p.yaml has Q\nq.yaml has none (never loaded); q.yaml: line 1, column 9: duplicate domain 'Q' in config file: p.yaml has it\n",
			map[string]int{"Q": 2},
		},
	} {
		before := shape(s)
		next := Update(s, step.files)
		if got := shape(next); got != step.want {
			t.Errorf("%s:\n%swant\n%s", step.name, got, step.want)
		}
		for domain, want := range step.limit {
			if got := numberOf(next, domain); got != want {
				t.Errorf("%s: domain %s has the limit %d, want %d", step.name, domain, got, want)
			}
		}
		if shape(s) != before {
			t.Errorf("%s: the set before has changed to\n%s", step.name, shape(s))
		}
		s = next
	}
}

func TestWhatDidNotChangeIsShared(t *testing.T) {
	first := Update(nil, filesOf("a.yaml", limited("A", 1), "b.yaml", limited("B", 2), "n.yaml", "domain: N\nx: y"))
	second := Update(first, filesOf("a.yaml", limited("A", 1), "b.yaml", limited("B", 3), "n.yaml", "domain: N\nx: y"))
	for domain, want := range map[string]bool{"A": true, "B": false, "N": true} {
		before, _ := first.Domain(domain)
		after, _ := second.Domain(domain)
		if (before == after) != want {
			t.Errorf("domain %s is shared: %t, want %t", domain, before == after, want)
		}
	}
	if second.Len() != 3 || second.Err() == nil || !strings.HasPrefix(second.Err().Error(), "n.yaml: line 2") {
		t.Errorf("%d domains, error %v", second.Len(), second.Err())
	}
}

func TestNilSet(t *testing.T) {
	var s *Set
	if _, ok := s.Domain("d"); ok || s.Len() != 0 || s.Err() != nil || shape(s) != "" {
		t.Error("the nil Set is not empty")
	}
}

// TestSetNeverLosesALimitByAFault changes files at random. Whatever happens, no two files have one
// domain, and who had a domain has one as long as the file is there.
func TestSetNeverLosesALimitByAFault(t *testing.T) {
	names := []string{"a", "b", "c", "d"}
	content := rapid.OneOf(
		rapid.SampledFrom([]string{"", "domain: A\nx: y", "domain: [", "domain: B\ndescriptors: [", "text"}),
		rapid.Map(rapid.SampledFrom([]string{"A", "B", "C"}), func(domain string) string { return limited(domain, 1) }),
	)
	rapid.Check(t, func(t *rapid.T) {
		var s *Set
		files := make(map[string]File)
		for range 8 {
			files = maps.Clone(files)
			for range rapid.IntRange(1, 3).Draw(t, "changes") {
				name := rapid.SampledFrom(names).Draw(t, "name")
				if delete(files, name); rapid.IntRange(0, 4).Draw(t, "keep") > 0 {
					files[name] = File{Body: []byte(content.Draw(t, "content"))}
				}
			}
			next := Update(s, files)
			checkStep(t, s, next, files)
			s = next
		}
	})
}

func checkStep(t *rapid.T, s, next *Set, files map[string]File) {
	owners := make(map[*Domain]string)
	for src := range next.Sources() {
		if src.Domain == nil {
			continue
		}
		if other, twice := owners[src.Domain]; twice || next.domains[src.Domain.name] != src.Domain {
			t.Fatalf("%s and %q have one domain:\n%s", src.Name, other, shape(next))
		}
		owners[src.Domain] = src.Name
		if src.Loaded && src.Err == nil && numberOf(next, src.Domain.name) != 1 {
			t.Fatalf("%s has no limit:\n%s", src.Name, shape(next))
		}
	}
	after := slices.Collect(next.Sources())
	for src := range s.Sources() {
		if _, there := files[src.Name]; !src.Loaded || !there {
			continue
		}
		i := slices.IndexFunc(after, func(a Source) bool { return a.Name == src.Name })
		if a := after[i]; !a.Loaded || (a.Err != nil && a.Domain != src.Domain) {
			t.Fatalf("%s had a domain, and lost it:\n%sthen\n%s", src.Name, shape(s), shape(next))
		}
	}
}
