package descriptors

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestBounds has files that would take more memory or time than any real one needs.
func TestBounds(t *testing.T) {
	var nested strings.Builder
	for depth := range MaxDepth + 1 {
		indent := strings.Repeat("  ", depth)
		fmt.Fprintf(&nested, "%sdescriptors:\n%s- key: k\n", indent, indent)
	}
	for _, c := range []struct{ name, body, want string }{
		{"bytes", "domain: d\n#" + strings.Repeat("x", MaxFile), "test.yaml: the file is larger than 16777216 bytes"},
		{"marks", "domain: d\n#" + strings.Repeat(",", maxMarks+1), "test.yaml: the file has more than 3000000 of the characters , : [ { -"},
		{"depth", "domain: d\n" + nested.String(), "test.yaml: line 131, column 131: descriptors or metadata are nested deeper than 64 levels"},
		{
			"descriptors by aliases", "domain: d\ndescriptors:\n" + bomb("- &l0 {key: a}", "- &l%d {key: k, descriptors: [%s]}"),
			"test.yaml: line 3, column 3: the file has more than 1000000 descriptors and values of metadata, counted again at each alias",
		},
		{
			"metadata by aliases", "domain: d\ndescriptors:\n- key: k\n  metadata:\n" + bomb("    l: &l0 [x]", "    l%[1]d: &l%[1]d [%[2]s]"),
			"test.yaml: line 5, column 8: the file has more than 1000000 descriptors and values of metadata, counted again at each alias",
		},
		{
			"merges by aliases", "domain: d\ndescriptors:\n- key: k\n  metadata:\n" + bomb("    l: &l0 {x: y}", "    l%[1]d: &l%[1]d {<<: [%[2]s]}"),
			"test.yaml: line 5, column 8: the file has more than 1000000 descriptors and values of metadata, counted again at each alias",
		},
		{
			"metadata of itself", "domain: d\ndescriptors:\n- {key: k, metadata: {a: &a [*a]}}",
			"test.yaml: line 3, column 26: error parsing metadata: it is nested deeper than 16 levels",
		},
		{
			"a merge of itself", "domain: d\ndescriptors:\n- &a {key: k, <<: *a}",
			"test.yaml: line 3, column 3: descriptors or metadata are nested deeper than 64 levels",
		},
		{"bytes that are no UTF-8", "domain: d\ndescriptors:\n- key: \xff\n", "test.yaml: line 3: error loading config file: yaml: bytes that are no UTF-8"},
		{"control characters", "domain: a\x01b\n", "test.yaml: error loading config file: yaml: control characters are not allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("test.yaml", []byte(c.body))
			if err == nil || err.Error() != c.want {
				t.Errorf("error %.300v\nwant %s", err, c.want)
			}
		})
	}
}

// bomb are seven lines of a format that takes a number and a list: ten times the line before. So the
// last stands for 10^7 times the first.
func bomb(first, format string) string {
	body := []string{first}
	for i := 1; i <= 7; i++ {
		list := strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*l%d, ", i-1), 10), ", ")
		body = append(body, fmt.Sprintf(format, i, list))
	}
	return strings.Join(body, "\n")
}

func TestTooManyReplaces(t *testing.T) {
	list := strings.Repeat("{name: n}, ", MaxReplaces+1)
	_, err := Parse("test.yaml", []byte("domain: d\ndescriptors:\n- {key: k, rate_limit: {unit: day, requests_per_unit: 1, replaces: ["+list+"]}}"))
	if want := "test.yaml: line 3, column 68: replaces has 1001 names, more than 1000"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// TestFaultsAreBounded has more faults than anybody reads.
func TestFaultsAreBounded(t *testing.T) {
	_, err := Parse("test.yaml", []byte("domain: d\ndescriptors:\n"+strings.Repeat("- {key: k, x: y}\n", 500)))
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != maxFaults+1 || lines[maxFaults] != "test.yaml: and 899 more" || lines[0] != "test.yaml: line 3, column 12: config error, unknown key 'x'" {
		t.Errorf("%d lines, the first %q, the last %q", len(lines), lines[0], lines[len(lines)-1])
	}
}

func TestFaultsAreErrorsOfTheirOwn(t *testing.T) {
	_, err := Parse("sub/test.yaml", []byte("domain: d\ndescriptors:\n- {key: k, x: y}\n"))
	fault, ok := errors.AsType[*FaultError](err)
	if !ok || *fault != (FaultError{Source: "sub/test.yaml", Line: 3, Column: 12, Reason: "config error, unknown key 'x'"}) {
		t.Errorf("error %#v", fault)
	}
}

func FuzzParse(f *testing.F) {
	for _, path := range []string{"testdata/good.txt", "testdata/bad.txt"} {
		for _, c := range readCases(f, path) {
			f.Add([]byte(c.body))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		d, domain, err := parse("fuzz.yaml", body)
		switch {
		case (err == nil) != (d != nil):
			t.Fatalf("domain %v and error %v", d, err)
		case err == nil:
			checkDomain(t, d, domain)
		default:
			checkFaults(t, err)
		}
	})
}

// checkDomain asks a domain for each of its own nodes.
func checkDomain(t *testing.T, d *Domain, name string) {
	t.Helper()
	if d.Name() != name || name == "" || len(d.nodes) > MaxNodes {
		t.Fatalf("domain %q is called %q, and has %d nodes", name, d.Name(), len(d.nodes))
	}
	for i := range d.nodes {
		n := &d.nodes[i]
		var entries []Entry
		exact := true // an empty value may be a pattern's, too
		for up := n; up != nil; up = up.parent {
			entries = append([]Entry{{Key: up.key, Value: up.value}}, entries...)
			exact = exact && up.value != ""
		}
		if exact && d.Match(entries) != n.rule {
			t.Fatalf("%q does not match its own node", entries)
		}
	}
}

func checkFaults(t *testing.T, err error) {
	t.Helper()
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) > maxFaults+1 {
		t.Fatalf("error %v is no list of at most %d faults", err, maxFaults)
	}
	for _, one := range joined.Unwrap() {
		if !strings.HasPrefix(one.Error(), "fuzz.yaml: ") {
			t.Errorf("fault %q does not name the file", one)
		}
	}
}
