package descriptors

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fileCase is one file of testdata: after a line `== name` its content, then, each after `-- `, the
// lines of the error.
type fileCase struct{ name, body, want string }

func readCases(tb testing.TB, path string) (cases []fileCase) {
	tb.Helper()
	all, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(all)) {
		if name, ok := strings.CutPrefix(line, "== "); ok {
			cases = append(cases, fileCase{name: strings.TrimSpace(name)})
			continue
		}
		last := &cases[len(cases)-1]
		if fault, ok := strings.CutPrefix(line, "-- "); ok {
			last.want += fault
		} else {
			last.body += line
		}
	}
	return cases
}

func TestFilesThatAreTaken(t *testing.T) {
	for _, c := range readCases(t, "testdata/good.txt") {
		t.Run(c.name, func(t *testing.T) {
			d, err := Parse("test.yaml", []byte(c.body))
			if err != nil {
				t.Fatalf("error %v, want none, of\n%s", err, c.body)
			}
			if d == nil || d.Name() == "" {
				t.Errorf("no domain of\n%s", c.body)
			}
		})
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	for _, c := range readCases(t, "testdata/bad.txt") {
		t.Run(c.name, func(t *testing.T) {
			d, err := Parse("test.yaml", []byte(c.body))
			if got := fmt.Sprintln(err); d != nil || got != c.want {
				t.Errorf("domain %v, error\n%s\nwant\n%s\nof\n%s", d, got, c.want, c.body)
			}
		})
	}
}

// TestAliasesAndMerges compiles the same with them and written out.
func TestAliasesAndMerges(t *testing.T) {
	short := mustParse(t, `
domain: d
descriptors:
- &first
  key: a
  rate_limit: &slow {unit: minute, requests_per_unit: 5, name: slow}
  metadata: &m {a: 1, deep: &deep {b: 2, c: 3}}
  descriptors: &below [{key: x, rate_limit: *slow}]
- key: b
  rate_limit:
    requests_per_unit: 6
    <<: *slow
    name: other
  descriptors: *below
  metadata: {<<: *m, a: 7}
- <<: [{value: w}, {value: v, quota_mode: true}, *first]
  metadata: {l: [*deep], deep: {b: 8, <<: [*deep, {d: 9, b: 0}]}}
`)
	long := mustParse(t, `
domain: d
descriptors:
- key: a
  rate_limit: {unit: minute, requests_per_unit: 5, name: slow}
  metadata: {a: 1, deep: {b: 2, c: 3}}
  descriptors: [{key: x, rate_limit: {unit: minute, requests_per_unit: 5, name: slow}}]
- key: b
  rate_limit: {unit: minute, requests_per_unit: 6, name: other}
  descriptors: [{key: x, rate_limit: {unit: minute, requests_per_unit: 5, name: slow}}]
  metadata: {a: 7, deep: {b: 2, c: 3}}
- key: a
  value: w
  quota_mode: true
  rate_limit: {unit: minute, requests_per_unit: 5, name: slow}
  descriptors: [{key: x, rate_limit: {unit: minute, requests_per_unit: 5, name: slow}}]
  metadata: {l: [{b: 2, c: 3}], deep: {b: 8, c: 3, d: 9}}
`)
	if diff := cmp.Diff(dump(long), dump(short)); diff != "" {
		t.Errorf("with aliases (-want +got):\n%s", diff)
	}
}

func TestMetadataValues(t *testing.T) {
	d := mustParse(t, `
domain: d
descriptors:
- key: k
  rate_limit: {unit: day, requests_per_unit: 1}
  metadata:
    text: [a, "1", 'yes', "", 2026-01-01, 1:30, <<]
    switch: [true, no, on, Off, y]
    number: [0, -7, 0x10, 017, 0b11, 1_000, 1.5, .5, 1e3, 18446744073709551615]
    none: [~, null, ]
    yes: the key is the text that stands there
    1.50: this too
`)
	want := map[string]any{
		"text":   []any{"a", "1", "yes", "", "2026-01-01", "1:30", "<<"},
		"switch": []any{true, false, true, false, true},
		"number": []any{0.0, -7.0, 16.0, 15.0, 3.0, 1000.0, 1.5, 0.5, 1000.0, 18446744073709551615.0},
		"none":   []any{nil, nil},
		"yes":    "the key is the text that stands there",
		"1.50":   "this too",
	}
	if diff := cmp.Diff(want, d.Rules()[0].Metadata); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
}

func TestTextsInFaultsAreCut(t *testing.T) {
	_, err := Parse("test.yaml", []byte("domain: d\n"+strings.Repeat("é", 100)+": 1\n"))
	if want := "test.yaml: line 2, column 1: config error, unknown key '" + strings.Repeat("é", 32) + "…'"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
